# SPDX-License-Identifier: Apache-2.0
"""Rows that nobody asks for any more."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from manila_backup.db import messages
from manila_backup.db.clock import US_PER_S, now_us
from manila_backup.db.engine import Database
from manila_backup.db.models import BackupRow, IntentRow, OperationRow
from manila_backup.db.rows import changed_rows

_BATCH = 1000
"""Rows per transaction: others are not to wait for long."""


def purge(database: Database, *, older_than_s: float) -> dict[str, int]:
    """Remove deleted backups, and operations that ended, when that is longer ago; and messages that
    have expired. An operation stays that has something left to be undone. Answers how many backups
    and operations are gone. Can be interrupted, and called again.
    """
    before = now_us() - int(older_than_s * US_PER_S)
    ended = (
        select(OperationRow.id)
        .where(OperationRow.active_backup_id.is_(None), OperationRow.finished_at_us < before)
        .where(OperationRow.id.not_in(select(IntentRow.operation_id)))
        .limit(_BATCH)
    )
    deleted = select(BackupRow.id).where(BackupRow.deleted_at_us < before).limit(_BATCH)
    database.write(messages.purge)
    return {
        "Backups": _remove(database, BackupRow, deleted),
        "Operations": _remove(database, OperationRow, ended),
    }


def _remove(
    database: Database, table: type[BackupRow] | type[OperationRow], chosen: Select[Any]
) -> int:
    def remove(session: Session) -> int:
        # MySQL has no LIMIT in a subquery of IN: the ids come first.
        ids = session.scalars(chosen).all()
        return changed_rows(session, delete(table).where(table.id.in_(ids))) if ids else 0

    removed = 0
    while found := database.write(remove):
        removed += found
    return removed
