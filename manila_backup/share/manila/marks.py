# SPDX-License-Identifier: Apache-2.0
"""Holding shares busy: a resource lock that says whose mark it is, and a task state that refuses.

The lock against deletion comes first and goes last. It carries the operation's id, so after a crash
at any point the mark is found by it, and who has a lock alone has won against all others who try.
Under it the task state ``data_copying_completed`` makes Manila refuse what would change the share
while access rules go on working; of the busy states it is the one that a restart of manila-data
leaves alone.

Manila without resource locks (before 2.81) knows nothing that tenants could not change and that
would say whose mark it is. There the task state is the whole mark: on a share that is ``available``
no task of Manila's own leaves this one. Which operation it belongs to is only in our database.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from manilaclient import exceptions
from manilaclient.v2.client import Client
from oslo_log import log

from manila_backup.exception import ShareBusy, ShareNotFound
from manila_backup.share.manila.client import LOCKS, ManilaApi

LOG = log.getLogger(__name__)

TASK_STATE = "data_copying_completed"

IDLE_TASK_STATES = frozenset(
    {
        None,
        "data_copying_cancelled",
        "data_copying_error",
        "migration_cancelled",
        "migration_error",
        "migration_success",
    }
)
"""Those in which nothing is being done; the last five tell how a task has ended, and are put back
afterwards."""

ATTEMPTS = 5
CONTEST_S = 10.0
LOOK_EVERY_S = 0.2

_REASON = re.compile(r"manila_backup operation (?P<operation>\S+)(?: after (?P<before>\w+))?")


def _reason(operation_id: str, before: str | None) -> str:
    return f"manila_backup operation {operation_id}" + (f" after {before}" if before else "")


class Marks:
    """Idempotent, and safe against others who mark the same share at the same time."""

    def __init__(self, api: ManilaApi, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._api = api
        self._sleep = sleep

    def mark(self, share_id: str, operation_id: str) -> None:
        """:raises ShareBusy: another holds it.
        :raises ShareNotFound: it is gone.
        """
        client = self._api.as_service()
        share = _get(client, share_id)
        if not self._api.has(LOCKS):
            self._set(client, share, idle=IDLE_TASK_STATES | {TASK_STATE})
            return
        own = [lock for lock in self._locks(client, share_id) if _operation(lock) == operation_id]
        if own:
            self._win(client, share_id, operation_id)
            self._set(client, share, idle=IDLE_TASK_STATES | {TASK_STATE})
            return
        _refuse(share, IDLE_TASK_STATES)
        with self._locked(client, share, operation_id):
            self._win(client, share_id, operation_id)
            # What came between our first look and the lock is not ours.
            share = _get(client, share_id)
            _refuse(share, IDLE_TASK_STATES)
            self._set(client, share, idle=IDLE_TASK_STATES)

    def unmark(self, share_id: str, operation_id: str) -> None:
        """Idempotent; another's mark is left alone. A share that is gone has none."""
        client = self._api.as_service()
        if not self._api.has(LOCKS):
            self._reset(client, share_id, None)
            return
        own = [lock for lock in self._locks(client, share_id) if _operation(lock) == operation_id]
        if not own:
            return
        # In this order: whoever is killed in between leaves a lock, by which the next one knows.
        self._reset(client, share_id, _before(own[-1]))
        for lock in own:
            _delete(client, lock)

    # --- the lock ---------------------------------------------------------------------------------

    @contextmanager
    def _locked(self, client: Client, share: Any, operation_id: str) -> Iterator[None]:
        """Made before the block, and taken back when it fails."""
        reason = _reason(operation_id, share.task_state)
        try:
            client.resource_locks.create(share.id, "share", "delete", reason)
        except exceptions.BadRequest as exc:  # "No such resource found."
            _get(client, share.id)
            raise ShareBusy(share_id=share.id, reason=str(exc)) from exc
        except exceptions.Conflict as exc:
            raise ShareBusy(share_id=share.id, reason=str(exc)) from exc
        try:
            yield
        except BaseException:
            for lock in self._locks(client, share.id):
                if _operation(lock) == operation_id:
                    _delete(client, lock)
            raise

    def _locks(self, client: Client, share_id: str) -> list[Any]:
        """Marks of this service user on the share, oldest first."""
        user_id = self._api.user_id()
        found = client.resource_locks.list(
            search_opts={"resource_id": share_id, "resource_type": "share", "user_id": user_id}
        )
        marks = [lock for lock in found if _operation(lock) is not None]
        return sorted(marks, key=lambda lock: (lock.created_at, lock.id))

    def _win(self, client: Client, share_id: str, operation_id: str) -> None:
        """Return when ours is the only mark. Of several that came at once the oldest waits for the
        others, who give way; one that does not give way had won before.

        :raises ShareBusy:
        """
        until_s = time.monotonic() + CONTEST_S
        while True:
            operations = [_operation(lock) for lock in self._locks(client, share_id)]
            rivals = [other for other in operations if other != operation_id]
            if not rivals:
                return
            if operations[0] != operation_id or time.monotonic() > until_s:
                raise ShareBusy(share_id=share_id, reason=f"operation {rivals[0]} holds it")
            self._sleep(LOOK_EVERY_S)

    # --- the task state ---------------------------------------------------------------------------

    def _set(self, client: Client, share: Any, *, idle: frozenset[str | None]) -> None:
        """Set, read back, and set again if a task of Manila's that ended just now was later.

        :raises ShareBusy: a task of Manila's has it.
        """
        for _ in range(ATTEMPTS):
            _refuse(share, idle)
            if share.task_state == TASK_STATE:
                return
            client.shares.reset_task_state(share.id, TASK_STATE)
            idle |= {TASK_STATE}
            share = _get(client, share.id)
        reason = f"its task state does not stay; it is {share.task_state}"
        raise ShareBusy(share_id=share.id, reason=reason)

    def _reset(self, client: Client, share_id: str, before: str | None) -> None:
        try:
            share = _get(client, share_id)
            # While Manila migrates a share this task state is a step of its own.
            if share.task_state == TASK_STATE and not share.status.startswith("migrating"):
                client.shares.reset_task_state(share_id, before)
        except (ShareNotFound, exceptions.NotFound):
            return


def _get(client: Client, share_id: str) -> Any:
    try:
        return client.shares.get(share_id)
    except exceptions.NotFound as exc:
        raise ShareNotFound(share_id=share_id) from exc


def _refuse(share: Any, idle: frozenset[str | None]) -> None:
    if getattr(share, "is_soft_deleted", False):
        raise ShareBusy(share_id=share.id, reason="it was soft-deleted")
    if share.status != "available":
        raise ShareBusy(share_id=share.id, reason=f"its status is {share.status}")
    if share.task_state not in idle:
        raise ShareBusy(share_id=share.id, reason=f"its task state is {share.task_state}")


def _operation(lock: Any) -> str | None:
    found = _REASON.fullmatch(lock.lock_reason or "")
    return found["operation"] if found else None


def _before(lock: Any) -> str | None:
    found = _REASON.fullmatch(lock.lock_reason or "")
    return found["before"] if found else None


def _delete(client: Client, lock: Any) -> None:
    try:
        client.resource_locks.delete(lock.id)
    except exceptions.NotFound:
        LOG.debug("Lock %s is gone already", lock.id)
