# SPDX-License-Identifier: Apache-2.0
"""Runs the migrations in the database that ``db.migration`` hands over, one process at a time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from alembic import context
from sqlalchemy import Connection, text

from manila_backup.db.models import Base

WAIT_S = 3600
LOOK_EVERY_S = 0.2
LOCKS = {
    "mysql": ("SELECT GET_LOCK(:name, 0)", "SELECT RELEASE_LOCK(:name)"),
    "postgresql": (
        "SELECT pg_try_advisory_lock(hashtext(:name))",
        "SELECT pg_advisory_unlock(hashtext(:name))",
    ),
}
"""They end with the connection, whatever becomes of us. SQLite needs none: there the look at the
version and all that follows are one transaction, which holds the write lock from its start."""


@contextmanager
def alone(connection: Connection) -> Iterator[None]:
    """:raises RuntimeError: somebody else has been at it for an hour."""
    if connection.dialect.name not in LOCKS:
        yield
        return
    take, give_back = LOCKS[connection.dialect.name]
    # Names of MySQL are the whole server's, and at most 64 characters long.
    name = {"name": f"manila_backup {connection.engine.url.database}"[:64]}
    until_s = time.monotonic() + WAIT_S
    # Looked at again and again: a waiting statement would end at the server's lock_timeout.
    while not _scalar(connection, take, name):
        if time.monotonic() > until_s:
            raise RuntimeError("another process has been changing the schema for an hour")
        time.sleep(LOOK_EVERY_S)
    try:
        yield
    finally:
        connection.rollback()
        _scalar(connection, give_back, name)


def _scalar(connection: Connection, statement: str, name: dict[str, str]) -> object:
    """In a transaction of its own, which is over then."""
    found: object = connection.execute(text(statement), name).scalar()
    connection.commit()
    return found


database = context.config.attributes["database"]
with database.writer_engine.connect() as connection, alone(connection):
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        # Alembic thinks that Python's sqlite3 cannot; ours begins transactions itself.
        transactional_ddl=True if connection.dialect.name == "sqlite" else None,
    )
    with context.begin_transaction():
        context.run_migrations()
