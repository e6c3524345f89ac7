# SPDX-License-Identifier: Apache-2.0
"""Intents: what outlives a process, written down before it is made.

Whoever comes next reads here what may have been left behind. An intent is removed only when its
thing is certainly gone; undoing something that was never made is harmless by contract.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from oslo_utils import uuidutils
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from manila_backup.db.clock import now_us
from manila_backup.db.models import IntentRow, OperationRow
from manila_backup.db.rows import changed_rows
from manila_backup.states import OperationStatus


class IntentKind(StrEnum):
    MARK = "mark"
    """detail: share_id"""

    GRANT = "grant"
    """detail: share_id, address, level, and once it is made reference"""

    MOUNT = "mount"
    """detail: path; lives on ``host``"""

    DATA_DIRECTORY = "data_directory"
    """detail: project_id, backup_id; the directory of the intent's epoch"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A row of ``intents`` at one moment."""

    id: str
    operation_id: str
    epoch: int
    host: str
    kind: IntentKind
    detail: Mapping[str, str]
    attempts: int
    last_error: str | None
    created_at_us: int


def _from_row(row: IntentRow) -> Intent:
    return Intent(
        id=row.id,
        operation_id=row.operation_id,
        epoch=row.epoch,
        host=row.host,
        kind=IntentKind(row.kind),
        detail=json.loads(row.detail),
        attempts=row.attempts,
        last_error=row.last_error,
        created_at_us=row.created_at_us,
    )


def create(
    session: Session,
    *,
    operation_id: str,
    epoch: int,
    host: str,
    kind: IntentKind,
    detail: Mapping[str, str],
) -> Intent:
    """Write down what is about to be made. To be committed before it is made."""
    # Never older than the operation's last: after a step back of the clock a grant would seem
    # newer than the mount that needs it, and be revoked under it.
    newest = session.scalar(
        select(func.max(IntentRow.created_at_us)).where(IntentRow.operation_id == operation_id)
    )
    now = session.scalar(select(now_us())) or 0
    row = IntentRow(
        id=uuidutils.generate_uuid(),
        operation_id=operation_id,
        epoch=epoch,
        host=host,
        kind=kind,
        detail=json.dumps(dict(detail)),
        attempts=0,
        created_at_us=now if newest is None else max(now, newest + 1),
    )
    session.add(row)
    session.flush()
    return _from_row(row)


def set_detail(session: Session, intent_id: str, detail: Mapping[str, str]) -> None:
    """Add what is known only after it was made (the id of an access rule)."""
    session.execute(
        update(IntentRow).where(IntentRow.id == intent_id).values(detail=json.dumps(dict(detail)))
    )


def undone(session: Session, intent_id: str) -> None:
    """Its thing is certainly gone. Idempotent."""
    session.execute(delete(IntentRow).where(IntentRow.id == intent_id))


def failed(session: Session, intent_id: str, error: str) -> None:
    """Undoing failed; it stays, to be tried again."""
    session.execute(
        update(IntentRow)
        .where(IntentRow.id == intent_id)
        .values(attempts=IntentRow.attempts + 1, last_error=error[:1000])
    )


def of_operation(session: Session, operation_id: str) -> list[Intent]:
    """All of an operation, of every epoch, newest first: the order in which to undo them."""
    query = (
        select(IntentRow)
        .where(IntentRow.operation_id == operation_id)
        .order_by(IntentRow.created_at_us.desc(), IntentRow.id)
    )
    return [_from_row(row) for row in session.scalars(query)]


def outlived(session: Session) -> list[Intent]:
    """Intents whose operation is over, newest first: work for the reaper."""
    over = [
        s for s in OperationStatus if s not in (OperationStatus.QUEUED, OperationStatus.RUNNING)
    ]
    query = (
        select(IntentRow)
        .join(OperationRow, OperationRow.id == IntentRow.operation_id)
        .where(OperationRow.status.in_(over))
        .order_by(IntentRow.created_at_us.desc(), IntentRow.id)
    )
    return [_from_row(row) for row in session.scalars(query)]


def every(session: Session) -> list[Intent]:
    """All outstanding intents."""
    query = select(IntentRow).order_by(IntentRow.created_at_us)
    return [_from_row(row) for row in session.scalars(query)]


def move_host(session: Session, old: str, new: str) -> int:
    """Those of a node that has another name now; answers how many."""
    statement = update(IntentRow).where(IntentRow.host == old).values(host=new)
    return changed_rows(session, statement)
