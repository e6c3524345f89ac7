# SPDX-License-Identifier: Apache-2.0
"""The rules of creating, restoring, deleting, cancelling and resetting backups.

Each function looks at the share first, outside of any transaction; then one transaction holds all
that must be true together (quota, backup, operation, busy share); then, after the commit, the data
nodes are woken. Killed between commit and wake-up, the operation waits for the next poll.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from oslo_db import exception as db_exc
from oslo_log import log as logging
from sqlalchemy.orm import Session

from manila_backup import exception
from manila_backup.api import share_checks
from manila_backup.api.request import Services
from manila_backup.context import RequestContext
from manila_backup.data import endings
from manila_backup.db import backups, busy_shares, operations
from manila_backup.db.backups import Backup, NewBackup
from manila_backup.db.operations import NewOperation, Operation
from manila_backup.quota import ledger
from manila_backup.states import (
    MEMBER_DELETABLE,
    RESETTABLE,
    BackupEvent,
    BackupStatus,
    OperationKind,
    ShareEvent,
    ShareStatus,
)
from manila_backup.types import RestoreMode, Share

LOG = logging.getLogger(__name__)
T = TypeVar("T")

STALE_ATTEMPTS = 5
"""How often a change is tried when a data node moves an operation under our hands. Each
step is one of few (queued, running, over), so it cannot go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupRequest:
    """What a tenant asks for; ``options`` are those for the driver only."""

    share_id: str
    name: str | None
    description: str | None
    options: Mapping[str, str]


def create(services: Services, context: RequestContext, wanted: BackupRequest) -> Backup:
    """Accept a backup. It belongs to the project of its share, whoever asks.

    :raises ShareNotFound: also for a private share of another project.
    :raises Forbidden: the share is another project's or soft-deleted.
    :raises InvalidShare: the share is not fit to be backed up, or another operation holds it.
    :raises ShareBusy: a task of the provider holds the share.
    :raises QuotaExceeded: nothing was kept.
    """
    share = services.provider.get(context, wanted.share_id)
    share_checks.refuse_foreign(context, share, "backed up")
    share_checks.refuse_soft_deleted(share)
    with services.database.reader() as session:
        share_checks.refuse_held(session, share.id)
    share_checks.refuse_unfit_for_backup(share, services.settings)
    backup, operation = services.database.write(
        lambda session: _create_rows(session, services, context, wanted, share)
    )
    LOG.info("Backup %s of share %s queued as operation %s", backup.id, share.id, operation.id)
    services.waker.wake(operation.id)
    return backup


def _create_rows(
    session: Session,
    services: Services,
    context: RequestContext,
    wanted: BackupRequest,
    share: Share,
) -> tuple[Backup, Operation]:
    share_checks.refuse_held(session, share.id)
    settings = services.settings
    new = NewBackup(
        project_id=share.project_id,
        user_id=context.user_id,
        share_id=share.id,
        share_name=share.name,
        share_proto=share.share_proto,
        name=wanted.name,
        description=wanted.description,
        size_gib=share.size_gib,
        availability_zone=share.availability_zone,
        topic=settings.topic,
        backup_type=settings.driver,
        driver=settings.driver,
        options=wanted.options,
    )
    backup = backups.create(session, new)
    operation = _queue(session, context, OperationKind.CREATE, backup, share.id)
    _take_share(session, ShareEvent.BACKUP, operation)
    ledger.charge(session, backup.project_id, backup.charged_gib, settings.quota_defaults)
    return backup, operation


def restore(
    services: Services,
    context: RequestContext,
    backup: Backup,
    *,
    target_share_id: str | None,
    mode: RestoreMode,
) -> Operation:
    """Accept a restore to the target, or to the share that the backup was made of.

    :raises InvalidBackup: its status is not available.
    :raises SourceShareGone: no target was named and the source is gone.
    :raises ShareNotFound: also for a private share of another project.
    :raises Forbidden: the share is another project's than the backup's, or soft-deleted.
    :raises InvalidShare: the share is not fit to be restored to, or another operation holds it.
    :raises ShareBusy: a task of the provider holds the share.
    """
    _refuse_unavailable(backup)
    share = _restore_target(services, context, backup, target_share_id)
    share_checks.refuse_foreign(context, share, "overwritten", owner=backup.project_id)
    share_checks.refuse_soft_deleted(share)
    with services.database.reader() as session:
        share_checks.refuse_held(session, share.id, for_restore=True)
    share_checks.refuse_unfit_for_restore(share, services.settings, size_gib=backup.size_gib)
    operation = services.database.write(
        lambda session: _restore_rows(session, context, backup.id, share, mode)
    )
    LOG.info(
        "Restore of backup %s to share %s queued as operation %s",
        backup.id,
        share.id,
        operation.id,
    )
    services.waker.wake(operation.id)
    return operation


def _refuse_unavailable(backup: Backup) -> None:
    if backup.status is not BackupStatus.AVAILABLE:
        raise exception.InvalidBackup(reason=f"Backup {backup.id} status must be available.")


def _restore_target(
    services: Services, context: RequestContext, backup: Backup, target_share_id: str | None
) -> Share:
    if target_share_id is not None:
        return services.provider.get(context, target_share_id)
    try:
        return services.provider.get(context, backup.share_id)
    except exception.ShareNotFound:
        raise exception.SourceShareGone(share_id=backup.share_id) from None


