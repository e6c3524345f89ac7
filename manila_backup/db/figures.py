# SPDX-License-Identifier: Apache-2.0
"""What there is, counted over all projects: for monitoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, ColumnElement, cast, func, select, type_coerce
from sqlalchemy.orm import Session

from manila_backup.db import intents, services
from manila_backup.db.clock import US_PER_S
from manila_backup.db.models import BackupRow, OperationRow


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationFigures:
    """Of the operations of one kind and status. ``seconds`` from begin to end, ``bytes`` and
    ``files`` as their counters have them; those that have not ended count 0 seconds."""

    kind: str
    status: str
    count: int
    seconds: float
    bytes: int
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """``backups``: status -> (how many, bytes stored); ``outlived``: kind of intent -> how many
    wait for a reaper; ``silent_s``: (binary, host) -> seconds since it last reported."""

    operations: tuple[OperationFigures, ...]
    backups: dict[str, tuple[int, int]]
    outlived: dict[str, int]
    silent_s: dict[tuple[str, str], float]


def collect(session: Session) -> Figures:
    """Reads all rows of operations and backups: 6 to 8 s per million of both on MariaDB, so not to
    be asked for at every request. What was purged or deleted does not count.
    """
    outlived: dict[str, int] = {}
    for intent in intents.outlived(session):
        outlived[intent.kind] = outlived.get(intent.kind, 0) + 1
    status = BackupRow.status
    stored = func.coalesce(func.sum(BackupRow.stored_bytes), 0)
    backups = (
        select(status, func.count(), stored)
        .where(BackupRow.deleted_at_us.is_(None))
        .group_by(status)
    )
    return Figures(
        operations=tuple(_operations(session)),
        backups={name: (count, int(total or 0)) for name, count, total in session.execute(backups)},
        outlived=outlived,
        silent_s={
            (service.binary, service.host): service.silent_us / US_PER_S
            for service in services.find(session)
        },
    )


def _operations(session: Session) -> list[OperationFigures]:
    row = OperationRow
    took_us = row.finished_at_us - func.coalesce(row.started_at_us, row.finished_at_us)
    query = select(
        row.kind,
        row.status,
        func.count(),
        func.coalesce(func.sum(took_us), 0),
        *(func.coalesce(func.sum(_counter(session, name)), 0) for name in ("bytes", "files")),
    ).group_by(row.kind, row.status)
    return [
        OperationFigures(
            kind=kind,
            status=status,
            count=count,
            seconds=float(total_us) / US_PER_S,
            bytes=int(total_bytes),
            files=int(files),
        )
        for kind, status, count, total_us, total_bytes, files in session.execute(query)
    ]


def _counter(session: Session, name: str) -> ColumnElement[Any]:
    """One of the counters; SQLite would make a number of what is cast to JSON."""
    is_postgresql = session.get_bind().dialect.name == "postgresql"
    document = cast if is_postgresql else type_coerce
    counter: ColumnElement[Any] = document(OperationRow.counters, JSON)[name].as_numeric(20, 0)
    return counter
