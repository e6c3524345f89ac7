# SPDX-License-Identifier: Apache-2.0
"""``/quota-sets`` from 2.80 on: Manila's, with ``backups`` and ``backup_gigabytes`` from us.

From then on Manila has figures of these names of its own, which count nothing here: they are
replaced in what is shown and removed from what is set. Before 2.80 the names do not exist, and with
``user_id`` or ``share_type`` they do not either: our quotas are of projects. Then requests are
passed on, but for a PUT that names ours nevertheless (400).

What is set is split. First ours is checked without being set, then Manila's part is set, then ours.
A refusal by either side leaves both as they were; only a database that goes away in between leaves
Manila's part set, and the answer says so.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from oslo_utils import strutils
from werkzeug import Response

from manila_backup.api.errors import HttpError
from manila_backup.api.gateway.own import OwnApi
from manila_backup.api.gateway.relay import Fetched, Relay
from manila_backup.api.gateway.request import GatewayRequest
from manila_backup.api.versions import BACKUPS, Version
from manila_backup.quota.ledger import RESOURCES

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_PARTS = ("user_id", "share_type")
_NO_QUOTAS = frozenset({"force", "tenant_id"})
"""Keys that both sides get."""

_VIEWS: tuple[tuple[str, ...], ...] = ((), ("detail",), ("defaults",))


class QuotaSets:
    def __init__(self, relay: Relay, own: OwnApi) -> None:
        self._relay = relay
        self._own = own

    def answer(self, request: GatewayRequest, manila_max: Version | None) -> WSGIApplication | None:
        """None: to be passed on as it is."""
        below = request.target.below
        if below[0] != "quota-sets" or len(below) < 2 or request.version < BACKUPS:
            return None
        partial = any(request.query.get(name) for name in _PARTS)
        match request.method:
            case "GET" if below[2:] in _VIEWS and not partial:
                return self._show(request, manila_max)
            case "PUT" if len(below) == 2:
                return self._update(request, manila_max)
            case "DELETE" if len(below) == 2 and not partial:
                return self._delete(request, manila_max)
        return None

    def _path(self, request: GatewayRequest, *more: str) -> str:
        parts = [quote(part, safe="") for part in (*request.target.below[:2], *more)]
        return "/".join([request.target.prefix, *parts])

    def _show(self, request: GatewayRequest, manila_max: Version | None) -> WSGIApplication:
        fetched = self._relay.fetch(request, manila_max)
        ours = self._own.ask(request, "GET", self._path(request, *request.target.below[2:]))
        return _merged(fetched, ours)

    def _update(
        self, request: GatewayRequest, manila_max: Version | None
    ) -> WSGIApplication | None:
        body = request.json()
        wanted = body.get("quota_set") if isinstance(body, dict) else None
        if not isinstance(wanted, dict):
            return None
        named = {name: wanted[name] for name in RESOURCES if wanted.get(name) is not None}
        if not named:
            data = request.body.buffered(request.body_limit_bytes)
            fetched = self._relay.fetch(request, manila_max, method="PUT", body=data)
            if not fetched.ok or any(request.query.get(name) for name in _PARTS):
                return fetched
            return _merged(fetched, self._own.ask(request, "GET", self._path(request)))
        rest = {name: value for name, value in wanted.items() if name not in RESOURCES}
        if set(rest) <= _NO_QUOTAS:
            return self._set_ours(request, manila_max, _our_part(named, wanted))
        return self._set_both(
            request, manila_max, _our_part(named, wanted), body | {"quota_set": rest}
        )

    def _set_ours(
        self, request: GatewayRequest, manila_max: Version | None, part: dict[str, Any]
    ) -> WSGIApplication:
        ours = self._put_own(request, part)
        if ours.status_code != 200:
            return ours
        fetched = self._relay.fetch(request, manila_max, line=self._path(request))
        # If Manila has nothing to show beside it, what was asked for is done nevertheless.
        return _merged(_without_id(fetched), ours) if fetched.ok else ours

    def _set_both(
        self,
        request: GatewayRequest,
        manila_max: Version | None,
        part: dict[str, Any],
        theirs: dict[str, Any],
    ) -> WSGIApplication:
        checked = self._put_own(request, part, dry_run=True)
        if checked.status_code != 200:
            return checked
        data = json.dumps(theirs).encode()
        fetched = self._relay.fetch(request, manila_max, method="PUT", body=data)
        if not fetched.ok:
            return fetched
        ours = self._put_own(request, part)
        return _merged(fetched, ours) if ours.status_code == 200 else _half(ours, "set")

    def _put_own(
        self, request: GatewayRequest, part: dict[str, Any], *, dry_run: bool = False
    ) -> Response:
        return self._own.ask(
            request,
            "PUT",
            self._path(request),
            query=request.target.query,
            body={"quota_set": part},
            dry_run=dry_run,
        )

    def _delete(self, request: GatewayRequest, manila_max: Version | None) -> WSGIApplication:
        checked = self._own.ask(request, "DELETE", self._path(request), dry_run=True)
        if checked.status_code >= 400:
            return checked
        fetched = self._relay.fetch(request, manila_max, method="DELETE")
        if not fetched.ok:
            return fetched
        ours = self._own.ask(request, "DELETE", self._path(request))
        return fetched if ours.status_code < 400 else _half(ours, "reset")


def _our_part(named: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Manila takes numbers and truth values as text too."""
    part: dict[str, Any] = {}
    for name, value in named.items():
        try:
            part[name] = int(value) if isinstance(value, str) else value
        except ValueError:
            part[name] = value
    if "force" in wanted:
        part["force"] = strutils.bool_from_string(wanted["force"])
    return part


def _merged(fetched: Fetched, ours: Response) -> Fetched:
    """Without our figures (database away, not allowed) Manila's answer stands."""
    body = fetched.json() if fetched.ok else None
    shown = body.get("quota_set") if isinstance(body, dict) else None
    if not isinstance(shown, dict) or ours.status_code != 200 or ours.json is None:
        return fetched
    shown.update({name: ours.json["quota_set"][name] for name in RESOURCES})
    return fetched.with_json(body)


def _without_id(fetched: Fetched) -> Fetched:
    """A GET names the project, the answer to a PUT does not."""
    body = fetched.json()
    shown = body.get("quota_set") if isinstance(body, dict) else None
    if not isinstance(shown, dict):
        return fetched
    shown.pop("id", None)
    return fetched.with_json(body)


def _half(ours: Response, done: str) -> Response:
    """:raises HttpError: always: what was done and what was not."""
    body = ours.json
    inner: Any = next(iter(body.values()), {}) if isinstance(body, dict) else {}
    raise HttpError(
        ours.status_code,
        "half_done",
        f"The quotas of Manila have been {done}, those of backups have not: "
        f"{inner.get('message', 'no reason is known.')}",
    )
