# SPDX-License-Identifier: Apache-2.0
"""Connections, transactions and retries.

One transition is one transaction. A transaction never holds a mount, an HTTP call or a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from oslo_db import exception as db_exc
from oslo_db.sqlalchemy import engines
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.orm import Session
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from manila_backup.db import clock

T = TypeVar("T")

SQLITE_BUSY_TIMEOUT_S = 30
"""How long a writer waits for another process's write lock (the manage command beside the
service, for example)."""


class Database:
    """Hands out sessions. Shared by all threads of a process; never inherited by a fork.

    :param connection: SQLAlchemy URL, ``sqlite:////path``, ``mysql+pymysql://`` or
        ``postgresql+psycopg2://``.
    """

    def __init__(self, connection: str) -> None:
        self.connection = connection
        self.writer_engine = _create_engine(connection, writer=True)
        self.reader_engine = (
            _create_engine(connection, writer=False)
            if self.writer_engine.dialect.name == "sqlite"
            else self.writer_engine
        )

    @property
    def dialect(self) -> str:
        return self.writer_engine.dialect.name

    @contextmanager
    def reader(self) -> Iterator[Session]:
        """A read-only transaction; on SQLite it never waits for a writer."""
        with Session(self.reader_engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writer(self) -> Iterator[Session]:
        """A transaction that commits when the block ends and rolls back when it raises.

        On SQLite it takes the write lock at once (BEGIN IMMEDIATE), so that what was read stays
        true until the commit.
        """
        with Session(self.writer_engine, expire_on_commit=False) as session, session.begin():
            yield session

    def write(self, change: Callable[[Session], T]) -> T:
        """Run ``change`` in a writer transaction, again after a deadlock.

        ``change`` must have no effects but those in its session.
        """
        for attempt in Retrying(
            retry=retry_if_exception_type(db_exc.DBDeadlock),
            stop=stop_after_attempt(10),
            wait=wait_random_exponential(multiplier=0.02, max=1),
            reraise=True,
        ):
            with attempt, self.writer() as session:
                return change(session)
        raise AssertionError("unreachable")  # pragma: no cover

    def close(self) -> None:
        self.writer_engine.dispose()
        self.reader_engine.dispose()


def _create_engine(connection: str, *, writer: bool) -> Engine:
    engine: Engine = engines.create_engine(
        connection,
        sqlite_fk=True,
        sqlite_synchronous=True,
        mysql_sql_mode="TRADITIONAL",
        max_retries=0,
    )
    if engine.dialect.name in ("mysql", "mariadb"):
        # As PostgreSQL by default: each statement sees what is committed. With REPEATABLE READ a
        # SELECT after a lost race would answer with the past, and gaps between rows be locked.
        engine = engine.execution_options(isolation_level="READ COMMITTED")
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        if writer:
            _begin_immediate(engine)
    return engine


def _prepare_sqlite(dbapi_connection: Any, record: Any) -> None:
    dbapi_connection.create_function(clock.SQLITE_FUNCTION, 0, clock.system_now_us)
    dbapi_connection.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_S * 1000}")
    dbapi_connection.execute("PRAGMA journal_mode = WAL")
    dbapi_connection.execute("PRAGMA synchronous = FULL")


def _begin_immediate(engine: Engine) -> None:
    """Make transactions of ``engine`` start with BEGIN IMMEDIATE.

    oslo.db's own listener emits a plain BEGIN unless it finds its marker, and takes the marker
    away at the end of each transaction; so the marker is kept set, and we begin ourselves.
    """

    def mark(dbapi_connection: Any, record: Any) -> None:
        record.info["in_transaction"] = True

    def mark_again(connection: Connection) -> None:
        connection.info["in_transaction"] = True

    def begin(connection: Connection) -> None:
        connection.execute(text("BEGIN IMMEDIATE"))

    event.listen(engine, "connect", mark)
    event.listen(engine, "commit", mark_again)
    event.listen(engine, "rollback", mark_again)
    event.listen(engine, "begin", begin)
