# SPDX-License-Identifier: Apache-2.0
"""Listing backups, compared with a naive sort and filter of the same rows in Python."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from manila_backup import exception
from manila_backup.db import backups
from manila_backup.db.backups import (
    SORT_COLUMNS,
    Backup,
    BackupDetail,
    BackupFilter,
    BackupSummary,
)
from manila_backup.db.engine import Database
from tests.db.builders import OTHER_PROJECT, PROJECT, ids, put_backup

SORTED_BY = {
    # Key of the API -> attribute of a backup, written out by hand.
    "id": "id",
    "status": "status",
    "size": "size_gib",
    "share_id": "share_id",
    "progress": "progress",
    "restore_progress": "restore_progress",
    "name": "name",
    "display_name": "name",
    "description": "description",
    "host": "host",
    "topic": "topic",
    "project_id": "project_id",
    "availability_zone": "availability_zone",
    "created_at": "created_at_us",
    "updated_at": "updated_at_us",
}
NAMES = [None, "", "a", "A", "b", "b", "ä", "a_b", "a%b", "azb", "a/b", None, "z\n", "日本"]


def rows() -> list[dict[str, Any]]:
    """Ties and NULLs in every column that can have them; ids in no order of anything else."""
    return [
        {
            "id": f"{(5 * number) % 14:08}-backup",
            "project_id": PROJECT if number % 3 else OTHER_PROJECT,
            "share_id": f"share-{number % 5}",
            "status": ["available", "error", "creating", "deleting"][number % 4],
            "size_gib": number % 3,
            "progress": 10 * (number % 4),
            "restore_progress": 10 * (number % 3),
            "name": NAMES[number],
            "description": [None, "50% off", "50 times off", "x", "x"][number % 5],
            "host": [None, "node-1", "node-2"][number % 3],
            "topic": [None, "t"][number % 2],
            "availability_zone": [None, "az-1", "az-2", "az-1"][number % 4],
            "created_at_us": 1000 + number // 3,
            "updated_at_us": None if number % 4 == 1 else 3000 - number // 2,
        }
        for number in range(14)
    ]


@pytest.fixture(scope="module")
def listed(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    path = shutil.copy(migrated_file, tmp_path_factory.mktemp("listed"))
    database = Database(f"sqlite:///{path}")
    with database.writer() as session:
        for columns in rows():
            put_backup(session, **columns)
        put_backup(session, status="deleted", name="a", share_id="share-1", host="node-1")
    yield database
    database.close()


@pytest.fixture
def session(listed: Database) -> Iterator[Session]:
    with listed.reader() as session:
        yield session


def find(session: Session, where: BackupFilter | None = None, **how: Any) -> list[Backup]:
    """Whole backups, in the order of the listing."""
    page = backups.find(session, where or BackupFilter(), BackupSummary, **how)
    return [backups.get(session, found.id) for found in page]


def naive(found: list[Backup], attribute: str, *, descending: bool) -> list[str]:
    """Ids sorted the slow way: ties by id in the same direction, and what has no value last in
    both."""
    by_id = sorted(found, key=lambda backup: backup.id, reverse=descending)
    valued = [backup for backup in by_id if getattr(backup, attribute) is not None]
    # The sort keeps ties in their order, in reverse, too.
    valued.sort(key=lambda backup: getattr(backup, attribute), reverse=descending)
    return ids(valued) + ids(b for b in by_id if getattr(b, attribute) is None)


def test_the_sort_keys_are_these() -> None:
    assert set(SORT_COLUMNS) == set(SORTED_BY)


@pytest.mark.parametrize("descending", [False, True], ids=["asc", "desc"])
@pytest.mark.parametrize("sort_key", SORTED_BY)
def test_order(session: Session, sort_key: str, descending: bool) -> None:
    found = find(session, sort_key=sort_key, descending=descending)
    assert len(found) == 14
    assert ids(found) == naive(found, SORTED_BY[sort_key], descending=descending)


@pytest.mark.parametrize("limit", [1, 4])
@pytest.mark.parametrize("descending", [False, True], ids=["asc", "desc"])
@pytest.mark.parametrize("sort_key", SORTED_BY)
def test_pages_by_marker_are_pages_by_offset_are_the_whole(
    session: Session, sort_key: str, descending: bool, limit: int
) -> None:
    def page(**where: Any) -> list[str]:
        found = find(session, sort_key=sort_key, descending=descending, **where)
        return ids(found)

    whole = page()
    by_marker, by_offset = page(limit=limit), page(limit=limit)
    for _ in whole:  # a bound: pages that repeat themselves would never end
        by_marker += page(limit=limit, marker=by_marker[-1])
        by_offset += page(limit=limit, offset=len(by_offset))
    assert by_marker == whole
    assert by_offset == whole


@pytest.mark.parametrize("kind", [BackupSummary, BackupDetail])
def test_a_listing_has_what_the_rows_have(
    session: Session, kind: type[BackupSummary | BackupDetail]
) -> None:
    page = backups.find(session, BackupFilter(), kind)
    assert len(page) == 14
    for found in page:
        whole = backups.get(session, found.id)
        assert found._asdict() == {name: getattr(whole, name) for name in kind._fields}


def test_newest_first_is_the_default(session: Session) -> None:
    found = find(session)
    assert ids(found) == naive(found, "created_at_us", descending=True)


def test_a_page_beyond_the_end_is_empty(session: Session) -> None:
    assert find(session, offset=14) == []
    assert find(session, limit=0) == []
    last = find(session)[-1]
    assert find(session, marker=last.id) == []


def test_offset_without_limit_counts_from_the_marker(session: Session) -> None:
    whole = find(session)
    assert find(session, offset=3) == whole[3:]
    assert find(session, marker=whole[4].id, offset=2) == whole[7:]


def test_a_marker_of_a_filtered_list_need_not_match_the_filter(session: Session) -> None:
    """A backup may change its status between two pages."""
    whole = find(session)
    marker = next(backup for backup in whole if backup.status == "error")
    after = whole[whole.index(marker) + 1 :]
    found = find(session, BackupFilter(status="available"), marker=marker.id)
    assert found == [backup for backup in after if backup.status == "available"]


def test_an_unknown_marker_is_told(session: Session) -> None:
    with pytest.raises(exception.BackupNotFound):
        find(session, marker="nothing")


def test_another_projects_backup_is_no_marker(session: Session) -> None:
    """Else the length of my pages, sorted by name, would tell what the other's name is."""
    (foreign, *_) = find(session, BackupFilter(project_id=OTHER_PROJECT))
    with pytest.raises(exception.BackupNotFound):
        find(session, BackupFilter(project_id=PROJECT), marker=foreign.id)
    assert find(session, marker=foreign.id)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("project_id", [PROJECT, OTHER_PROJECT, "nobody"]),
        ("share_id", ["share-0", "share-1", "share-9"]),
        ("status", ["available", "error", "deleted"]),
        ("name", ["", "a", "A", "b", "a_b", "a%b", "z\n", "日本", "ä", "nothing"]),
        ("description", ["50% off", "x", "50"]),
        ("topic", ["t", "T"]),
        ("host", ["node-1", "node"]),
    ],
)
def test_equality_filters(session: Session, name: str, values: list[str]) -> None:
    whole = find(session)
    for value in values:
        found = find(session, BackupFilter(**{name: value}))
        assert found == [backup for backup in whole if getattr(backup, name) == value], value


