# SPDX-License-Identifier: Apache-2.0
"""``manila-backup-manage`` beside a running service, and with nothing but the store."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.programs import BIN, Manage, compare_trees, run
from tests.acceptance.rest import PROJECT
from tests.acceptance.standalone import Standalone, running
from tests.acceptance.trees import copy, fill, fill_as_demo, flip_a_byte
from tests.acceptance.waiting import until
from tests.data.copy.file_systems import SMALL_INODES, FileSystems

pytestmark = pytest.mark.acceptance


@pytest.fixture
def manage(service: Standalone) -> Manage:
    return service.manage


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A backup and what it was made of."""

    backup_id: str
    original: Path
    directory: Path


@pytest.fixture(scope="module")
def stored(service: Standalone, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    original = fill_as_demo(tmp_path_factory.mktemp("stored") / "original", 50)
    return store(service, original, "stored")


def store(service: Standalone, original: Path, name: str) -> Stored:
    rest = service.rest()
    share_id = rest.create_share(name)
    copy(original, rest.tree(share_id))
    backup_id = rest.available_backup(share_id, name=name, description="für später")
    directory = service.store / PROJECT / backup_id / "1"
    return Stored(backup_id=backup_id, original=original, directory=directory)


# --- the database ---------------------------------------------------------------------------------


def test_db_version_and_services(manage: Manage, service: Standalone) -> None:
    ended = manage.run("db version")
    assert (ended.status, ended.out, ended.err) == (0, "0002\n", "")
    assert manage.run("db sync").status == 0
    (row,) = manage.json("service list")
    assert (row["Binary"], row["Host"], row["State"]) == (
        *("manila-backup-data", "standalone", "up"),
    )
    table = manage.run("service list").out
    assert "manila-backup-data" in table
    assert table.startswith("+-")


def test_a_disabled_node_takes_no_work_until_it_is_enabled(
    manage: Manage, service: Standalone
) -> None:
    rest = service.rest()
    share_id = rest.create_share("patient")
    assert "no data node is called nobody" in manage.run("service disable", "nobody").err
    (row,) = manage.json("service disable", "standalone", "--reason", "repair")
    assert (row["Status"], row["Disabled Reason"]) == ("disabled", "repair")
    assert manage.run("service drain", "standalone", "--timeout", "60").status == 0
    try:
        first = rest.create_backup(share_id)
        (waiting,) = manage.json("operation list")
        assert (waiting["Backup"], waiting["Status"]) == (first, "queued")
        shown = manage.json("operation show", waiting["ID"])
        assert (shown[0]["Share"], shown[0]["Lease Until"]) == (share_id, None)
        (cancelled,) = manage.json("operation cancel", waiting["ID"])
        assert cancelled["Status"] == "cancelled"
        assert manage.run("operation cancel", waiting["ID"]).status == 2
        assert rest.backup_status(first) == "error"
        second = rest.create_backup(share_id)
    finally:
        (row,) = manage.json("service enable", "standalone")
    assert (row["Status"], row["Disabled Reason"]) == ("enabled", None)
    until(lambda: rest.backup_status(second) == "available", "the backup that had waited")
    assert manage.json("operation list") == []
    done = manage.json("operation list", "--status", "done", "--host", "standalone")
    assert second in {row["Backup"] for row in done}
    assert manage.json("grants list") == []
    assert manage.run("operation show", "nothing").status == 2


def test_purge(manage: Manage, service: Standalone) -> None:
    rest = service.rest()
    backup_id = rest.available_backup(rest.create_share("purged"))
    rest.delete_backup(backup_id)
    rest.until_deleted(backup_id)
    (removed,) = manage.json("db purge", "--older-than", "1")
    assert removed == {"Backups": 0, "Operations": 0}
    (removed,) = manage.json("db purge", "--older-than", "0")
    assert removed["Backups"] >= 1
    assert removed["Operations"] >= 2
    assert manage.run("db purge", "--older-than", "-1").status == 2


def test_a_nodes_new_name(manage: Manage) -> None:
    ended = manage.run("backup update-host", "--from", "standalone", "--to", "other")
    assert ended.status == 2
    assert "standalone is up" in ended.err
    assert manage.json("backup update-host", "--from", "gone", "--to", "other") == [
        {"Backups": 0, "Operations": 0, "Left To Undo": 0}
    ]


def test_quotas(manage: Manage, service: Standalone) -> None:
    member = service.rest("ann:counted:member")
    share_id = member.create_share("counted", 2)
    member.available_backup(share_id)
    set_to = manage.json("quota set", "counted", "--backups", "1", "--backup-gigabytes", "-1")
    assert set_to == manage.json("quota show", "counted")
    assert {row["Resource"]: (row["In Use"], row["Limit"]) for row in set_to} == {
        "backups": (1, 1),
        "backup_gigabytes": (2, -1),
    }
    assert member.ask_backup(share_id).status == 413
    assert manage.run("quota set", "counted").status == 2
    assert "--backups" in manage.run("quota set", "counted", "--backups", "-2").err
    assert manage.json("quota check") == []
    drift(service, "counted", in_use=7)
    ended = manage.run("quota check", "--format", "json")
    assert ended.status == 1
    wrong = {"Project": "counted", "Resource": "backups", "In Use": 7, "Sum Of Backups": 1}
    assert ended.json == [wrong]
    assert manage.json("quota sync", "--project", "counted") == [wrong]
    assert manage.json("quota check") == []
    assert member.usage("counted") == (1, 2)


def drift(service: Standalone, project_id: str, *, in_use: int) -> None:
    with closing(sqlite3.connect(service.database, timeout=30)) as connection, connection:
        connection.execute(
            "UPDATE quota_usages SET in_use = ? WHERE project_id = ? AND resource = 'backups'",
            (in_use, project_id),
        )


# --- the store ------------------------------------------------------------------------------------


def test_verify_reads_everything_back(
    manage: Manage, service: Standalone, stored: Stored, tmp_path: Path
) -> None:
    (row,) = manage.json("backup verify", stored.backup_id)
    assert (row["Backup"], row["Result"]) == (stored.backup_id, "as stored")
    rotten = store(service, fill(tmp_path / "original"), "rotten")
    flip_a_byte(rotten.directory / "data" / "file")
    ended = manage.run("backup verify", rotten.backup_id, "--format", "json")
    assert ended.status == 1
    assert ended.json[0]["Result"] == "damaged"
    assert f"{rotten.backup_id}: file: " in ended.err
    ended = manage.run("backup verify", "00000000-0000-0000-0000-000000000000")
    assert ended.status == 1
    assert "no published backup 00000000" in ended.err
    # It is as it was: a tenant who restores it is told the same, and his share is not made worse
    # by a verification.
    assert service.rest().backup_status(rotten.backup_id) == "available"
    service.rest().delete_backup(rotten.backup_id)
    service.rest().until_deleted(rotten.backup_id)


def test_extract_into_an_empty_directory(manage: Manage, stored: Stored, tmp_path: Path) -> None:
    target = tmp_path / "extracted"
    (row,) = manage.json("backup extract", stored.backup_id, target)
    assert row["Directory"] == str(target)
    assert [row[kind] for kind in ("Skipped", "Changed", "Losses", "Warnings")] == [0, 0, 0, 0]
    assert compare_trees(stored.original, target) == []
    ended = manage.run("backup extract", stored.backup_id, target)
    assert ended.status == 2
    assert "is not empty" in ended.err
    assert compare_trees(stored.original, target) == []


@pytest.mark.root
def test_what_extracting_loses_is_counted_and_named(manage: Manage, service: Standalone) -> None:
    rest = service.rest()
    share_id = rest.create_share("precise")
    name = Path(rest.tree(share_id), "file")
    name.write_text("content")
    os.utime(name, ns=(1, 1))
    backup_id = rest.available_backup(share_id)
    with FileSystems() as made:
        ended = manage.run("backup extract", backup_id, made.new(SMALL_INODES), "--format", "json")
        assert ended.status == 3
        assert "losses: file: time" in ended.err.splitlines()
        assert ended.json[0]["Losses"] == len(ended.err.splitlines())
    rest.delete_backup(backup_id)
    rest.until_deleted(backup_id)


def test_the_store_alone_is_enough(service: Standalone, stored: Stored, tmp_path: Path) -> None:
    """On another machine, from a copy of the backup share: no database, no configuration."""
    elsewhere = tmp_path / "copy of the backup share"
    elsewhere.mkdir()
    copy(service.store, str(elsewhere))
    target = tmp_path / "extracted"
    program = BIN / "manila-backup-manage"
    config = tmp_path / "empty.conf"
    config.write_text(f"[DEFAULT]\nmount_directory = {tmp_path / 'mounts'}\n")
    words: list[str | Path] = [program, "--config-file", config, "backup"]
    ended = run([*words, "extract", "--store", elsewhere, stored.backup_id, target])
    assert ended.status == 0, ended.err
    assert compare_trees(stored.original, target) == []
    ended = run([*words, "verify", "--store", elsewhere, stored.backup_id, "--format", "json"])
    assert ended.status == 0, ended.err
    assert json.loads(ended.out)[0]["Result"] == "as stored"
    (elsewhere / PROJECT / stored.backup_id / "7").mkdir()
    ended = run([*words, "orphans", "--store", elsewhere, "--format", "json"])
    assert ended.status == 0, ended.err
    (orphan,) = json.loads(ended.out)
    assert orphan["Path"].rstrip("/") == f"{PROJECT}/{stored.backup_id}/7"
    assert "the database is not asked" in ended.err


def test_orphans_are_what_belongs_to_no_backup(
    manage: Manage, service: Standalone, stored: Stored
) -> None:
    assert manage.json("backup orphans") == []
    junk = service.store / PROJECT / "11111111-2222-3333-4444-555555555555" / "3"
    (junk / "data").mkdir(parents=True)
    late = stored.directory.with_name("9")
    late.mkdir()
    try:
        paths = [row["Path"] for row in manage.json("backup orphans")]
    finally:
        shutil.rmtree(junk.parent)
        late.rmdir()
    assert sorted(path.rstrip("/") for path in paths) == sorted(
        str(path.relative_to(service.store)) for path in (junk, late)
    )


def test_a_lost_database_is_made_again_from_the_store(state: Path, tmp_path: Path) -> None:
    original = fill(tmp_path / "original")
    with running(state) as service:
        made = store(service, original, "überlebt")
        rest = service.rest()
        other = rest.available_backup(rest.create_share("other", 3))
        assert results(service.manage.json("backup import")) == {
            made.backup_id: "has a row already",
            other: "has a row already",
        }
        before = rest.backup(made.backup_id)
    for path in state.glob("manila-backup.sqlite*"):
        path.unlink()
    with running(state) as service:
        rest = service.rest()
        assert rest.backups() == []
        dry = service.manage.json("backup import", "--dry-run")
        assert set(results(dry).values()) == {"would be imported"}
        assert rest.backups() == []
        only = service.manage.json("backup import", made.backup_id)
        assert results(only) == {made.backup_id: "imported"}
        after = rest.backup(made.backup_id)
        kept = ("id", "share_id", "name", "description", "size", "status", "created_at")
        assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
        assert rest.usage() == (1, 1)

        # What has a row is never changed by an import, whatever the store says.
        rest.accepted(
            "PUT", f"/share-backups/{made.backup_id}", {"share_backup": {"name": "renamed"}}
        )
        row = rest.backup(made.backup_id)
        assert results(service.manage.json("backup import")) == {
            made.backup_id: "has a row already",
            other: "imported",
        }
        assert rest.backup(made.backup_id) == row
        assert rest.usage() == (2, 4)
        assert service.manage.json("quota check") == []

        target = rest.create_share("target")
        rest.restored(made.backup_id, target)
        assert compare_trees(original, rest.tree(target)) == []


def results(rows: list[Any]) -> dict[str, str]:
    return {row["Backup"]: row["Result"] for row in rows}
