# SPDX-License-Identifier: Apache-2.0
"""The quota ledger: what projects may use and what they use.

There are no reservations. A charge is made in the transaction that inserts the backup's row, and
taken back in the one that marks it deleted, so at every commit the usage of a project equals the
sum over its undeleted backups. :func:`check` proves that, :func:`sync` restores it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oslo_db import exception as db_exc
from sqlalchemy import CompoundSelect, delete, func, literal, null, select, union_all, update
from sqlalchemy.orm import Session

from manila_backup import exception
from manila_backup.db.models import BackupRow, QuotaRow, QuotaUsageRow
from manila_backup.db.rows import changed_one

BACKUPS = "backups"
GIGABYTES = "backup_gigabytes"
RESOURCES = (BACKUPS, GIGABYTES)
UNLIMITED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a project, or the defaults. -1 is unlimited."""

    backups: int = 10
    backup_gigabytes: int = 1000

    def of(self, resource: str) -> int:
        return self.backups if resource == BACKUPS else self.backup_gigabytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a project uses."""

    backups: int = 0
    backup_gigabytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A usage that does not equal the sum of its rows; never seen unless somebody edits tables."""

    project_id: str
    resource: str
    in_use: int
    expected: int


def limits(session: Session, project_id: str, defaults: Limits) -> Limits:
    """The project's own limits over the defaults."""
    query = select(QuotaRow.resource, QuotaRow.hard_limit).where(QuotaRow.project_id == project_id)
    own: Mapping[str, int] = {resource: limit for resource, limit in session.execute(query)}
    return Limits(**{name: own.get(name, defaults.of(name)) for name in RESOURCES})


def set_limit(session: Session, project_id: str, resource: str, limit: int) -> None:
    """Give a project a limit of its own. May be below its usage: then nothing new is accepted."""
    statement = (
        update(QuotaRow)
        .where(QuotaRow.project_id == project_id, QuotaRow.resource == resource)
        .values(hard_limit=limit)
    )
    if changed_one(session, statement):
        return
    try:
        with session.begin_nested():
            session.add(QuotaRow(project_id=project_id, resource=resource, hard_limit=limit))
    except db_exc.DBDuplicateEntry:
        # A rival made the row between our UPDATE and our INSERT: the later one counts.
        changed_one(session, statement)


def reset_limits(session: Session, project_id: str) -> None:
    """Back to the defaults. Idempotent."""
    session.execute(delete(QuotaRow).where(QuotaRow.project_id == project_id))


def usage(session: Session, project_id: str) -> Usage:
    """What the project uses now."""
    query = select(QuotaUsageRow.resource, QuotaUsageRow.in_use).where(
        QuotaUsageRow.project_id == project_id, QuotaUsageRow.resource.in_(RESOURCES)
    )
    return Usage(**{resource: in_use for resource, in_use in session.execute(query)})


def charge(session: Session, project_id: str, gigabytes: int, defaults: Limits) -> None:
    """Charge one backup of ``gigabytes``, if both limits allow it.

    To be called in the session that inserts the backup.
    :raises BackupLimitExceeded:
    :raises BackupGigabytesExceeded: nothing was charged once the session rolls back.
    """
    allowed = limits(session, project_id, defaults)
    if not _add(session, project_id, BACKUPS, 1, allowed.backups):
        raise exception.BackupLimitExceeded(allowed=allowed.backups)
    if not _add(session, project_id, GIGABYTES, gigabytes, allowed.backup_gigabytes):
        consumed = usage(session, project_id).backup_gigabytes
        raise exception.BackupGigabytesExceeded(
            requested=gigabytes, quota=allowed.backup_gigabytes, consumed=consumed
        )


def charge_unlimited(session: Session, project_id: str, gigabytes: int) -> None:
    """Charge an imported backup: it exists, so it counts, whatever the limit."""
    _add(session, project_id, BACKUPS, 1, UNLIMITED)
    _add(session, project_id, GIGABYTES, gigabytes, UNLIMITED)


