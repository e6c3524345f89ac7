# SPDX-License-Identifier: Apache-2.0
"""Operations: the queue of work and its history.

Who holds an operation is decided here: claiming raises ``epoch``, and every later write of the
holder names that epoch. A node that was overtaken finds its UPDATE matching no row.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from oslo_utils import uuidutils
from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session, aliased

from manila_backup import exception
from manila_backup.db.clock import US_PER_S, now_us
from manila_backup.db.models import OperationRow
from manila_backup.db.rows import changed_one, changed_rows
from manila_backup.states import (
    ACTIVE_OPERATIONS,
    OPERATION_TRANSITIONS,
    OperationEvent,
    OperationKind,
    OperationStatus,
    Phase,
)
from manila_backup.types import Counters, RestoreMode


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A row of ``operations`` at one moment."""

    id: str
    kind: OperationKind
    status: OperationStatus
    phase: Phase | None
    backup_id: str
    share_id: str
    project_id: str
    user_id: str | None
    request_id: str | None
    mode: RestoreMode | None
    host: str | None
    epoch: int
    lease_until_us: int | None
    not_before_us: int
    attempts: int
    cancel_requested: bool
    then_delete: bool
    share_written: bool
    share_was_in_error: bool
    worker_pid: int | None
    worker_started: str | None
    progress: int
    progress_source: str | None
    counters: Counters
    fail_reason: str | None
    created_at_us: int
    started_at_us: int | None
    updated_at_us: int | None
    finished_at_us: int | None
    availability_zone: str | None


def _from_row(row: OperationRow) -> Operation:
    values = {name: getattr(row, name) for name in Operation.__slots__}
    values["kind"] = OperationKind(row.kind)
    values["status"] = OperationStatus(row.status)
    values["phase"] = Phase(row.phase) if row.phase else None
    values["mode"] = RestoreMode(row.mode) if row.mode else None
    values["counters"] = Counters(**json.loads(row.counters))
    return Operation(**values)


def dump_counters(counters: Counters) -> str:
    return json.dumps(asdict(counters))


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOperation:
    """What the API knows of an operation to be. ``share_id`` is the source of a create, the target
    of a restore, and the former source for a delete (which does not make the share busy).
    """

    kind: OperationKind
    backup_id: str
    share_id: str
    project_id: str
    user_id: str | None
    request_id: str | None
    availability_zone: str | None = None
    mode: RestoreMode | None = None
    share_was_in_error: bool = False


def create(session: Session, new: NewOperation) -> Operation:
    """Queue an operation.

    :raises oslo_db.exception.DBDuplicateEntry: the backup has an operation queued or running.
    """
    now = session.scalar(select(now_us()))
    row = OperationRow(
        id=uuidutils.generate_uuid(),
        **{name: getattr(new, name) for name in NewOperation.__slots__},
        status=OperationStatus.QUEUED,
        active_backup_id=new.backup_id,
        epoch=0,
        not_before_us=now,
        attempts=0,
        cancel_requested=False,
        then_delete=False,
        share_written=False,
        progress=0,
        counters=dump_counters(Counters()),
        created_at_us=now,
    )
    session.add(row)
    session.flush()
    return _from_row(row)


def get(session: Session, operation_id: str) -> Operation:
    """:raises OperationNotFound:"""
    row = session.get(OperationRow, operation_id, populate_existing=True)
    if row is None:
        raise exception.OperationNotFound(operation_id=operation_id)
    return _from_row(row)


def active_of_backup(session: Session, backup_id: str) -> Operation | None:
    """The queued or running operation of a backup, if any."""
    query = select(OperationRow).where(OperationRow.active_backup_id == backup_id)
    row = session.scalar(query.execution_options(populate_existing=True))
    return None if row is None else _from_row(row)


def of_backup(session: Session, backup_id: str, *, limit: int = 100) -> list[Operation]:
    """The newest operations of a backup, newest first."""
    query = (
        select(OperationRow)
        .where(OperationRow.backup_id == backup_id)
        .order_by(OperationRow.created_at_us.desc(), OperationRow.id)
        .limit(limit)
    )
    return [_from_row(row) for row in session.scalars(query)]


