# SPDX-License-Identifier: Apache-2.0
"""Each sentence of ``db/engine.py``, on real files."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from oslo_db import exception as db_exc
from sqlalchemy import text
from sqlalchemy.orm import Session

from manila_backup.db import backups
from manila_backup.db.backups import BackupFilter, BackupSummary
from manila_backup.db.engine import SQLITE_BUSY_TIMEOUT_S, Database
from tests.db.builders import committed, new_backup, new_id, put_backup


@contextmanager
def impatient(path: Path) -> Iterator[sqlite3.Connection]:
    """Another process's view of the file: a plain connection that never waits."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        yield connection


def listed(session: Session) -> list[BackupSummary]:
    return backups.find(session, BackupFilter(), BackupSummary)


def is_locked_out(path: Path) -> bool:
    """Whether a second writer would have to wait."""
    with impatient(path) as rival:
        try:
            rival.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        rival.execute("ROLLBACK")
        return False


# --- SQLite's settings ----------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["writer_engine", "reader_engine"])
def test_pragmas(database: Database, engine: str) -> None:
    with getattr(database, engine).connect() as connection:

        def pragma(name: str) -> object:
            return connection.execute(text(f"PRAGMA {name}")).scalar()

        assert pragma("journal_mode") == "wal"
        assert pragma("synchronous") == 2  # FULL: a committed row survives a power cut
        assert pragma("busy_timeout") == SQLITE_BUSY_TIMEOUT_S * 1000
        assert pragma("foreign_keys") == 1


def test_a_writer_locks_others_out_though_it_has_only_read(
    database: Database, database_file: Path
) -> None:
    with database.writer() as session:
        session.execute(text("SELECT count(*) FROM backups")).all()
        assert is_locked_out(database_file)
    assert not is_locked_out(database_file)


def test_a_writer_locks_others_out_before_its_first_statement_answers(
    database: Database, database_file: Path
) -> None:
    """What the first SELECT saw must still be true at the commit."""
    with database.writer() as session:
        session.connection()
        assert is_locked_out(database_file)


@pytest.mark.parametrize("ended_by", ["commit", "rollback"])
def test_later_transactions_of_one_connection_lock_too(
    database: Database, database_file: Path, ended_by: str
) -> None:
    """oslo.db forgets its marker at the end of each transaction, and would begin plainly."""
    with database.writer_engine.connect() as connection:
        for _ in range(3):
            connection.execute(text("SELECT 1"))
            assert is_locked_out(database_file)
            getattr(connection, ended_by)()
            assert not is_locked_out(database_file)


def test_a_reader_locks_nobody_out(database: Database, database_file: Path) -> None:
    with database.reader() as session:
        session.execute(text("SELECT count(*) FROM backups")).all()
        assert not is_locked_out(database_file)


def test_a_reader_does_not_wait_for_a_writer_and_sees_what_is_committed(
    database: Database,
) -> None:
    with database.writer() as writer:
        put_backup(writer)
        with database.reader() as session:
            assert listed(session) == []
    with database.reader() as session:
        assert len(listed(session)) == 1


def test_a_reader_sees_one_moment_throughout(database: Database) -> None:
    with database.reader() as session:
        assert listed(session) == []
        with database.writer() as writer:
            put_backup(writer)
        assert listed(session) == []


def test_a_reader_keeps_nothing(database: Database) -> None:
    before = committed(database)
    with database.reader() as session:
        put_backup(session)
    assert committed(database) == before


# --- transactions ---------------------------------------------------------------------------------


def test_a_writer_that_raises_keeps_nothing(database: Database, database_file: Path) -> None:
    before = committed(database)
    with pytest.raises(db_exc.DBDuplicateEntry), database.writer() as session:
        put_backup(session, id=put_backup(session))
    assert committed(database) == before
    assert not is_locked_out(database_file)


def test_a_writer_interrupted_from_the_keyboard_keeps_nothing(
    database: Database, database_file: Path
) -> None:
    before = committed(database)

    def change(session: Session) -> None:
        put_backup(session)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        database.write(change)
    assert committed(database) == before
    assert not is_locked_out(database_file)


def test_values_stay_readable_after_the_commit(database: Database) -> None:
    made = database.write(lambda session: backups.create(session, new_backup(name="mine")))
    assert made.name == "mine"


class Deadlocks:
    """A change that is chosen as a deadlock's victim ``times`` times, after it has written."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.calls = 0

    def __call__(self, session: Session) -> str:
        backup_id = put_backup(session)
        self.calls += 1
        if self.calls <= self.times:
            raise db_exc.DBDeadlock
        return backup_id


def test_write_tries_again_after_a_deadlock_and_takes_effect_once(database: Database) -> None:
    change = Deadlocks(2)
    backup_id = database.write(change)
    assert change.calls == 3
    assert [row[0] for row in committed(database)["backups"]] == [backup_id]


def test_write_gives_up_in_bounded_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    change = Deadlocks(1000)
    with pytest.raises(db_exc.DBDeadlock):
        database.write(change)
    assert change.calls == 10
    assert 0 < sum(waits) < 10
    assert committed(database)["backups"] == []


def test_write_does_not_repeat_other_errors(database: Database) -> None:
    calls = []

    def change(session: Session) -> None:
        calls.append(1)
        raise db_exc.DBDuplicateEntry

    with pytest.raises(db_exc.DBDuplicateEntry):
        database.write(change)
    assert calls == [1]


KILLED_BEFORE_THE_COMMIT = """
import sys
from manila_backup.db.engine import Database
from tests.db.builders import put_backup

with Database(sys.argv[1]).writer() as session:
    put_backup(session, id="of-the-dead")
    print("written", flush=True)
    sys.stdin.read()
"""


def test_a_writer_killed_before_its_commit_leaves_no_row_and_no_lock(
    database: Database, database_file: Path
) -> None:
    before = committed(database)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED_BEFORE_THE_COMMIT, f"sqlite:///{database_file}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        assert is_locked_out(database_file)
        os.kill(process.pid, signal.SIGKILL)
    assert not is_locked_out(database_file)
    assert committed(database) == before
    new = new_id()
    with database.writer() as session:
        put_backup(session, id=new)
    assert [row[0] for row in committed(database)["backups"]] == [new]


def test_closing_leaves_one_file(database_file: Path) -> None:
    database = Database(f"sqlite:///{database_file}")
    with database.writer() as session:
        put_backup(session)
    database.close()
    assert [path.name for path in database_file.parent.iterdir()] == [database_file.name]


def test_the_dialect_is_told(database: Database) -> None:
    assert database.dialect == "sqlite"
