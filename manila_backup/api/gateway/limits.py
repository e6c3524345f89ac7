# SPDX-License-Identifier: Apache-2.0
"""``GET /limits``: Manila's, with the four figures that are ours instead of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manila_backup.api.gateway.own import OwnApi
from manila_backup.api.gateway.relay import Relay
from manila_backup.api.gateway.request import GatewayRequest
from manila_backup.api.versions import BACKUPS, Version

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


class Limits:
    def __init__(self, relay: Relay, own: OwnApi) -> None:
        self._relay = relay
        self._own = own

    def answer(self, request: GatewayRequest, manila_max: Version | None) -> WSGIApplication | None:
        """None: to be passed on as it is. Without our figures (database away, no project) Manila's
        answer stands."""
        if (
            request.method != "GET"
            or request.target.below != ("limits",)
            or request.version < BACKUPS
        ):
            return None
        fetched = self._relay.fetch(request, manila_max)
        body = fetched.json() if fetched.ok else None
        inner = body.get("limits") if isinstance(body, dict) else None
        absolute = inner.get("absolute") if isinstance(inner, dict) else None
        if not isinstance(absolute, dict):
            return fetched
        ours = self._own.ask(request, "GET", f"{request.target.prefix}/limits")
        if ours.status_code != 200 or ours.json is None:
            return fetched
        absolute.update(ours.json["limits"]["absolute"])
        return fetched.with_json(body)
