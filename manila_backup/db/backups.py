# SPDX-License-Identifier: Apache-2.0
"""Backups: the rows tenants see. Status changes only by :func:`transition`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from oslo_utils import uuidutils
from sqlalchemy import ColumnElement, Select, and_, or_, select, update
from sqlalchemy.orm import Session

from manila_backup import exception
from manila_backup.db.clock import from_iso, now_us
from manila_backup.db.models import BackupRow
from manila_backup.db.rows import changed_one, changed_rows
from manila_backup.states import BACKUP_TRANSITIONS, BackupEvent, BackupStatus
from manila_backup.types import BackupDescription, BackupRef, StoredBackup


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A row of ``backups`` at one moment."""

    id: str
    project_id: str
    user_id: str | None
    share_id: str
    share_name: str | None
    share_proto: str
    status: BackupStatus
    name: str | None
    description: str | None
    size_gib: int
    charged_gib: int
    stored_bytes: int | None
    availability_zone: str | None
    host: str | None
    topic: str | None
    backup_type: str | None
    driver: str
    options: Mapping[str, str]
    progress: int
    restore_progress: int
    published_epoch: int | None
    fail_reason: str | None
    created_at_us: int
    updated_at_us: int | None
    deleted_at_us: int | None

    @property
    def published_ref(self) -> BackupRef | None:
        """Where the published data lies, or None if nothing was published."""
        if self.published_epoch is None:
            return None
        return BackupRef(project_id=self.project_id, backup_id=self.id, epoch=self.published_epoch)


def _from_row(row: BackupRow) -> Backup:
    values = {name: getattr(row, name) for name in Backup.__slots__}
    values["status"] = BackupStatus(values["status"])
    values["options"] = json.loads(values["options"])
    return Backup(**values)


class BackupSummary(NamedTuple):
    """What a listing shows of a backup. A page may have a thousand, and what it takes to read them
    grows with the columns: so these, and not whole rows."""

    id: str
    name: str | None
    share_id: str
    status: str


class BackupDetail(NamedTuple):
    """What a detailed listing shows of a backup."""

    id: str
    name: str | None
    share_id: str
    status: str
    description: str | None
    size_gib: int
    availability_zone: str | None
    progress: int
    restore_progress: int
    backup_type: str | None
    host: str | None
    topic: str | None
    created_at_us: int
    updated_at_us: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBackup:
    """What the API knows of a backup to be."""

    project_id: str
    user_id: str | None
    share_id: str
    share_name: str | None
    share_proto: str
    name: str | None
    description: str | None
    size_gib: int
    availability_zone: str | None
    topic: str
    backup_type: str | None
    driver: str
    options: Mapping[str, str]


def create(session: Session, new: NewBackup) -> Backup:
    """Insert in status ``creating``, charged with the share's size. The caller charges the quota
    in the same session.
    """
    backup_id: str = uuidutils.generate_uuid()
    row = BackupRow(
        id=backup_id,
        **{name: getattr(new, name) for name in NewBackup.__slots__ if name != "options"},
        options=json.dumps(dict(new.options)),
        status=BackupStatus.CREATING,
        charged_gib=new.size_gib,
        progress=0,
        restore_progress=0,
        created_at_us=session.scalar(select(now_us())),
    )
    session.add(row)
    session.flush()
    return _from_row(row)


def adopt(session: Session, stored: StoredBackup, *, topic: str, host: str | None) -> Backup:
    """Insert an ``available`` row for what a manifest in the store describes (import), created
    when the manifest says.

    :raises oslo_db.exception.DBDuplicateEntry: a row with this id exists, deleted ones included.
    """
    what: BackupDescription = stored.description
    row = BackupRow(
        id=what.ref.backup_id,
        project_id=what.ref.project_id,
        user_id=what.user_id,
        share_id=what.share_id,
        share_name=what.share_name,
        share_proto=what.share_proto,
        status=BackupStatus.AVAILABLE,
        name=what.name,
        description=what.description,
        size_gib=what.size_gib,
        charged_gib=what.size_gib,
        stored_bytes=stored.stored_bytes,
        availability_zone=what.availability_zone,
        host=host,
        topic=topic,
        driver=stored.driver,
        options=json.dumps(what.options),
        progress=100,
        restore_progress=0,
        published_epoch=what.ref.epoch,
        created_at_us=from_iso(what.created_at),
    )
    session.add(row)
    session.flush()
    return _from_row(row)


def get(session: Session, backup_id: str, *, project_id: str | None = None) -> Backup:
    """An undeleted backup; with ``project_id`` only if it is that project's.

    :raises BackupNotFound:
    """
    query = _live(select(BackupRow)).where(BackupRow.id == backup_id)
    if project_id is not None:
        query = query.where(BackupRow.project_id == project_id)
    row = session.scalar(query.execution_options(populate_existing=True))
    if row is None:
        raise exception.BackupNotFound(backup_id=backup_id)
    return _from_row(row)


def exists(session: Session, backup_id: str) -> bool:
    """Whether any row has this id, deleted ones included."""
    return session.get(BackupRow, backup_id) is not None


def _live(query: Select[Any]) -> Select[Any]:
    return query.where(BackupRow.deleted_at_us.is_(None))


