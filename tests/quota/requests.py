# SPDX-License-Identifier: Apache-2.0
"""Requests as the API and the data node make them of the layers below: one transaction each."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

from manila_backup.db import backups, busy_shares, operations
from manila_backup.db.engine import Database
from manila_backup.quota import ledger
from manila_backup.quota.ledger import Limits
from manila_backup.states import (
    BackupEvent,
    OperationEvent,
    OperationKind,
    ShareEvent,
)
from manila_backup.types import BackupRef
from tests.db.builders import PROJECT, new_backup, new_id, new_operation, stored_backup

UNLIMITED = Limits(backups=-1, backup_gigabytes=-1)


def create(
    session: Session, limits: Limits, *, project_id: str = PROJECT, size_gib: int = 1
) -> str:
    """Accept a backup: row, operation, busy share and charge. Returns the backup's id."""
    backup = backups.create(session, new_backup(project_id=project_id, size_gib=size_gib))
    operation = operations.create(
        session,
        new_operation(backup_id=backup.id, share_id=backup.share_id, project_id=project_id),
    )
    busy_shares.transition(
        session,
        backup.share_id,
        ShareEvent.BACKUP,
        operation_id=operation.id,
        project_id=project_id,
    )
    ledger.charge(session, project_id, backup.charged_gib, limits)
    return backup.id


def finish_create(session: Session, backup_id: str) -> None:
    """The data node's last transaction of a create."""
    operation = operations.active_of_backup(session, backup_id)
    assert operation is not None
    held = operations.take(session, operation, OperationEvent.CLAIM, host="node", lease_s=60)
    operations.transition(session, held, OperationEvent.FINISH)
    backups.transition(session, backup_id, BackupEvent.CREATED, published_epoch=held.epoch)
    busy_shares.transition(
        session,
        held.share_id,
        ShareEvent.BACKUP_ENDED,
        operation_id=held.id,
        project_id=held.project_id,
    )


def begin_delete(session: Session, backup_id: str) -> None:
    """Accept a deletion; the charge stays until the data is gone."""
    backup = backups.get(session, backup_id)
    backups.transition(session, backup_id, BackupEvent.DELETE)
    operations.create(
        session,
        new_operation(kind=OperationKind.DELETE, backup_id=backup_id, project_id=backup.project_id),
    )


def finish_delete(session: Session, backup_id: str) -> None:
    """The data node's last transaction of a deletion."""
    backup = backups.get(session, backup_id)
    operation = operations.active_of_backup(session, backup_id)
    assert operation is not None
    held = operations.take(session, operation, OperationEvent.CLAIM, host="node", lease_s=60)
    operations.transition(session, held, OperationEvent.FINISH)
    ledger.refund(session, backup.project_id, backup.charged_gib)
    backups.transition(session, backup_id, BackupEvent.DELETED)


def adopt(session: Session, *, project_id: str = PROJECT, size_gib: int = 1) -> str:
    """Import a backup that was found in the store."""
    ref = BackupRef(project_id=project_id, backup_id=new_id(), epoch=1)
    made = backups.adopt(session, stored_backup(ref=ref, size_gib=size_gib), topic="t", host=None)
    ledger.charge_unlimited(session, project_id, made.charged_gib)
    return made.id


def sums(database: Database) -> dict[str, tuple[int, int]]:
    """What each project ought to be charged, asked past all code of ours."""
    with database.reader() as session:
        return _sums(session)


def _sums(session: Session) -> dict[str, tuple[int, int]]:
    rows = session.execute(
        text(
            "SELECT project_id, count(*), sum(charged_gib) FROM backups"
            " WHERE status != 'deleted' GROUP BY project_id"
        )
    )
    return {project: (count, gigabytes) for project, count, gigabytes in rows}


def usages(database: Database) -> dict[str, tuple[int, int]]:
    """What each project is charged, where that is not nothing."""
    with database.reader() as session:
        return _usages(session)


def _usages(session: Session) -> dict[str, tuple[int, int]]:
    projects = session.scalars(text("SELECT DISTINCT project_id FROM quota_usages")).all()
    found = {project: ledger.usage(session, project) for project in projects}
    return {
        project: (used.backups, used.backup_gigabytes)
        for project, used in found.items()
        if used != ledger.Usage()
    }


def assert_charged_as_stored(database: Database) -> None:
    with database.reader() as session:
        assert _usages(session) == _sums(session)
        assert ledger.check(session) == []