def find(
    session: Session,
    *,
    statuses: Collection[OperationStatus],
    host: str | None = None,
    project_id: str | None = None,
    limit: int = 100,
) -> list[Operation]:
    """Newest first; for operators."""
    query = select(OperationRow).where(OperationRow.status.in_(list(statuses)))
    if host is not None:
        query = query.where(OperationRow.host == host)
    if project_id is not None:
        query = query.where(OperationRow.project_id == project_id)
    query = query.order_by(OperationRow.created_at_us.desc(), OperationRow.id).limit(limit)
    return [_from_row(row) for row in session.scalars(query)]


def move_host(session: Session, old: str, new: str) -> int:
    """Unfinished operations of a node that has another name now; answers how many."""
    statement = (
        update(OperationRow)
        .where(OperationRow.host == old, OperationRow.status.in_(list(ACTIVE_OPERATIONS)))
        .values(host=new, updated_at_us=now_us())
    )
    return changed_rows(session, statement)


def claimable(
    session: Session,
    *,
    kinds: Collection[OperationKind] = tuple(OperationKind),
    zone: str | None = None,
    limit: int = 10,
) -> list[Operation]:
    """Queued operations whose time has come, fair between projects: the next one is of the project
    that has the fewest running, of those the one that was served the longest ago; within a project
    the oldest. ``zone``: only those of this availability zone, or of none.

    One query over the index of what is queued and running, and a look into another index for each
    project that waits.
    """
    of_project = (OperationRow.created_at_us, OperationRow.id)
    due = [
        OperationRow.status == OperationStatus.QUEUED,
        OperationRow.not_before_us <= now_us(),
        OperationRow.kind.in_(list(kinds)),
    ]
    if zone is not None:
        due.append(
            or_(OperationRow.availability_zone.is_(None), OperationRow.availability_zone == zone)
        )
    turn = func.row_number().over(partition_by=OperationRow.project_id, order_by=of_project)
    waiting = (
        select(OperationRow.id, OperationRow.project_id, turn.label("turn")).where(*due).subquery()
    )
    running = (
        select(OperationRow.project_id, func.count().label("count"))
        .where(OperationRow.status == OperationStatus.RUNNING)
        .group_by(OperationRow.project_id)
        .subquery()
    )
    other = aliased(OperationRow)
    served_us = (
        select(func.max(other.started_at_us))
        .where(other.project_id == waiting.c.project_id)
        .scalar_subquery()
    )
    query = (
        select(OperationRow)
        .join(waiting, waiting.c.id == OperationRow.id)
        .outerjoin(running, running.c.project_id == waiting.c.project_id)
        .where(waiting.c.turn <= limit)
        .order_by(
            func.coalesce(running.c.count, 0) + waiting.c.turn,
            func.coalesce(served_us, 0),
            *of_project,
        )
        .limit(limit)
    )
    return [_from_row(row) for row in session.scalars(query)]


def leftovers(session: Session, host: str, *, except_ids: Collection[str]) -> list[Operation]:
    """Running operations that a former process of ``host`` held; ``except_ids`` are this one's."""
    query = select(OperationRow).where(
        OperationRow.status == OperationStatus.RUNNING,
        OperationRow.host == host,
        OperationRow.id.not_in(list(except_ids)),
    )
    return [_from_row(row) for row in session.scalars(query)]


def expired(session: Session, host: str, *, limit: int = 10) -> list[Operation]:
    """Running operations of other hosts than ``host`` whose lease has ended by the database's
    clock, the longest silent ones first. One indexed query.
    """
    query = (
        select(OperationRow)
        .where(
            OperationRow.status == OperationStatus.RUNNING,
            OperationRow.lease_until_us <= now_us(),
            OperationRow.host != host,
        )
        .order_by(OperationRow.lease_until_us, OperationRow.id)
        .limit(limit)
    )
    return [_from_row(row) for row in session.scalars(query)]


def running_count(session: Session) -> int:
    """How many operations are queued or running."""
    query = select(OperationRow.id).where(OperationRow.status.in_(list(ACTIVE_OPERATIONS)))
    return len(session.scalars(query).all())


