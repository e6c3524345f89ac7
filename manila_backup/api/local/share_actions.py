# SPDX-License-Identifier: Apache-2.0
"""``POST /shares/{id}/action``."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from manila_backup.api.local import responses, schemas
from manila_backup.api.local.access import view as access_view
from manila_backup.api.local.service import LocalShares
from manila_backup.api.local.shares import remove_share
from manila_backup.api.request import ApiRequest
from manila_backup.api.route import Action, Route, RouteTable
from manila_backup.exception import Invalid, InvalidShare, ShareBusy
from manila_backup.policies import shares as policies
from manila_backup.share.local.access import with_tenant_rule, without_tenant_rule
from manila_backup.share.local.changes import refuse_task, resized
from manila_backup.share.local.records import LocalAccessRule, LocalShare, ShareMark
from manila_backup.types import AccessLevel


class ShareActions:
    """Handlers; the routes are bound methods of one instance."""

    def __init__(self, local: LocalShares) -> None:
        self._local = local

    def force_delete(self, request: ApiRequest, share_id: str) -> None:
        share = self._local.own(request, share_id, policies.FORCE_DELETE)
        remove_share(self._local, share, force=True)

    def soft_delete(self, request: ApiRequest, share_id: str) -> None:
        self._local.own(request, share_id, policies.SOFT_DELETE)
        raise Invalid(reason="Shares of this machine have no recycle bin; delete the share.")

    def extend(self, request: ApiRequest, share_id: str) -> None:
        self._resize(request, share_id, policies.EXTEND, "larger", int.__gt__)

    def shrink(self, request: ApiRequest, share_id: str) -> None:
        self._resize(request, share_id, policies.SHRINK, "smaller", int.__lt__)

    def _resize(
        self,
        request: ApiRequest,
        share_id: str,
        policy: str,
        word: str,
        is_so: Callable[[int, int], bool],
    ) -> None:
        """The size is a figure for backups and quotas; a directory has no limit of its own."""
        self.refuse_held(self._local.own(request, share_id, policy))
        new_size_gib = int(request.body["new_size"])

        def change(share: LocalShare) -> LocalShare:
            after = resized(share, new_size_gib)
            if not is_so(new_size_gib, share.size_gib):
                reason = f"The new size must be {word} than the current size of {share.size_gib}."
                raise Invalid(reason=reason)
            return after

        try:
            self._local.store.update(share_id, change)
        except ShareBusy as exc:
            raise Invalid(reason=str(exc)) from exc

    def refuse_held(self, share: LocalShare) -> None:
        """:raises InvalidShare: an operation is queued or running, even if it has no mark yet."""
        status = self._local.statuses([share])[share.id]
        if status != "available":
            raise InvalidShare(reason=f"its status is {status}, it must be available.")

    def revert(self, request: ApiRequest, share_id: str) -> None:
        """Never done; but a busy share is refused as Manila refuses it (409)."""
        share = self._local.own(request, share_id, policies.REVERT)
        status = self._local.statuses([share])[share.id]
        if status != "available":
            raise ShareBusy(share_id=share_id, reason=f"its status is {status}.")
        refuse_task(share)
        raise Invalid(reason="Shares of this machine cannot be reverted to a snapshot.")

    def reset_status(self, request: ApiRequest, share_id: str) -> None:
        """``available`` also forgets a failed restore, and a mark whose operation nobody knows:
        the database was lost. The mark is read before the database is asked: a mark is never older
        than the row of its operation.
        """
        share = self._local.own(request, share_id, policies.RESET_STATUS)
        status = request.body["status"]
        orphan: ShareMark | None = None
        if status == "available":
            self._local.forget_failed_restore(share_id)
            orphan = share.mark if share_id not in self._local.busy([share_id]) else None

        def change(current: LocalShare) -> LocalShare:
            if current.removing:
                raise InvalidShare(reason="it is being removed.")
            mark = None if current.mark == orphan else current.mark
            return replace(current, status=status, mark=mark)

        self._local.store.update(share_id, change)

    def reset_task_state(self, request: ApiRequest, share_id: str) -> None:
        self._local.own(request, share_id, policies.RESET_TASK_STATE)
        task_state = request.body["task_state"]
        self._local.store.update(share_id, lambda share: replace(share, task_state=task_state))

    def allow_access(self, request: ApiRequest, share_id: str) -> dict[str, Any]:
        share = self._local.own(request, share_id, policies.ACCESS_ALLOW)
        wanted = request.body
        _check_access_to(wanted["access_type"], wanted["access_to"])
        rule = LocalAccessRule(
            id=str(uuid.uuid4()),
            access_type=wanted["access_type"],
            access_to=wanted["access_to"],
            access_level=AccessLevel(wanted.get("access_level") or "rw"),
            created_at=self._local.store.now(),
            metadata=dict(wanted.get("metadata") or {}),
        )
        self._local.store.update(share_id, lambda old: with_tenant_rule(old, rule), touch=False)
        return {"access": access_view(share, rule)}

    def deny_access(self, request: ApiRequest, share_id: str) -> None:
        self._local.own(request, share_id, policies.ACCESS_DENY)
        access_id = request.body["access_id"]
        self._local.store.update(
            share_id, lambda share: without_tenant_rule(share, access_id), touch=False
        )

    def routes(self) -> RouteTable:
        return (
            Route(
                method="POST",
                path="/shares/<id:share_id>/action",
                actions=(
                    *self._sizes(),
                    *self._ends(),
                    *self._refused(),
                    *self._access(),
                    *self._resets(),
                ),
                summary="Do something with a share",
            ),
        )

    def _sizes(self) -> tuple[Action, ...]:
        return (
            Action(
                name="extend",
                handler=self.extend,
                policy=policies.EXTEND,
                value_schema=schemas.EXTEND,
                summary="Make a share larger",
            ),
            Action(
                name="shrink",
                handler=self.shrink,
                policy=policies.SHRINK,
                value_schema=schemas.SHRINK,
                summary="Make a share smaller",
            ),
        )

    def _ends(self) -> tuple[Action, ...]:
        return (
            Action(
                name="force_delete",
                handler=self.force_delete,
                policy=policies.FORCE_DELETE,
                value_schema=schemas.NOTHING,
                summary="Delete a share whatever its status",
            ),
        )

    def _refused(self) -> tuple[Action, ...]:
        return (
            Action(
                name="soft_delete",
                handler=self.soft_delete,
                policy=policies.SOFT_DELETE,
                value_schema=schemas.NOTHING,
                summary="Refused: there is no recycle bin",
            ),
            Action(
                name="restore",
                handler=self.soft_delete,
                policy=policies.SOFT_DELETE,
                value_schema=schemas.NOTHING,
                summary="Refused: there is no recycle bin",
            ),
            Action(
                name="revert",
                handler=self.revert,
                policy=policies.REVERT,
                value_schema=schemas.REVERT,
                summary="Refused: local shares cannot be reverted",
            ),
        )

    def _access(self) -> tuple[Action, ...]:
        return (
            Action(
                name="allow_access",
                handler=self.allow_access,
                policy=policies.ACCESS_ALLOW,
                value_schema=schemas.ALLOW_ACCESS,
                status=200,
                response_schema=responses.ACCESS_RESPONSE,
                summary="Give access",
            ),
            Action(
                name="deny_access",
                handler=self.deny_access,
                policy=policies.ACCESS_DENY,
                value_schema=schemas.DENY_ACCESS,
                summary="Take access away",
            ),
        )

    def _resets(self) -> tuple[Action, ...]:
        return (
            Action(
                name="reset_status",
                handler=self.reset_status,
                policy=policies.RESET_STATUS,
                value_schema=schemas.RESET_SHARE,
                summary="Set the status of a share by hand",
            ),
            Action(
                name="reset_task_state",
                handler=self.reset_task_state,
                policy=policies.RESET_TASK_STATE,
                value_schema=schemas.RESET_TASK_STATE,
                summary="Set the task state of a share by hand",
            ),
        )


def _check_access_to(access_type: str, access_to: str) -> None:
    if access_type == "ip":
        try:
            network = ipaddress.ip_network(access_to)
        except ValueError:
            raise Invalid(reason="access_to must be an IP address or network.") from None
        # An interface's name behind an address could hold anything, and means nothing elsewhere.
        if "%" in str(network):
            raise Invalid(reason="access_to must be an address without an interface.")
    elif not access_to.isprintable():
        raise Invalid(reason="access_to must be printable.")
