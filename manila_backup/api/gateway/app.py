# SPDX-License-Identifier: Apache-2.0
"""The WSGI application of the gateway: which of the four kinds a request is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from oslo_log import log as logging
from werkzeug import Response

from manila_backup.api.errors import HttpError, error_response, status_and_code
from manila_backup.api.gateway import discovery, versions
from manila_backup.api.gateway import request as requests
from manila_backup.api.gateway.busy import BusyShares
from manila_backup.api.gateway.discovery import ManilaMaximum
from manila_backup.api.gateway.limits import Limits
from manila_backup.api.gateway.messages import Messages
from manila_backup.api.gateway.options import GatewaySettings
from manila_backup.api.gateway.own import OwnApi
from manila_backup.api.gateway.quota_sets import QuotaSets
from manila_backup.api.gateway.refusals import Refusals
from manila_backup.api.gateway.relay import Relay
from manila_backup.api.gateway.request import ClientGone, GatewayRequest, RequestBody
from manila_backup.api.gateway.shares import Shares
from manila_backup.api.gateway.upstream import Upstream, UpstreamError
from manila_backup.api.versions import MAX_VERSION, STANDARD_HEADER, VERSION_HEADER, Version, text
from manila_backup.context import RequestContext

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from manila_backup.db.engine import Database

LOG = logging.getLogger(__name__)

OWN_PATHS = frozenset({"/healthcheck", "/metrics", "/v2/openapi.json"})


class Gateway:
    """Shared by all threads of the server.

    :param own: our whole API, with its middlewares.
    :param body_limit_bytes: of bodies that have to be looked at.
    :param trust_forwarded: see :func:`manila_backup.api.gateway.headers.of_request`.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        own: WSGIApplication,
        database: Database,
        *,
        body_limit_bytes: int,
        trust_forwarded: bool,
    ) -> None:
        self._own = own
        self._body_limit_bytes = body_limit_bytes
        self._upstream = Upstream(settings)
        self._maximum = ManilaMaximum(self._upstream)
        host = None if settings.preserve_host else self._upstream.host
        self._relay = Relay(self._upstream, host, trust_forwarded=trust_forwarded)
        busy = BusyShares(database)
        own_api = OwnApi(own)
        self._refusals = Refusals(self._relay, busy)
        self._shares = Shares(self._relay, busy)
        self._overlays = {
            "limits": Limits(self._relay, own_api).answer,
            "messages": Messages(self._relay, own_api).answer,
            "quota-sets": QuotaSets(self._relay, own_api).answer,
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = None
        # In the thread's log lines from here on, instead of the request that it served before.
        context = RequestContext()
        try:
            body = RequestBody(environ)
            request = requests.read(environ, body, self._body_limit_bytes)
            if _is_ours(request):
                return self._answer_own(request, start_response)
            answer = self._answer(request)
            body.drain()
        except ClientGone:
            # Nobody reads this; the connection is of no more use.
            answer = Response(status=400, headers={"Connection": "close"})
        except Exception as error:  # noqa: BLE001 - the boundary of a request
            answer = _refusal(context.request_id, error)
            with contextlib.suppress(ClientGone):
                requests.drain(environ) if body is None else body.drain()
        return answer(environ, start_response)

    def close(self) -> None:
        """Close the connections to Manila that are idle; others are when their answers end."""
        self._upstream.close()

    def _answer(self, request: GatewayRequest) -> WSGIApplication:
        found = discovery.answer(request, self._relay)
        if found is not None:
            return found
        manila_max = self._maximum.for_version(request.version)
        self._refusals.check(request, manila_max)
        found = self._overlaid(request, manila_max)
        return found or self._relay.passed_on(request, manila_max)

    def _overlaid(
        self, request: GatewayRequest, manila_max: Version | None
    ) -> WSGIApplication | None:
        if not request.target.below:
            return None
        noun = request.target.below[0]
        if noun == "shares":
            return self._shares.answer(request, manila_max) or self._refusals.reset_answer(
                request, manila_max
            )
        overlay = self._overlays.get(noun)
        return None if overlay is None else overlay(request, manila_max)

    def _answer_own(
        self, request: GatewayRequest, start_response: StartResponse
    ) -> Iterable[bytes]:
        environ = request.environ
        beyond = self._beyond(request)
        if beyond is None:
            return self._own(environ, start_response)
        answer = Response.from_app(
            self._own, versions.with_version(environ, MAX_VERSION), buffered=True
        )
        answer.headers[VERSION_HEADER] = text(beyond)
        answer.headers[STANDARD_HEADER] = f"shared-file-system {text(beyond)}"
        return answer(environ, start_response)

    def _beyond(self, request: GatewayRequest) -> Version | None:
        """The version asked for, if only Manila knows it."""
        if request.version <= MAX_VERSION:
            return None
        try:
            return versions.for_own(request.environ, self._maximum.for_version(request.version))
        except UpstreamError:
            return None


def _is_ours(request: GatewayRequest) -> bool:
    return request.target.below[:1] == ("share-backups",) or request.target.path in OWN_PATHS


def _refusal(request_id: str, error: Exception) -> Response:
    status, code = status_and_code(error)
    if code == "internal":
        LOG.exception("Request %s failed unexpectedly", request_id)
    elif status >= 500 and not isinstance(error, HttpError):
        LOG.warning("Request %s refused (%s): %s", request_id, code, error)
    response = error_response(error, request_id)
    response.headers["X-Openstack-Request-Id"] = request_id
    return response