def take(
    session: Session, seen: Operation, event: OperationEvent, *, host: str, lease_s: float
) -> Operation:
    """Claim a queued operation or take over a running one, as it was ``seen``.

    Raises the epoch and starts a lease by the database's clock. The former holder's worker stays on
    record until there is a new one: it may have to be seen dead. What another host holds can only
    be taken over when its lease has ended.
    :raises IllegalTransition:
    :raises StaleRow: another node was quicker, or the holder has renewed its lease.
    """
    after = _next(seen, event)
    statement = (
        update(OperationRow)
        .where(
            OperationRow.id == seen.id,
            OperationRow.status == seen.status,
            OperationRow.epoch == seen.epoch,
        )
        .values(
            status=after,
            host=host,
            epoch=seen.epoch + 1,
            attempts=OperationRow.attempts + 1,
            lease_until_us=now_us() + int(lease_s * US_PER_S),
            started_at_us=seen.started_at_us if seen.started_at_us else now_us(),
            updated_at_us=now_us(),
            phase=None,
        )
    )
    if event is OperationEvent.TAKE_OVER and seen.host != host:
        statement = statement.where(OperationRow.lease_until_us <= now_us())
    if not changed_one(session, statement):
        raise exception.StaleRow(kind="operation", id=seen.id)
    return get(session, seen.id)


def _next(seen: Operation, event: OperationEvent) -> OperationStatus:
    after = OPERATION_TRANSITIONS.get((seen.status, event))
    if after is None:
        raise exception.IllegalTransition(
            kind="operation", id=seen.id, status=seen.status, event=event
        )
    return after


def renew(session: Session, held: Operation, *, lease_s: float) -> None:
    """Prolong the lease from now by the database's clock.

    :raises LeaseLost: another node holds the operation, or it is over.
    """
    _update_held(session, held, lease_until_us=now_us() + int(lease_s * US_PER_S))


def note(session: Session, held: Operation, **values: Any) -> None:
    """Write what the holder knows: phase, progress, counters, worker, share_written.

    :raises LeaseLost: another node holds the operation, or it is over.
    """
    _update_held(session, held, **values)


def _update_held(session: Session, held: Operation, **values: Any) -> None:
    statement = (
        update(OperationRow)
        .where(
            OperationRow.id == held.id,
            OperationRow.status == OperationStatus.RUNNING,
            OperationRow.epoch == held.epoch,
        )
        .values(**values, updated_at_us=now_us())
    )
    if not changed_one(session, statement):
        raise exception.LeaseLost(operation_id=held.id)


def transition(
    session: Session, seen: Operation, event: OperationEvent, **values: Any
) -> OperationStatus:
    """End an operation or give it back to the queue, as it was ``seen`` (status and epoch).

    :raises IllegalTransition: nothing was changed.
    :raises StaleRow: somebody else holds it or ended it; nothing was changed.
    """
    after = _next(seen, event)
    if after not in ACTIVE_OPERATIONS:
        values |= {"active_backup_id": None, "finished_at_us": now_us()}
    statement = (
        update(OperationRow)
        .where(
            OperationRow.id == seen.id,
            OperationRow.status == seen.status,
            OperationRow.epoch == seen.epoch,
        )
        .values(
            status=after,
            lease_until_us=None,
            worker_pid=None,
            worker_started=None,
            updated_at_us=now_us(),
            **values,
        )
    )
    if not changed_one(session, statement):
        raise exception.StaleRow(kind="operation", id=seen.id)
    return after


def request_cancel(session: Session, operation_id: str, *, then_delete: bool = False) -> bool:
    """Ask the holder to stop, and with ``then_delete`` that the backup be deleted afterwards.

    Idempotent. :returns: False when the operation is over already.
    """
    values: dict[str, Any] = {"cancel_requested": True, "updated_at_us": now_us()}
    if then_delete:
        values["then_delete"] = True
    statement = (
        update(OperationRow)
        .where(OperationRow.id == operation_id, OperationRow.active_backup_id.is_not(None))
        .values(**values)
    )
    return changed_one(session, statement)
