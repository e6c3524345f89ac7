# SPDX-License-Identifier: Apache-2.0
"""``manila-backup-status upgrade check`` as operators and their deployment tools run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manila_backup.db import migration
from manila_backup.db.engine import Database
from tests.acceptance.programs import BIN, Ended, run
from tests.db.rivals import execute

pytestmark = pytest.mark.acceptance


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "manila-backup.conf"
    path.write_text(f"[database]\nconnection = sqlite:///{tmp_path}/db.sqlite\n")
    return path


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path}/db.sqlite")


def check(config: Path, *arguments: str) -> Ended:
    program = [BIN / "manila-backup-status", "--config-file", config]
    return run([*program, "upgrade", "check", *arguments])


def said(ended: Ended) -> str:
    """The text of the table, in one line."""
    return " ".join(word for word in ended.out.split() if word != "|")


def test_a_new_schema_may_be_started_on(config: Path, database: Database) -> None:
    migration.sync(database)
    ended = check(config)
    assert (ended.status, ended.err) == (0, "")
    assert "Database schema" in ended.out
    checks = json.loads(check(config, "--json").out)
    assert checks["name"] == "Upgrade Check Results"
    assert [found["result"] for found in checks["checks"]] == [0, 0, 0]


@pytest.mark.parametrize(
    ("revision", "text"),
    [(None, "db sync"), ("0001", "db sync"), ("9999", "newer version")],
)
def test_another_schema_may_not(
    config: Path, database: Database, revision: str | None, text: str
) -> None:
    if revision is not None:
        migration.sync(database, "0001")
        execute(database, "UPDATE alembic_version SET version_num = :now", now=revision)
    ended = check(config)
    assert ended.status == 2
    assert text in said(ended)


def test_what_is_wrong_in_the_rows_is_a_warning(config: Path, database: Database) -> None:
    migration.sync(database)
    execute(
        database,
        "INSERT INTO quota_usages (project_id, resource, in_use) VALUES ('p', 'backups', 3)",
    )
    ended = check(config)
    assert ended.status == 1
    assert "quota sync" in said(ended)


def test_a_missing_option_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.conf"
    empty.write_text("")
    ended = check(empty)
    assert ended.status == 2
    assert "option connection in group [database]" in said(ended)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    ended = check(tmp_path / "none.conf")
    assert ended.status == 255
    assert "none.conf" in ended.err
