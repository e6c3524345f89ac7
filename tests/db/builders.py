# SPDX-License-Identifier: Apache-2.0
"""Rows to start a test from, and the look at all of them afterwards."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.orm import Session

from manila_backup.db.backups import NewBackup
from manila_backup.db.clock import SQLITE_FUNCTION
from manila_backup.db.engine import Database
from manila_backup.db.models import BackupRow, Base, BusyShareRow, OperationRow
from manila_backup.db.operations import NewOperation
from manila_backup.states import OperationKind
from manila_backup.types import (
    BackupDescription,
    BackupRef,
    Counters,
    StoredBackup,
)

PROJECT = "4f1e0000-project"
OTHER_PROJECT = "9c2b0000-project"
NOON_US = 1_800_000_000_000_000
"""Some moment, for rows and clocks of tests."""

Contents = Mapping[str, list[tuple[Any, ...]]]

_EVERY_ROW = {
    table.name: select(table).order_by(*table.primary_key) for table in Base.metadata.sorted_tables
}


def contents(session: Session) -> Contents:
    """Every row of every table, as the session sees them."""
    session.flush()
    connection = session.connection()
    return {
        table: [tuple(row) for row in connection.execute(query)]
        for table, query in _EVERY_ROW.items()
    }


def committed(database: Database) -> Contents:
    """Every row of every table, as anybody else sees them."""
    with database.reader() as session:
        return contents(session)


def row_of(session: Session, table: type[Base], key: str) -> dict[str, Any]:
    """All columns of one row, by name."""
    columns = table.__table__.columns
    (primary_key,) = table.__table__.primary_key
    return dict(session.execute(select(*columns).where(primary_key == key)).mappings().one())


def new_id() -> str:
    return str(uuid.uuid4())


def new_backup(**changes: Any) -> NewBackup:
    """What an ordinary request asks for."""
    ordinary: dict[str, Any] = {
        "project_id": PROJECT,
        "user_id": "user-1",
        "share_id": new_id(),
        "share_name": "accounts",
        "share_proto": "NFS",
        "name": "nightly",
        "description": None,
        "size_gib": 1,
        "availability_zone": None,
        "topic": "manila-backup",
        "backup_type": None,
        "driver": "nfs",
        "options": {},
    }
    return NewBackup(**(ordinary | changes))


def new_operation(**changes: Any) -> NewOperation:
    """A create, as an ordinary request queues it."""
    ordinary: dict[str, Any] = {
        "kind": OperationKind.CREATE,
        "backup_id": new_id(),
        "share_id": new_id(),
        "project_id": PROJECT,
        "user_id": "user-1",
        "request_id": "req-1",
    }
    return NewOperation(**(ordinary | changes))


def stored_backup(**changes: Any) -> StoredBackup:
    """What a manifest in the store describes."""
    ordinary: dict[str, Any] = {
        "ref": BackupRef(project_id=PROJECT, backup_id=new_id(), epoch=3),
        "share_id": new_id(),
        "share_name": "accounts",
        "share_proto": "NFS",
        "size_gib": 1,
        "user_id": None,
        "name": "imported",
        "description": None,
        "availability_zone": None,
        "created_at": "2026-11-21T00:00:00.000000",
        "options": {"kept": "yes"},
    }
    return StoredBackup(
        description=BackupDescription(**(ordinary | changes)),
        driver="nfs",
        counters=Counters(files=2, bytes=10),
        stored_bytes=10,
        logical_bytes=12,
        format_version=1,
    )


def put_backup(session: Session, **columns: Any) -> str:
    """Insert a backup in any state, past the functions under test; returns its id."""
    ordinary: dict[str, Any] = {
        "id": new_id(),
        "project_id": PROJECT,
        "share_id": new_id(),
        "share_proto": "NFS",
        "status": "available",
        "size_gib": 1,
        "charged_gib": columns.get("size_gib", 1),
        "deleted_at_us": NOON_US if columns.get("status") == "deleted" else None,
        "driver": "nfs",
        "options": "{}",
        "progress": 0,
        "restore_progress": 0,
        "created_at_us": NOON_US,
    }
    row = BackupRow(**(ordinary | columns))
    session.add(row)
    session.flush()
    return row.id


def put_operation(session: Session, **columns: Any) -> str:
    """Insert an operation in any state, past the functions under test; returns its id."""
    backup_id = columns.get("backup_id", new_id())
    status = columns.get("status", "queued")
    active = status in ("queued", "running")
    ordinary: dict[str, Any] = {
        "id": new_id(),
        "kind": "create",
        "status": "queued",
        "backup_id": backup_id,
        "active_backup_id": backup_id if active else None,
        "share_id": new_id(),
        "project_id": PROJECT,
        "epoch": 0,
        "not_before_us": NOON_US,
        "lease_until_us": 1 if status == "running" else None,
        "attempts": 0,
        "cancel_requested": False,
        "then_delete": False,
        "share_written": False,
        "share_was_in_error": False,
        "progress": 0,
        "counters": json.dumps(asdict(Counters())),
        "created_at_us": NOON_US,
    }
    row = OperationRow(**(ordinary | columns))
    session.add(row)
    session.flush()
    return row.id


def put_busy_share(session: Session, **columns: Any) -> str:
    """Insert a busy share, past the functions under test; returns the share's id."""
    ordinary: dict[str, Any] = {
        "share_id": new_id(),
        "status": "backup_creating",
        "operation_id": new_id(),
        "project_id": PROJECT,
        "created_at_us": NOON_US,
        "updated_at_us": NOON_US,
    }
    row = BusyShareRow(**(ordinary | columns))
    session.add(row)
    session.flush()
    return row.share_id


def without(rows: Contents, *tables: str) -> Contents:
    """The same without some tables."""
    return {name: found for name, found in rows.items() if name not in tables}


def ids(things: Iterable[Any]) -> list[str]:
    return [thing.id for thing in things]


class FakeClock:
    """The database's clock in the test's hand, for connections opened from now on."""

    def __init__(self, database: Database, now_us: int = NOON_US) -> None:
        self.now_us = now_us
        for engine in {database.writer_engine, database.reader_engine}:
            event.listen(engine, "connect", self._install)

    def _install(self, dbapi_connection: Any, record: Any) -> None:
        dbapi_connection.create_function(SQLITE_FUNCTION, 0, lambda: self.now_us)

    def advance(self, seconds: float) -> None:
        self.now_us += int(seconds * 1_000_000)
