# SPDX-License-Identifier: Apache-2.0
"""The schema that migrations make is the schema that the models mean."""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import resources
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from oslo_db import exception as db_exc
from sqlalchemy import MetaData, Table, event, inspect

from manila_backup.db import migration
from manila_backup.db.engine import Database
from manila_backup.db.models import Base
from tests.db.builders import committed, put_backup
from tests.db.rivals import fault_at
from tests.support.databases import SERVERS

pytestmark = pytest.mark.slow


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Database]:
    """A database without a schema."""
    database = Database(f"sqlite:///{tmp_path / 'empty.sqlite'}")
    yield database
    database.close()


def tables(database: Database) -> set[str]:
    with database.reader_engine.connect() as connection:
        return set(inspect(connection).get_table_names())


def assert_as_the_models_mean(database: Database) -> None:
    with database.reader_engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []
        # What compare_metadata does not look at: columns' order and NULLs in keys.
        inspector = inspect(connection)
        for table in Base.metadata.sorted_tables:
            made = inspector.get_columns(table.name)
            meant = [(column.name, column.nullable) for column in table.columns]
            assert [(column["name"], column["nullable"]) for column in made] == meant
            key = inspector.get_pk_constraint(table.name)["constrained_columns"]
            assert key == [column.name for column in table.primary_key]


def test_from_nothing(empty: Database) -> None:
    assert migration.version(empty) is None
    migration.sync(empty)
    assert migration.version(empty) == migration.head()
    assert tables(empty) == {"alembic_version", *Base.metadata.tables}
    assert_as_the_models_mean(empty)


@pytest.fixture(params=["sqlite", *SERVERS])
def bare_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without a schema, of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'bare.sqlite'}"
        return
    with SERVERS[request.param]() as server:
        yield server.url


def fill(database: Database) -> None:
    """Two rows in each table as it is now, whatever its columns mean."""
    engine = database.reader_engine
    metadata = MetaData()
    metadata.reflect(engine)
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            if table.name != "alembic_version":
                connection.execute(table.insert(), [values(table, row) for row in (1, 2)])


def values(table: Table, row: int) -> dict[str, object]:
    """A value of the column's type in each: numbers that a byte can hold, for what MySQL means by
    BOOLEAN."""
    return {
        column.name: f"{row}{number}"
        if column.type.python_type is str
        else column.type.python_type(50 * row + number)
        for number, column in enumerate(table.columns)
    }


def rows(database: Database) -> dict[str, list[dict[str, object]]]:
    engine = database.reader_engine
    metadata = MetaData()
    metadata.reflect(engine)
    with engine.connect() as connection:
        return {
            table.name: [
                dict(row)
                for row in connection.execute(
                    table.select().order_by(*table.primary_key)
                ).mappings()
            ]
            for table in metadata.sorted_tables
            if table.name != "alembic_version"
        }


def test_rows_of_every_earlier_schema_are_there_after_the_upgrade(bare_url: str) -> None:
    """What a new column says of rows that are older than it is NULL."""
    database = Database(bare_url)
    for (earlier, _), (later, _) in itertools.pairwise(scripts()):
        migration.sync(database, earlier)
        fill(database)
        before = rows(database)
        migration.sync(database, later)
        after = rows(database)
        for name, seen in before.items():
            new = {column: None for column in set(after[name][0]) - set(seen[0])}
            assert after[name] == [{**row, **new} for row in seen]
        assert migration.version(database) == later
    assert_as_the_models_mean(database)
    database.close()


def test_again_changes_nothing(database: Database) -> None:
    with database.writer() as session:
        put_backup(session)
    before = committed(database)
    migration.sync(database)
    assert committed(database) == before
    assert migration.version(database) == migration.head()


def test_asking_for_the_version_makes_no_tables(empty: Database) -> None:
    assert migration.version(empty) is None
    assert tables(empty) == set()


def test_a_percent_sign_and_blanks_in_the_path(tmp_path: Path) -> None:
    directory = tmp_path / "100% of it"
    directory.mkdir()
    database = Database(f"sqlite:///{directory / 'state.sqlite'}")
    migration.sync(database)
    assert migration.version(database) == migration.head()
    database.close()


def test_killed_anywhere_it_can_be_run_again(tmp_path: Path) -> None:
    """A fault at every statement: what was done so far is either nothing or a whole revision."""
    revisions = {None, *(name for name, _ in scripts())}
    number, reached = 0, True
    while reached:
        database = Database(f"sqlite:///{tmp_path / f'{number}.sqlite'}")
        with fault_at(database, number) as was_reached:
            with suppress(db_exc.DBError):
                migration.sync(database)
            reached = was_reached()
        done = migration.version(database)
        assert done in revisions
        assert done is not None or tables(database) <= {"alembic_version"}
        migration.sync(database)
        assert migration.version(database) == migration.head()
        assert tables(database) == {"alembic_version", *Base.metadata.tables}
        database.close()
        number += 1
    assert number > len(Base.metadata.tables)


SYNC = """
import sys
from manila_backup.db import migration
from manila_backup.db.engine import Database

migration.sync(Database(sys.argv[1]))
"""


class Rival:
    """Another process that brings the schema up to date. It comes when we make our first table; if
    we begin another transaction of SQLite's after that, it has the time in between for itself."""

    def __init__(self, database: Database) -> None:
        self._url = database.connection
        self._process: subprocess.Popen[bytes] | None = None
        event.listen(database.writer_engine, "before_cursor_execute", self._act)

    def _act(self, connection: object, cursor: object, statement: str, *_: object) -> None:
        if self._process is None and "CREATE TABLE" in statement:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SYNC, self._url], stderr=subprocess.PIPE
            )
            with pytest.raises(subprocess.TimeoutExpired):
                self._process.wait(3)
        elif self._process is not None and statement == "BEGIN IMMEDIATE":
            self._process.wait(60)

    def ended(self) -> tuple[int, str]:
        assert self._process is not None
        _, said = self._process.communicate(timeout=120)
        return self._process.returncode, said.decode()


def test_two_processes_at_once(bare_url: str) -> None:
    """The operator runs ``db sync`` while another does, or the service starts."""
    database = Database(bare_url)
    rival = Rival(database)
    try:
        migration.sync(database)
    finally:
        status, said = rival.ended()
    assert status == 0, said
    assert migration.version(database) == migration.head()
    assert_as_the_models_mean(database)
    database.close()


# --- the scripts ----------------------------------------------------------------------------------


def scripts() -> list[tuple[str, ast.Module]]:
    """Revision and source of each script, in the order of their file names."""
    directory = resources.files("manila_backup.db") / "migrations" / "versions"
    files = sorted(
        (path for path in directory.iterdir() if path.name[:1].isdigit()),
        key=lambda path: path.name,
    )
    return [(path.name.split("_")[0], ast.parse(path.read_text())) for path in files]


def constants(module: ast.Module) -> dict[str, object]:
    return {
        target.id: statement.value.value
        for statement in module.body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def test_revisions_are_one_line_in_the_order_of_their_names() -> None:
    before = None
    for number, (name, module) in enumerate(scripts(), start=1):
        assert name == f"{number:04}"
        assert constants(module) == {"revision": name, "down_revision": before}
        before = name
    assert migration.head() == before


def test_every_revision_says_what_it_does() -> None:
    for name, module in scripts():
        assert ast.get_docstring(module), name
