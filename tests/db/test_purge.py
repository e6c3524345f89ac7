# SPDX-License-Identifier: Apache-2.0
"""What an operator has removed, and what stays whatever its age."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from manila_backup.db import intents, purge
from manila_backup.db.engine import Database
from manila_backup.db.intents import IntentKind
from manila_backup.db.models import BackupRow, OperationRow
from tests.db.builders import committed, put_backup, put_operation

pytestmark = pytest.mark.every_database

DAY_S = 86_400
OLD_US = 1_000_000
"""In 1970."""


def count(database: Database, table: type[BackupRow] | type[OperationRow]) -> int:
    with database.reader() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_what_is_over_for_long_goes(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "_BATCH", 3)
    with database.writer() as session:
        for _ in range(7):
            put_backup(session, status="deleted", deleted_at_us=OLD_US)
            put_operation(session, status="done", finished_at_us=OLD_US)
    assert purge.purge(database, older_than_s=DAY_S) == {"Backups": 7, "Operations": 7}
    assert (count(database, BackupRow), count(database, OperationRow)) == (0, 0)
    assert purge.purge(database, older_than_s=DAY_S) == {"Backups": 0, "Operations": 0}


def test_what_is_not_over_stays_and_what_is_over_since_a_short_time(database: Database) -> None:
    now_us = 4_000_000_000_000_000  # later than any clock says
    with database.writer() as session:
        put_backup(session, created_at_us=OLD_US)
        put_backup(session, status="deleted", deleted_at_us=now_us)
        for status in ("queued", "running"):
            put_operation(session, status=status, created_at_us=OLD_US)
        put_operation(session, status="failed", finished_at_us=now_us)
    before = committed(database)
    purge.purge(database, older_than_s=DAY_S)
    assert committed(database) == before


def test_an_operation_stays_that_has_left_something_behind(database: Database) -> None:
    """Its intents say what is to be undone, and would be nobody's without it."""
    with database.writer() as session:
        operation_id = put_operation(session, status="failed", finished_at_us=OLD_US)
        intent = intents.create(
            session,
            operation_id=operation_id,
            epoch=1,
            host="node-1",
            kind=IntentKind.GRANT,
            detail={"share_id": "s"},
        )
    assert purge.purge(database, older_than_s=DAY_S)["Operations"] == 0
    database.write(lambda session: intents.undone(session, intent.id))
    assert purge.purge(database, older_than_s=DAY_S)["Operations"] == 1