def test_filters_add_up(session: Session) -> None:
    whole = find(session)
    found = find(session, BackupFilter(project_id=PROJECT, share_id="share-1", host="x"))
    assert found == []
    found = find(session, BackupFilter(project_id=PROJECT, share_id="share-1"))
    assert found == [b for b in whole if (b.project_id, b.share_id) == (PROJECT, "share-1")]
    assert found


@pytest.mark.parametrize(
    "part", ["_", "%", "/", "a_", "a%b", "%%", "_b", "\n", "本", "b", "\\", "'"]
)
def test_like_takes_every_character_for_itself(session: Session, part: str) -> None:
    whole = find(session)
    by_name = find(session, BackupFilter(name_like=part))
    assert by_name == [b for b in whole if b.name is not None and part in b.name]
    by_description = find(session, BackupFilter(description_like=part))
    assert by_description == [
        b for b in whole if b.description is not None and part in b.description
    ]


def test_like_of_nothing_matches_every_text(session: Session) -> None:
    whole = find(session)
    found = find(session, BackupFilter(name_like=""))
    assert found == [backup for backup in whole if backup.name is not None]


def test_deleted_backups_are_unseen(database: Database) -> None:
    with database.writer() as session:
        deleted = put_backup(session, status="deleted", name="gone")
        kept = put_backup(session, name="kept")
    with database.reader() as session:
        assert ids(find(session)) == [kept]
        assert find(session, BackupFilter(status="deleted")) == []
        assert find(session, BackupFilter(name="gone")) == []
        with pytest.raises(exception.BackupNotFound):
            find(session, marker=deleted)
        with pytest.raises(exception.BackupNotFound):
            backups.get(session, deleted)
        assert backups.exists(session, deleted)


@pytest.mark.parametrize(
    ("where", "index"),
    [
        (BackupFilter(project_id=PROJECT), "backups_project_created_idx"),
        (BackupFilter(), "backups_created_idx"),
    ],
    ids=["of a project", "of all"],
)
def test_the_newest_are_found_by_an_index_alone(
    session: Session, where: BackupFilter, index: str
) -> None:
    """Without sorting what is there: SQLite says how it would go about it."""
    plans: list[str] = []

    def explain(connection: Any, cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        if sql.startswith("SELECT backups") and "ORDER BY" in sql:
            raw = connection.connection.cursor()
            raw.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)
            plans.extend(row[3] for row in raw.fetchall())

    engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", explain)
    find(session, where, limit=100)
    event.remove(engine, "before_cursor_execute", explain)
    assert any(index in plan for plan in plans)
    assert sum("ORDER BY" in plan for plan in plans) == 1, "only the page is sorted"
