# SPDX-License-Identifier: Apache-2.0
"""Rivals that act exactly between two statements of ours.

SQLite as we use it lets nobody in between (BEGIN IMMEDIATE); the databases of a larger site do.
So that the conditions in our UPDATEs are what protects, and not SQLite's lock, the session under
test runs here without a transaction: each of its statements sees all that others have committed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from oslo_db import exception as db_exc
from sqlalchemy import Engine, event, text

from manila_backup.db.engine import Database


class EveryStatementCommits(Database):
    """A database whose writers hold no lock between two statements, as with READ COMMITTED."""

    def __init__(self, connection: str) -> None:
        super().__init__(connection)
        self.writer_engine.dispose()
        # The engine that does not begin with BEGIN IMMEDIATE, kept from beginning at all.
        self.writer_engine = self.reader_engine
        for moment in ("commit", "rollback"):
            event.listen(self.writer_engine, moment, _as_if_begun)
        event.listen(self.writer_engine, "connect", _as_if_begun_record)


def _as_if_begun(connection: Any) -> None:
    connection.info["in_transaction"] = True


def _as_if_begun_record(dbapi_connection: Any, record: Any) -> None:
    record.info["in_transaction"] = True


@contextmanager
def rival_before(
    database: Database, statement: str, act: Callable[[], object], *, every: bool = False
) -> Iterator[None]:
    """Let ``act`` happen before the first statement that begins with ``statement``, or each.

    Fails if there was no such statement: a rival that never acts proves nothing.
    """
    acted = False

    def listener(connection: Any, cursor: Any, sql: str, *_: Any) -> None:
        nonlocal acted
        if (every or not acted) and _squeezed(sql).startswith(statement):
            acted = True
            act()

    with _listening(database.writer_engine, listener):
        yield
    assert acted, f"no statement began with {statement!r}"


def _squeezed(sql: str) -> str:
    return re.sub(r"\s+", " ", sql).strip()


@contextmanager
def _listening(engine: Engine, listener: Callable[..., None]) -> Iterator[None]:
    event.listen(engine, "before_cursor_execute", listener)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", listener)


def injected() -> Exception:
    """The database failed somehow, and trying again would not help."""
    error: Exception = db_exc.DBError("injected")
    return error


@contextmanager
def fault_at(
    database: Database, number: int, fault: Callable[[], Exception] = injected
) -> Iterator[Callable[[], bool]]:
    """Fail before the ``number``-th statement of a writer (from 0); commits count as statements.

    Gives a function that tells whether the fault was reached. Later statements are not disturbed,
    so that a second attempt gets through.
    """
    engine = database.writer_engine
    done = 0

    def step(*_: Any) -> None:
        nonlocal done
        done += 1
        if done == number + 1:
            raise fault()

    event.listen(engine, "before_cursor_execute", step)
    event.listen(engine, "commit", step)
    try:
        yield lambda: done > number
    finally:
        event.remove(engine, "before_cursor_execute", step)
        event.remove(engine, "commit", step)


def execute(database: Database, sql: str, **parameters: Any) -> None:
    """Commit one statement by hand, past all functions; it must change one row."""
    with database.writer() as session:
        changed: Any = session.execute(text(sql), parameters)
        assert changed.rowcount == 1, sql