SORT_COLUMNS = {
    "id": BackupRow.id,
    "status": BackupRow.status,
    "size": BackupRow.size_gib,
    "share_id": BackupRow.share_id,
    "progress": BackupRow.progress,
    "restore_progress": BackupRow.restore_progress,
    "name": BackupRow.name,
    "display_name": BackupRow.name,
    "description": BackupRow.description,
    "host": BackupRow.host,
    "topic": BackupRow.topic,
    "project_id": BackupRow.project_id,
    "availability_zone": BackupRow.availability_zone,
    "created_at": BackupRow.created_at_us,
    "updated_at": BackupRow.updated_at_us,
}
"""Sort key of the API -> column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupFilter:
    """Equality filters; None means "any". ``*_like`` match anywhere in the text."""

    project_id: str | None = None
    share_id: str | None = None
    status: str | None = None
    name: str | None = None
    description: str | None = None
    topic: str | None = None
    host: str | None = None
    name_like: str | None = None
    description_like: str | None = None


Listed = TypeVar("Listed", BackupSummary, BackupDetail)


def find(
    session: Session,
    where: BackupFilter,
    kind: type[Listed],
    *,
    sort_key: str = "created_at",
    descending: bool = True,
    limit: int | None = None,
    offset: int = 0,
    marker: str | None = None,
) -> list[Listed]:
    """What ``kind`` has of undeleted backups, in a total order (ties broken by id, in the same
    direction: so an index can be read backwards).

    ``marker`` is the id of the last backup of the page before; it must exist, in ``project_id``
    if that is given: another project's backup must not tell by its place what it contains.
    :raises BackupNotFound: the marker does not exist.
    """
    query = _live(select(BackupRow.id)).where(*_conditions(where))
    column = SORT_COLUMNS[sort_key]
    if marker is not None:
        get(session, marker, project_id=where.project_id)
        value = session.scalar(select(column).where(BackupRow.id == marker))
        query = query.where(_after(column, descending, value, marker))
    query = query.order_by(*_order(column, descending))
    if limit is not None:
        query = query.limit(limit)
    elif offset:
        query = query.limit(2**31 - 1)
    # Sorting wants no more than an index has; more of one page only is read. In one
    # statement, so that nothing changes in between.
    page = query.offset(offset).subquery()
    columns = [getattr(BackupRow, name) for name in kind._fields]
    whole = select(*columns).join(page, BackupRow.id == page.c.id)
    rows = session.execute(whole.order_by(*_order(column, descending)))
    return [kind._make(row) for row in rows]


def _order(column: Any, descending: bool) -> tuple[Any, ...]:
    # NULLs last in both directions, said in a way that every database understands.
    nulls = (column.is_(None),) if column.nullable else ()
    by = (column, BackupRow.id)
    return (*nulls, *(one.desc() if descending else one.asc() for one in by))


def _after(column: Any, descending: bool, value: Any, marker: str) -> ColumnElement[bool]:
    behind = BackupRow.id < marker if descending else BackupRow.id > marker
    if value is None:
        return and_(column.is_(None), behind)
    beyond = column < value if descending else column > value
    same = and_(column == value, behind)
    return or_(beyond, same, column.is_(None)) if column.nullable else or_(beyond, same)


def _conditions(where: BackupFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    for name in ("project_id", "share_id", "status", "name", "description", "topic", "host"):
        value = getattr(where, name)
        if value is not None:
            found.append(getattr(BackupRow, name) == value)
    if where.name_like is not None:
        found.append(BackupRow.name.contains(where.name_like, autoescape=True))
    if where.description_like is not None:
        found.append(BackupRow.description.contains(where.description_like, autoescape=True))
    return found


_DESCRIBABLE = frozenset({"name", "description"})


def describe(session: Session, backup_id: str, changes: Mapping[str, str | None]) -> None:
    """Set name and description, the two columns that belong to the tenant.

    :raises BackupNotFound:
    """
    unknown = set(changes) - _DESCRIBABLE
    if unknown:
        raise ValueError(f"not describable: {sorted(unknown)}")
    statement = (
        update(BackupRow)
        .where(BackupRow.id == backup_id, BackupRow.deleted_at_us.is_(None))
        .values(**changes, updated_at_us=now_us())
    )
    if not changed_one(session, statement):
        raise exception.BackupNotFound(backup_id=backup_id)


def transition(session: Session, backup_id: str, event: BackupEvent, **values: Any) -> BackupStatus:
    """Fire ``event``: one conditional UPDATE, together with ``values`` of other columns.

    :returns: the new status.
    :raises BackupNotFound: there is no such undeleted row.
    :raises IllegalTransition: the status has no cell for the event; nothing was changed.
    :raises StaleRow: somebody changed the status between our look and our UPDATE.
    """
    before = get(session, backup_id).status
    after = BACKUP_TRANSITIONS.get((before, event))
    if after is None:
        raise exception.IllegalTransition(kind="backup", id=backup_id, status=before, event=event)
    if after is BackupStatus.DELETED:
        values["deleted_at_us"] = now_us()
    statement = (
        update(BackupRow)
        .where(BackupRow.id == backup_id, BackupRow.status == before)
        .values(status=after, updated_at_us=now_us(), **values)
    )
    if not changed_one(session, statement):
        raise exception.StaleRow(kind="backup", id=backup_id)
    return after


def set_progress(session: Session, backup_id: str, *, column: str, percent: int) -> None:
    """Raise ``progress`` or ``restore_progress``; never lowers it."""
    target = {"progress": BackupRow.progress, "restore_progress": BackupRow.restore_progress}[
        column
    ]
    session.execute(
        update(BackupRow)
        .where(BackupRow.id == backup_id, target < percent)
        .values({column: percent})
    )


def set_host(session: Session, backup_id: str, host: str) -> None:
    """The data node that works, or last worked, on the backup."""
    session.execute(update(BackupRow).where(BackupRow.id == backup_id).values(host=host))


def move_host(session: Session, old: str, new: str) -> int:
    """Backups of a node that has another name now; answers how many."""
    statement = update(BackupRow).where(BackupRow.host == old).values(host=new)
    return changed_rows(session, statement)
