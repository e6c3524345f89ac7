# SPDX-License-Identifier: Apache-2.0
"""Making, reading and describing backups; listing has a file of its own."""

from __future__ import annotations

import pytest
from oslo_db import exception as db_exc

from manila_backup import exception
from manila_backup.db import backups
from manila_backup.db.backups import BackupFilter, BackupSummary
from manila_backup.db.engine import Database
from manila_backup.db.models import BackupRow
from manila_backup.states import BackupEvent, BackupStatus
from manila_backup.types import BackupRef
from tests.db.builders import (
    NOON_US,
    OTHER_PROJECT,
    PROJECT,
    FakeClock,
    committed,
    new_backup,
    new_id,
    put_backup,
    row_of,
    stored_backup,
)

pytestmark = pytest.mark.every_database


def test_create(database: Database, clock: FakeClock) -> None:
    new = new_backup(size_gib=7, name="n", description="d", options={"a": "ä", "b": ""})
    made = database.write(lambda session: backups.create(session, new))
    with database.reader() as session:
        found = backups.get(session, made.id)
    assert found == made
    assert found.status is BackupStatus.CREATING
    assert (found.size_gib, found.charged_gib) == (7, 7)
    assert (found.name, found.description) == ("n", "d")
    assert found.options == {"a": "ä", "b": ""}
    assert (found.progress, found.restore_progress) == (0, 0)
    assert found.created_at_us == NOON_US
    assert (found.updated_at_us, found.deleted_at_us, found.stored_bytes) == (None, None, None)
    assert (found.published_epoch, found.published_ref) == (None, None)


def test_adopt_makes_what_the_manifest_describes(database: Database) -> None:
    ref = BackupRef(project_id=OTHER_PROJECT, backup_id=new_id(), epoch=3)
    stored = stored_backup(ref=ref, size_gib=5)
    made = database.write(lambda session: backups.adopt(session, stored, topic="t", host="node"))
    with database.reader() as session:
        found = backups.get(session, ref.backup_id)
    assert found == made
    assert found.status is BackupStatus.AVAILABLE
    assert found.published_ref == ref
    assert (found.size_gib, found.charged_gib, found.stored_bytes) == (5, 5, 10)
    assert (found.name, found.driver, found.options) == ("imported", "nfs", {"kept": "yes"})
    assert (found.progress, found.topic, found.host) == (100, "t", "node")


@pytest.mark.parametrize("status", ["available", "creating", "deleting", "error", "deleted"])
def test_adopt_harms_no_existing_row(database: Database, status: str) -> None:
    """A row that was deleted stays deleted: its data is litter, not a find."""
    ref = BackupRef(project_id=PROJECT, backup_id=new_id(), epoch=3)
    with database.writer() as session:
        put_backup(session, id=ref.backup_id, status=status)
    before = committed(database)
    with pytest.raises(db_exc.DBDuplicateEntry), database.writer() as session:
        backups.adopt(session, stored_backup(ref=ref), topic="t", host=None)
    assert committed(database) == before


def test_get_keeps_projects_apart(database: Database) -> None:
    with database.writer() as session:
        backup_id = put_backup(session, project_id=PROJECT)
    with database.reader() as session:
        assert backups.get(session, backup_id, project_id=PROJECT).id == backup_id
        assert backups.get(session, backup_id).id == backup_id
        with pytest.raises(exception.BackupNotFound) as refused:
            backups.get(session, backup_id, project_id=OTHER_PROJECT)
    assert refused.value.backup_id == backup_id


def test_a_change_is_seen_by_later_reads_of_the_same_session(database: Database) -> None:
    """The UPDATEs go past the session's own copies of rows."""
    with database.writer() as session:
        backup_id = put_backup(session, status="creating")
        backups.transition(session, backup_id, BackupEvent.CREATED, published_epoch=2)
        (listed,) = backups.find(session, BackupFilter(), BackupSummary)
        found = backups.get(session, backup_id)
        assert (found.status, found.published_epoch) == (BackupStatus.AVAILABLE, 2)
        assert (listed.id, listed.status) == (found.id, found.status)


def test_describe(database: Database, clock: FakeClock) -> None:
    with database.writer() as session:
        backup_id = put_backup(session, name="old", description="kept")
    clock.advance(5)
    with database.writer() as session:
        backups.describe(session, backup_id, {"name": None})
    with database.reader() as session:
        found = backups.get(session, backup_id)
    assert (found.name, found.description) == (None, "kept")
    assert found.updated_at_us == NOON_US + 5_000_000
    with database.writer() as session:
        backups.describe(session, backup_id, {"name": "new", "description": None})
    with database.reader() as session:
        found = backups.get(session, backup_id)
    assert (found.name, found.description) == ("new", None)


def test_describe_changes_nothing_else(database: Database) -> None:
    with database.writer() as session:
        backup_id = put_backup(session)
    before = committed(database)
    with pytest.raises(ValueError, match="charged_gib"), database.writer() as session:
        backups.describe(session, backup_id, {"name": "x", "charged_gib": "0"})
    assert committed(database) == before


def test_describe_of_what_is_not_there(database: Database) -> None:
    with database.writer() as session:
        deleted = put_backup(session, status="deleted")
    before = committed(database)
    for backup_id in (deleted, "nothing"):
        with pytest.raises(exception.BackupNotFound), database.writer() as session:
            backups.describe(session, backup_id, {"name": "x"})
    assert committed(database) == before


@pytest.mark.parametrize("column", ["progress", "restore_progress"])
def test_progress_never_falls(database: Database, column: str) -> None:
    with database.writer() as session:
        backup_id = put_backup(session)
        bystander = put_backup(session)
        seen = []
        for percent in (10, 5, 10, 60, 59, 100, 0):
            backups.set_progress(session, backup_id, column=column, percent=percent)
            seen.append(row_of(session, BackupRow, backup_id)[column])
        other = {"progress": "restore_progress", "restore_progress": "progress"}[column]
        assert row_of(session, BackupRow, backup_id)[other] == 0
        assert row_of(session, BackupRow, bystander)[column] == 0
    assert seen == [10, 10, 10, 60, 60, 100, 100]


def test_progress_has_two_columns_and_no_more(database: Database) -> None:
    with pytest.raises(KeyError), database.writer() as session:
        backups.set_progress(session, "x", column="charged_gib", percent=1)


def test_a_transition_of_what_is_not_there(database: Database) -> None:
    with pytest.raises(exception.BackupNotFound), database.writer() as session:
        backups.transition(session, "nothing", BackupEvent.DELETE)
