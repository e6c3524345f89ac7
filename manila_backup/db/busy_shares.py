# SPDX-License-Identifier: Apache-2.0
"""Busy shares: the true lock. A row per share that one of our operations holds, or that a failed
restore left half done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from oslo_db import exception as db_exc
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from manila_backup import exception
from manila_backup.db.clock import now_us
from manila_backup.db.models import BusyShareRow
from manila_backup.db.rows import changed_one
from manila_backup.states import SHARE_TRANSITIONS, ShareEvent, ShareStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class BusyShare:
    """A row of ``busy_shares`` at one moment."""

    share_id: str
    status: ShareStatus
    operation_id: str
    project_id: str


def get(session: Session, share_id: str) -> BusyShare | None:
    """None when the share is free."""
    row = session.get(BusyShareRow, share_id, populate_existing=True)
    return None if row is None else _from_row(row)


def _from_row(row: BusyShareRow) -> BusyShare:
    return BusyShare(
        share_id=row.share_id,
        status=ShareStatus(row.status),
        operation_id=row.operation_id,
        project_id=row.project_id,
    )


def statuses(session: Session, share_ids: Iterable[str]) -> Mapping[str, ShareStatus]:
    """Status of those of the given shares that are not available."""
    query = select(BusyShareRow.share_id, BusyShareRow.status).where(
        BusyShareRow.share_id.in_(list(share_ids))
    )
    return {share_id: ShareStatus(status) for share_id, status in session.execute(query)}


def all_statuses(session: Session) -> Mapping[str, ShareStatus]:
    """Status of every share that is not available; bounded by operations plus failed restores."""
    query = select(BusyShareRow.share_id, BusyShareRow.status)
    return {share_id: ShareStatus(status) for share_id, status in session.execute(query)}


def transition(
    session: Session, share_id: str, event: ShareEvent, *, operation_id: str, project_id: str
) -> ShareStatus:
    """Fire ``event`` for ``operation_id``, as one INSERT, conditional UPDATE or DELETE.

    Events that begin work take the share; all others need the share to be held by the operation.
    :raises ShareBusy: another operation holds the share.
    :raises IllegalTransition: the status has no cell for the event; nothing was changed.
    :raises StaleRow: the share to be freed is not, or no longer, held by the operation.
    """
    held = get(session, share_id)
    before = ShareStatus.AVAILABLE if held is None else held.status
    after = SHARE_TRANSITIONS.get((before, event))
    if after is None:
        if held is not None and event in (ShareEvent.BACKUP, ShareEvent.RESTORE):
            raise exception.ShareBusy(share_id=share_id, reason=f"its status is {before}.")
        raise exception.IllegalTransition(kind="share", id=share_id, status=before, event=event)
    if held is None:
        _take(session, share_id, after, operation_id, project_id)
    elif after is ShareStatus.AVAILABLE:
        _release(session, held, operation_id, event)
    else:
        _change(session, held, after, operation_id, event)
    return after


def _take(
    session: Session, share_id: str, status: ShareStatus, operation_id: str, project_id: str
) -> None:
    now = session.scalar(select(now_us()))
    row = BusyShareRow(
        share_id=share_id,
        status=status,
        operation_id=operation_id,
        project_id=project_id,
        created_at_us=now,
        updated_at_us=now,
    )
    try:
        # The primary key decides between two requests that both saw no row.
        session.add(row)
        session.flush()
    except db_exc.DBDuplicateEntry:
        raise exception.ShareBusy(
            share_id=share_id, reason="another operation has just begun."
        ) from None


def _owner_needed(event: ShareEvent) -> bool:
    return event not in (ShareEvent.RESTORE, ShareEvent.RESET)


def _release(session: Session, held: BusyShare, operation_id: str, event: ShareEvent) -> None:
    statement = delete(BusyShareRow).where(
        BusyShareRow.share_id == held.share_id, BusyShareRow.status == held.status
    )
    if _owner_needed(event):
        statement = statement.where(BusyShareRow.operation_id == operation_id)
    if not changed_one(session, statement):
        raise exception.StaleRow(kind="share", id=held.share_id)


def _change(
    session: Session, held: BusyShare, after: ShareStatus, operation_id: str, event: ShareEvent
) -> None:
    owner = operation_id if _owner_needed(event) else held.operation_id
    statement = (
        update(BusyShareRow)
        .where(
            BusyShareRow.share_id == held.share_id,
            BusyShareRow.status == held.status,
            BusyShareRow.operation_id == owner,
        )
        .values(status=after, operation_id=operation_id, updated_at_us=now_us())
    )
    if not changed_one(session, statement):
        raise exception.ShareBusy(
            share_id=held.share_id, reason="another operation has just begun."
        )


def reset(session: Session, share_id: str) -> bool:
    """Forget a failed restore (by an administrator, or because the share is gone).

    :returns: whether there was one. A share held by an operation is left alone.
    """
    statement = delete(BusyShareRow).where(
        BusyShareRow.share_id == share_id,
        BusyShareRow.status == ShareStatus.BACKUP_RESTORING_ERROR,
    )
    return changed_one(session, statement)
