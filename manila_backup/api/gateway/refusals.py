# SPDX-License-Identifier: Apache-2.0
"""What would take a share away from under an operation: refused while the operation is queued or
running, with the status that Manila itself gives for a share in ``backup_creating``.

Manila refuses the same by itself once the operation has set its mark; until then only we know.
Only shares that the caller may see are refused, so that a stranger learns nothing from us: for
those Manila is asked with the caller's headers, and what it does not show him is passed on for it
to refuse.

:data:`SHARE_ACTIONS` and the table in :func:`_threat` are all there is. The body is read for that
(up to ``max_request_body_size_bytes``, beyond it is 413) and passed on byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlencode

from oslo_db import exception as db_exc
from oslo_log import log as logging
from sqlalchemy.exc import SQLAlchemyError

from manila_backup.api.errors import HttpError
from manila_backup.api.gateway.busy import BusyShares
from manila_backup.api.gateway.ids import is_plain
from manila_backup.api.gateway.relay import Relay
from manila_backup.api.gateway.request import GatewayRequest
from manila_backup.api.versions import Version
from manila_backup.states import ShareStatus

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

LOG = logging.getLogger(__name__)

SHARE_ACTIONS = {
    "extend": 400,
    "force_delete": 400,
    "migrate_share": 400,
    "migration_start": 400,
    "revert": 409,
    "shrink": 400,
    "soft_delete": 403,
    "unmanage": 403,
}
"""Keys of the body of ``POST /shares/{id}/action`` -> status. Up to version 2.6 of Manila's API
they began with ``os-``; which name goes with which version is for Manila to say."""

_RESET = ("reset_status", "os-reset_status")

Kind = Literal["share", "instance", "transfer", "group"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Threat:
    """``id`` is of a share or of something that leads to shares; ``status`` of the refusal."""

    kind: Kind
    id: str
    status: int
    action: str


class Refusals:
    def __init__(self, relay: Relay, busy: BusyShares) -> None:
        self._relay = relay
        self._busy = busy

    def check(self, request: GatewayRequest, manila_max: Version | None) -> None:
        """:raises HttpError: 400, 403 or 409: refused. 413: the body is too long to be looked at.
        :raises UpstreamError:
        """
        threat = _threat(request)
        if threat is None:
            return
        held = self._busy.held()
        if not held or (threat.kind == "share" and is_plain(threat.id) and threat.id not in held):
            return
        for share_id in self._shares(request, manila_max, threat):
            if share_id in held:
                LOG.info("Share %s is busy and cannot %s", share_id, threat.action)
                raise HttpError(
                    threat.status,
                    "share_busy",
                    f"Share {share_id} is busy: a backup of it is being made, or one is being "
                    f"restored to it. It cannot {threat.action} meanwhile.",
                )

    def _shares(
        self, request: GatewayRequest, manila_max: Version | None, threat: _Threat
    ) -> Iterable[str]:
        """Ids, as Manila writes them, of the shares concerned that the caller may see."""
        name = quote(threat.id, safe="", errors="surrogateescape")

        def ask(below: str) -> Any:
            line = request.target.prefix + below
            fetched = self._relay.fetch(request, manila_max, line=line)
            return fetched.json() if fetched.ok else None

        match threat.kind:
            case "share":
                return _texts(ask(f"/shares/{name}"), "share", "id")
            case "instance":
                collection = request.target.below[0]
                return _texts(ask(f"/{collection}/{name}"), "share_instance", "share_id")
            case "transfer":
                return _texts(ask(f"/share-transfers/{name}"), "transfer", "resource_id")
            case "group":
                members = ask("/shares?" + urlencode({"share_group_id": threat.id}))
                rows = members.get("shares") if isinstance(members, dict) else None
                rows = rows if isinstance(rows, list) else []
                return [str(row.get("id")) for row in rows if isinstance(row, dict)]

    def reset_answer(
        self, request: GatewayRequest, manila_max: Version | None
    ) -> WSGIApplication | None:
        """An administrator's ``share set --status available`` also ends backup_restoring_error.

        Manila decides who may, and is asked first. None: the request is none of these.
        :raises HttpError: 503, our database went away after Manila has set the status.
        """
        match request.target.below:
            case ("shares", share_id, "action") if request.method == "POST":
                pass
            case _:
                return None
        failed = {
            key
            for key, status in self._busy.statuses().items()
            if status is ShareStatus.BACKUP_RESTORING_ERROR
        }
        if not failed or not _sets_available(request):
            return None
        found = share_id
        if not is_plain(share_id):
            threat = _Threat(kind="share", id=share_id, status=400, action="reset")
            found = next(iter(self._shares(request, manila_max, threat)), "")
        if found not in failed:
            return None
        data = request.body.buffered(request.body_limit_bytes)
        fetched = self._relay.fetch(request, manila_max, method="POST", body=data)
        if fetched.ok:
            self._reset(found)
            LOG.info("Share %s: an administrator has ended backup_restoring_error", found)
        return fetched

    def _reset(self, share_id: str) -> None:
        try:
            self._busy.reset(share_id)
        except (db_exc.DBError, SQLAlchemyError) as error:
            raise HttpError(
                503,
                "half_done",
                "Manila has set the status, but backup_restoring_error has not been ended: the "
                "database of the service is not available; please try again later.",
            ) from error


def _texts(body: Any, noun: str, key: str) -> list[str]:
    inner = body.get(noun) if isinstance(body, dict) else None
    value = inner.get(key) if isinstance(inner, dict) else None
    return [value] if isinstance(value, str) else []


def _sets_available(request: GatewayRequest) -> bool:
    body = request.json()
    if not isinstance(body, dict):
        return False
    values = [body.get(name) for name in _RESET]
    return any(isinstance(value, dict) and value.get("status") == "available" for value in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """The body of a POST names, as ``{noun: {key: id}}``, what is to be used."""

    kind: Kind
    noun: str
    key: str
    status: int
    action: str


_CREATIONS = {
    "snapshots": _Named(
        kind="share", noun="snapshot", key="share_id", status=400, action="have a snapshot taken"
    ),
    "share-transfers": _Named(
        kind="share", noun="transfer", key="share_id", status=400, action="be transferred"
    ),
    "share-group-snapshots": _Named(
        kind="group",
        noun="share_group_snapshot",
        key="share_group_id",
        status=409,
        action="have a snapshot of its group taken",
    ),
}


def _threat(request: GatewayRequest) -> _Threat | None:
    """What the request would do to a share, or to something with shares in it."""
    match request.method, request.target.below:
        case "DELETE", ("shares", found):
            return _Threat(kind="share", id=found, status=403, action="be deleted")
        case "POST", (("shares" | "share-instances" | "share_instances"), _, "action"):
            return _action(request)
        case "POST", ("os-share-unmanage", found, "unmanage"):
            return _Threat(kind="share", id=found, status=403, action="be unmanaged")
        case "POST", ("share-transfers", found, "accept"):
            return _Threat(kind="transfer", id=found, status=400, action="be transferred")
        case "POST", (noun,) if noun in _CREATIONS:
            return _creation(request, _CREATIONS[noun])
    return None


def _action(request: GatewayRequest) -> _Threat | None:
    noun, found, _ = request.target.below
    kind: Kind = "share" if noun == "shares" else "instance"
    actions = SHARE_ACTIONS if kind == "share" else {"force_delete": 400}
    body = request.json()
    for key in body if isinstance(body, dict) else ():
        name = str(key).removeprefix("os-")
        if name in actions:
            text = f"take the action {name}"
            return _Threat(kind=kind, id=found, status=actions[name], action=text)
    return None


def _creation(request: GatewayRequest, named: _Named) -> _Threat | None:
    found = _texts(request.json(), named.noun, named.key)
    if not found:
        return None
    return _Threat(kind=named.kind, id=found[0], status=named.status, action=named.action)