def _restore_rows(
    session: Session, context: RequestContext, backup_id: str, share: Share, mode: RestoreMode
) -> Operation:
    backup = backups.get(session, backup_id)
    _refuse_unavailable(backup)
    held = share_checks.refuse_held(session, share.id, for_restore=True)
    operation = _queue(
        session,
        context,
        OperationKind.RESTORE,
        backup,
        share.id,
        mode=mode,
        share_was_in_error=held is ShareStatus.BACKUP_RESTORING_ERROR,
    )
    backups.transition(session, backup.id, BackupEvent.RESTORE, restore_progress=0)
    _take_share(session, ShareEvent.RESTORE, operation)
    return operation


def delete(
    services: Services, context: RequestContext, backup_id: str, *, any_status: bool
) -> None:
    """Accept a deletion. With ``any_status`` (an administrator's) what runs is cancelled first.

    An operation that a data node holds is asked to stop; the deletion then follows it.
    :raises InvalidBackup: without ``any_status``, neither available nor error.
    """

    def change(session: Session) -> Operation | None:
        backup = backups.get(session, backup_id)
        if not any_status and backup.status not in MEMBER_DELETABLE:
            raise exception.InvalidBackup(
                reason=f"Backup {backup.id} status must be available or error."
            )
        active = operations.active_of_backup(session, backup.id)
        if active is not None and not _stop(session, active, then_delete=True):
            return active
        event = BackupEvent.DELETE_BY_ADMIN if any_status else BackupEvent.DELETE
        backups.transition(session, backup.id, event)
        return _queue(session, context, OperationKind.DELETE, backup, backup.share_id)

    operation = _write_unless_stale(services, change)
    LOG.info("Deletion of backup %s accepted", backup_id)
    if operation is not None:
        services.waker.wake(operation.id)


def cancel(services: Services, backup_id: str) -> None:
    """Stop the create or restore of a backup. Idempotent while it is stopping.

    :raises InvalidBackup: nothing runs that could be cancelled.
    """

    def change(session: Session) -> Operation:
        active = operations.active_of_backup(session, backup_id)
        if active is None:
            raise exception.InvalidBackup(reason=f"No operation runs on backup {backup_id}.")
        if active.kind is OperationKind.DELETE:
            raise exception.InvalidBackup(
                reason=f"The deletion of backup {backup_id} cannot be cancelled."
            )
        _stop(session, active)
        return active

    operation = _write_unless_stale(services, change)
    LOG.info("Cancel of operation %s of backup %s accepted", operation.id, backup_id)
    services.waker.wake(operation.id)


def reset_status(services: Services, backup: Backup, status: str) -> None:
    """Set the row and touch nothing else.

    :raises InvalidBackup: to available, but the store has no valid manifest for it.
    """
    if RESETTABLE[status] is BackupEvent.RESET_AVAILABLE and not services.manifest_exists(backup):
        raise exception.InvalidBackup(
            reason=f"Backup {backup.id} has no valid manifest in the store, so it cannot be made "
            "available."
        )
    services.database.write(
        lambda session: backups.transition(session, backup.id, RESETTABLE[status])
    )
    LOG.warning("Backup %s: status reset from %s to %s", backup.id, backup.status, status)


def _queue(
    session: Session,
    context: RequestContext,
    kind: OperationKind,
    backup: Backup,
    share_id: str,
    *,
    mode: RestoreMode | None = None,
    share_was_in_error: bool = False,
) -> Operation:
    """:raises StaleRow: an operation of a rival request, or one that outlived a reset of the
    backup's status, holds the backup.
    """
    new = NewOperation(
        kind=kind,
        backup_id=backup.id,
        share_id=share_id,
        project_id=backup.project_id,
        user_id=context.user_id,
        request_id=context.request_id,
        availability_zone=backup.availability_zone,
        mode=mode,
        share_was_in_error=share_was_in_error,
    )
    try:
        return operations.create(session, new)
    except db_exc.DBDuplicateEntry:
        raise exception.StaleRow(kind="backup", id=backup.id) from None


def _take_share(session: Session, event: ShareEvent, operation: Operation) -> None:
    """:raises InvalidShare: a rival request has taken it since we looked."""
    try:
        busy_shares.transition(
            session,
            operation.share_id,
            event,
            operation_id=operation.id,
            project_id=operation.project_id,
        )
    except exception.ShareBusy:
        raise exception.InvalidShare(
            reason=f"Share {operation.share_id} is not available: another operation on it has just "
            "begun."
        ) from None


def _stop(session: Session, active: Operation, *, then_delete: bool = False) -> bool:
    """End an operation that waits, or ask the data node that runs it to end it.

    :returns: whether it is over now.
    :raises StaleRow: it came to its end while we looked.
    """
    if active.kind is OperationKind.DELETE:
        return False
    if endings.cancel_queued(session, active.id):
        return True
    if not operations.request_cancel(session, active.id, then_delete=then_delete):
        raise exception.StaleRow(kind="operation", id=active.id)
    return False


def _write_unless_stale(services: Services, change: Callable[[Session], T]) -> T:
    """Try again when a data node claims or ends the operation between our look and our UPDATE."""
    for attempt in range(1, STALE_ATTEMPTS + 1):
        try:
            return services.database.write(change)
        except exception.StaleRow:
            if attempt == STALE_ATTEMPTS:
                raise
    raise AssertionError("unreachable")  # pragma: no cover