def refund(session: Session, project_id: str, gigabytes: int) -> None:
    """Take one backup's charge back, in the session that marks it deleted. Never below zero."""
    for resource, amount in ((BACKUPS, 1), (GIGABYTES, gigabytes)):
        statement = update(QuotaUsageRow).where(
            QuotaUsageRow.project_id == project_id, QuotaUsageRow.resource == resource
        )
        enough = statement.where(QuotaUsageRow.in_use >= amount)
        if not changed_one(session, enough.values(in_use=QuotaUsageRow.in_use - amount)):
            session.execute(statement.values(in_use=0))


def _add(session: Session, project_id: str, resource: str, amount: int, limit: int) -> bool:
    """The limit stands in the UPDATE itself, so that two requests cannot both take the last one."""
    _ensure_row(session, project_id, resource)
    statement = update(QuotaUsageRow).where(
        QuotaUsageRow.project_id == project_id, QuotaUsageRow.resource == resource
    )
    if limit != UNLIMITED:
        statement = statement.where(QuotaUsageRow.in_use + amount <= limit)
    return changed_one(session, statement.values(in_use=QuotaUsageRow.in_use + amount))


def _ensure_row(session: Session, project_id: str, resource: str) -> None:
    query = select(QuotaUsageRow.in_use).where(
        QuotaUsageRow.project_id == project_id, QuotaUsageRow.resource == resource
    )
    if session.scalar(query) is not None:
        return
    try:
        with session.begin_nested():
            session.add(QuotaUsageRow(project_id=project_id, resource=resource, in_use=0))
    except db_exc.DBDuplicateEntry:
        # A rival made the row between our SELECT and our INSERT: as good as ours.
        return


def check(session: Session, project_id: str | None = None) -> list[Drift]:
    """Compare usage with the rows, for one project or all. Reads every undeleted backup once."""
    found: dict[tuple[str, str], int] = {}
    expected: dict[tuple[str, str], int] = {}
    for project, resource, in_use, count, gigabytes in session.execute(_figures(project_id)):
        if resource is not None:
            found[(project, resource)] = in_use
        else:
            expected[(project, BACKUPS)] = count
            expected[(project, GIGABYTES)] = int(gigabytes)
    return [
        Drift(
            project_id=key[0],
            resource=key[1],
            in_use=found.get(key, 0),
            expected=expected.get(key, 0),
        )
        for key in sorted(found.keys() | expected.keys())
        if found.get(key, 0) != expected.get(key, 0)
    ]


def _figures(project_id: str | None) -> CompoundSelect[Any]:
    """Usages, and sums over backups (told by a NULL resource), as of one moment.

    One statement: a create that commits between two of them would look like a drift.
    """
    used = select(
        QuotaUsageRow.project_id,
        QuotaUsageRow.resource,
        QuotaUsageRow.in_use,
        literal(0),
        literal(0),
    ).where(QuotaUsageRow.resource.in_(RESOURCES))
    summed = (
        select(
            BackupRow.project_id, null(), literal(0), func.count(), func.sum(BackupRow.charged_gib)
        )
        .where(BackupRow.deleted_at_us.is_(None))
        .group_by(BackupRow.project_id)
    )
    if project_id is not None:
        used = used.where(QuotaUsageRow.project_id == project_id)
        summed = summed.where(BackupRow.project_id == project_id)
    return union_all(used, summed)


def sync(session: Session, project_id: str | None = None) -> list[Drift]:
    """Set usage to what the rows say; returns what was wrong. Creates may go on meanwhile."""
    # Creates and deletes that would change these figures wait until we have committed.
    locked = select(QuotaUsageRow.in_use).with_for_update()
    if project_id is not None:
        locked = locked.where(QuotaUsageRow.project_id == project_id)
    session.execute(locked).all()
    return [drift for drift in check(session, project_id) if _correct(session, drift)]


def _correct(session: Session, drift: Drift) -> bool:
    """False when the usage is not what it was: a row that was not there yet to be locked, and a
    rival has charged the project's first backup.
    """
    _ensure_row(session, drift.project_id, drift.resource)
    statement = (
        update(QuotaUsageRow)
        .where(
            QuotaUsageRow.project_id == drift.project_id,
            QuotaUsageRow.resource == drift.resource,
            QuotaUsageRow.in_use == drift.in_use,
        )
        .values(in_use=drift.expected)
    )
    return changed_one(session, statement)
