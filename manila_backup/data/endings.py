# SPDX-License-Identifier: Apache-2.0
"""How an operation ends: everything that changes with it, in the caller's one transaction.

Shared by whoever may end an operation: the job that did the work, the node that cleans up after a
dead one, and the API when it cancels what nobody has claimed yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from oslo_log import log
from sqlalchemy.orm import Session

from manila_backup import exception
from manila_backup.db import backups, busy_shares, messages, operations
from manila_backup.db.operations import Operation
from manila_backup.quota import ledger
from manila_backup.states import (
    BackupEvent,
    OperationEvent,
    OperationKind,
    OperationStatus,
    ShareEvent,
)
from manila_backup.types import Counters, StoredBackup

LOG = log.getLogger(__name__)

_BACKUP_EVENTS = {
    (OperationKind.CREATE, True): BackupEvent.CREATED,
    (OperationKind.CREATE, False): BackupEvent.CREATE_FAILED,
    (OperationKind.RESTORE, True): BackupEvent.RESTORED,
    (OperationKind.RESTORE, False): BackupEvent.RESTORE_FAILED,
    (OperationKind.DELETE, True): BackupEvent.DELETED,
    (OperationKind.DELETE, False): BackupEvent.DELETE_FAILED,
}

ACTION_IDS = {
    OperationKind.CREATE: ("101", "create"),
    OperationKind.RESTORE: ("102", "restore"),
    OperationKind.DELETE: ("103", "delete"),
}
"""Kind -> action id and verb of user messages. Above 100, so that Manila's own never clash."""

DETAIL_FAILED = "101"
DETAIL_CANCELLED = "102"
DETAIL_INCOMPLETE = "103"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an operation. ``event`` is FINISH, FAIL or CANCEL; ``stored`` belongs to a
    finished create; ``notice`` tells the tenant of a finished operation that lost something.
    """

    event: OperationEvent
    reason: str | None = None
    counters: Counters = field(default_factory=Counters)
    stored: StoredBackup | None = None
    notice: str | None = None

    @property
    def succeeded(self) -> bool:
        return self.event is OperationEvent.FINISH


def end(session: Session, seen: Operation, outcome: Outcome) -> None:
    """End ``seen`` with ``outcome``: operation, backup, busy share, quota and user message.

    A backup whose status an administrator has reset meanwhile keeps it, unless the outcome is a
    successful create or delete, which then cannot be recorded.
    :raises StaleRow: somebody else holds or ended the operation; the caller rolls back.
    :raises IllegalTransition: a success that the backup's status does not accept.
    """
    row = operations.get(session, seen.id)
    values = {"progress": 100} if outcome.succeeded else {}
    status = operations.transition(
        session,
        seen,
        outcome.event,
        fail_reason=outcome.reason,
        counters=operations.dump_counters(outcome.counters),
        phase=None,
        **values,
    )
    _end_backup(session, seen, outcome)
    _free_share(session, row, outcome)
    _tell(session, seen, outcome)
    if row.then_delete:
        _queue_delete(session, seen)
    LOG.info(
        "Operation %(id)s (%(kind)s): %(before)s -> %(after)s, epoch %(epoch)d%(reason)s",
        {
            "id": seen.id,
            "kind": seen.kind,
            "before": seen.status,
            "after": status,
            "epoch": seen.epoch,
            "reason": f": {outcome.reason}" if outcome.reason else "",
        },
    )


def _end_backup(session: Session, seen: Operation, outcome: Outcome) -> None:
    event = _BACKUP_EVENTS[(seen.kind, outcome.succeeded)]
    values: dict[str, object] = {}
    if not outcome.succeeded:
        values["fail_reason"] = outcome.reason
    elif seen.kind is OperationKind.RESTORE:
        values["restore_progress"] = 100
    elif outcome.stored is not None:
        values |= {
            "progress": 100,
            "published_epoch": outcome.stored.description.ref.epoch,
            "stored_bytes": outcome.stored.stored_bytes,
            "fail_reason": None,
        }
    if outcome.succeeded and seen.kind is OperationKind.DELETE:
        backup = backups.get(session, seen.backup_id)
        ledger.refund(session, backup.project_id, backup.charged_gib)
    try:
        backups.transition(session, seen.backup_id, event, **values)
    except exception.IllegalTransition:
        # A restore only read the backup: what it did to the share is done all the same.
        if outcome.succeeded and seen.kind is not OperationKind.RESTORE:
            raise
        LOG.warning("Backup %s keeps the status it was reset to.", seen.backup_id)


def share_event(row: Operation, *, succeeded: bool) -> ShareEvent | None:
    """What the end of an operation means for its share; None for a delete."""
    if row.kind is OperationKind.DELETE:
        return None
    if row.kind is OperationKind.CREATE:
        return ShareEvent.BACKUP_ENDED
    if succeeded:
        return ShareEvent.RESTORED
    if row.share_written or row.share_was_in_error:
        return ShareEvent.RESTORE_FAILED
    return ShareEvent.RESTORE_UNTOUCHED


def _free_share(session: Session, row: Operation, outcome: Outcome) -> None:
    event = share_event(row, succeeded=outcome.succeeded)
    if event is not None:
        busy_shares.transition(
            session, row.share_id, event, operation_id=row.id, project_id=row.project_id
        )


def _tell(session: Session, seen: Operation, outcome: Outcome) -> None:
    action_id, verb = ACTION_IDS[seen.kind]
    if outcome.succeeded:
        if outcome.notice is None:
            return
        level, detail_id = "WARNING", DETAIL_INCOMPLETE
        text = f"{verb} backup: {outcome.notice}"
    elif outcome.event is OperationEvent.CANCEL:
        level, detail_id, text = "INFO", DETAIL_CANCELLED, f"{verb} backup: cancelled."
    else:
        level, detail_id, text = "ERROR", DETAIL_FAILED, f"{verb} backup: {outcome.reason}"
    messages.create(
        session,
        project_id=seen.project_id,
        request_id=seen.request_id,
        resource_id=seen.backup_id,
        action_id=action_id,
        detail_id=detail_id,
        user_message=text,
        message_level=level,
    )


def _queue_delete(session: Session, ended: Operation) -> None:
    if ended.kind is OperationKind.DELETE:
        return
    backup = backups.get(session, ended.backup_id)
    backups.transition(session, backup.id, BackupEvent.DELETE_BY_ADMIN)
    operations.create(
        session,
        operations.NewOperation(
            kind=OperationKind.DELETE,
            backup_id=ended.backup_id,
            share_id=backup.share_id,
            project_id=ended.project_id,
            user_id=ended.user_id,
            request_id=ended.request_id,
            availability_zone=ended.availability_zone,
        ),
    )


def cancel_queued(session: Session, operation_id: str) -> bool:
    """End an operation that nobody has claimed yet.

    :returns: False when it is running or over; then :func:`operations.request_cancel` is the way.
    :raises StaleRow: a node claimed it between our look and our UPDATE; the caller rolls back and
        looks again.
    """
    seen = operations.get(session, operation_id)
    if seen.status is not OperationStatus.QUEUED:
        return False
    end(session, seen, Outcome(event=OperationEvent.CANCEL, reason="Cancelled."))
    return True
