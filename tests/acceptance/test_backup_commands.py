# SPDX-License-Identifier: Apache-2.0
"""Every ``openstack share backup`` command with every option, but for restores."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from manilaclient.common.constants import (  # type: ignore[import-untyped]
    BACKUP_SORT_KEY_VALUES,
    SORT_DIR_VALUES,
)

from tests.acceptance.programs import OpenStack, compare_trees
from tests.acceptance.rest import Rest
from tests.acceptance.standalone import Standalone
from tests.acceptance.trees import copy, fill

pytestmark = pytest.mark.acceptance

SHOWN_TO_ADMINS = {
    *("id", "share_id", "status", "availability_zone", "created_at", "updated_at", "size"),
    *("progress", "restore_progress", "name", "description", "backup_type", "host", "topic"),
}


# --- create ---------------------------------------------------------------------------------------


def test_create_with_every_option_and_names_in_any_script(
    client: OpenStack, rest: Rest, service: Standalone
) -> None:
    share_id = rest.create_share("Проекты 資料")
    made = client.json(
        "share backup create",
        "Проекты 資料",
        *("--name", "Überwachung 🗄 дело"),
        *("--description", "наше «всё», ça va"),
        *("--backup-options", "dummy=true"),
    )
    assert set(made) == SHOWN_TO_ADMINS
    assert made["share_id"] == share_id
    assert made["name"] == "Überwachung 🗄 дело"
    assert made["description"] == "наше «всё», ça va"
    assert made["status"] == "creating"
    assert (made["size"], made["backup_type"]) == (1, "nfs")
    rest.until_done(made["id"])
    shown = client.json("share backup show", "Überwachung 🗄 дело")
    assert set(shown) == SHOWN_TO_ADMINS
    assert shown["id"] == made["id"]
    assert (shown["status"], shown["progress"]) == ("available", "100")
    assert service.epochs(made["id"]) == [1]


def test_create_without_any_option_by_the_id_of_the_share(client: OpenStack, rest: Rest) -> None:
    share_id = rest.create_share("plain")
    made = client.json("share backup create", share_id)
    assert made["name"] is None
    assert made["description"] is None
    rest.until_done(made["id"])


def test_an_unknown_backup_option_is_named(client: OpenStack, rest: Rest) -> None:
    share_id = rest.create_share("optional")
    said = client.fails(
        "share backup create",
        share_id,
        *("--backup-options", "dummy=true"),
        *("--backup-options", "compression=zstd"),
    )
    assert "share_backup.backup_options: these keys are not known: compression." in said
    assert "(HTTP 400)" in said
    assert [found for found in rest.backups() if found["share_id"] == share_id] == []
    assert rest.share_status(share_id) == "available"


def test_create_of_an_unknown_share(client: OpenStack) -> None:
    said = client.fails("share backup create", "nobody knows it")
    assert "No share with a name or ID of 'nobody knows it' exists." in said


def test_the_quota_speaks_to_a_member_through_the_client(service: Standalone) -> None:
    member = service.rest("ann:narrow:member")
    share_id = member.create_share("narrow")
    service.rest().set_quota("narrow", backups=0)
    said = service.client("ann:narrow:member").fails("share backup create", share_id)
    assert "(HTTP 413)" in said
    assert "Maximum number of backups allowed (0) exceeded" in said
    assert member.usage("narrow") == (0, 0)


# --- list -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listed(service: Standalone) -> list[Any]:
    """The project's backups, different in all that can be different, newest first."""
    rest = service.rest("ann:listed:member")
    shares = [rest.create_share("first", 3), rest.create_share("second", 1)]
    names = ["alpha", "beta", "gamma-alpha", "Δελτα"]
    ids = []
    for number, name in enumerate(names):
        share_id = shares[number % 2]
        ids.append(rest.available_backup(share_id, name=name, description=f"number-{number}-%_"))
    rest.restored(ids[2])
    admin = service.rest()
    admin.accepted("POST", f"/share-backups/{ids[1]}/action", {"reset_status": {"status": "error"}})
    return rest.backups()


LISTED = "ann:listed:member,admin"


def test_list_shows_the_columns(service: Standalone, listed: list[Any]) -> None:
    client = service.client(LISTED)
    assert client.json("share backup list") == [
        {
            "ID": backup["id"],
            "Name": backup["name"],
            "Share ID": backup["share_id"],
            "Status": backup["status"],
        }
        for backup in listed
    ]
    assert [backup["name"] for backup in listed] == ["Δελτα", "gamma-alpha", "beta", "alpha"]


def test_list_detail(service: Standalone, listed: list[Any]) -> None:
    for row, backup in zip(
        service.client(LISTED).json("share backup list", "--detail"), listed, strict=True
    ):
        assert row == {
            "ID": backup["id"],
            "Name": backup["name"],
            "Share ID": backup["share_id"],
            "Status": backup["status"],
            "Description": backup["description"],
            "Size": backup["size"],
            "Created At": backup["created_at"],
            "Updated At": backup["updated_at"],
            "Availability Zone": "nova",
            "Progress": "100",
            "Restore Progress": backup["restore_progress"],
            "Host": "standalone",
            "Topic": "manila-backup-data",
        }


def test_list_filters_and_pages(service: Standalone, listed: list[Any]) -> None:
    delta, gamma, beta, alpha = (backup["name"] for backup in listed)
    cases = {
        "--share first": [gamma, alpha],
        "--name alpha": [alpha],
        "--name Δελτα": [delta],
        "--name~ alpha": [gamma, alpha],
        "--name~ ελτ": [delta],
        "--description~ number-2": [gamma],
        # Not patterns: a percent sign and an underscore stand for themselves.
        "--description~ %_": [delta, gamma, beta, alpha],
        "--description~ number_2": [],
        "--description number-3-%_": [delta],
        "--status error": [beta],
        "--status available": [delta, gamma, alpha],
        "--limit 2": [delta, gamma],
        "--limit 2 --offset 1": [gamma, beta],
        "--offset 3": [alpha],
        "--limit 1 --share second --sort-key name --sort-dir asc": [beta],
        "--detail 0 --name beta": [beta],
    }
    found = service.client(LISTED).script([f"share backup list {c} -f json" for c in cases])
    assert {
        case: [row["Name"] for row in rows] for case, rows in zip(cases, found, strict=True)
    } == cases


def test_list_sorts_by_every_key_in_both_directions(service: Standalone, listed: list[Any]) -> None:
    cases = [(key, way) for key in BACKUP_SORT_KEY_VALUES for way in SORT_DIR_VALUES]
    assert len(cases) == 20
    found = service.client(LISTED).script(
        [
            f"share backup list --detail --sort-key {key} --sort-dir {way} -f json"
            for key, way in cases
        ]
    )
    by_id = {backup["id"]: backup for backup in listed}
    for (key, way), rows in zip(cases, found, strict=True):
        seen = [by_id[row["ID"]] for row in rows]
        assert len(seen) == len(listed), key
        values = [_sorted_by(backup, key) for backup in seen]
        assert values == sorted(values, reverse=way == "desc"), (key, way)


def _sorted_by(backup: Any, key: str) -> Any:
    if key in ("progress", "restore_progress"):
        return int(backup[key])
    # A member is not shown the host, and nobody the project: all have the same.
    return backup.get(key, "")


def test_the_client_knows_what_can_be_sorted_by(client: OpenStack, rest: Rest) -> None:
    said = client.fails("share backup list", "--sort-key", "colour")
    assert f"sort_key must be one of the following: {', '.join(BACKUP_SORT_KEY_VALUES)}" in said
    assert "sort_key" in rest.call("GET", "/share-backups?sort_key=colour").message
    assert "sort_dir" in rest.call("GET", "/share-backups?sort_dir=sideways").message


# --- show -----------------------------------------------------------------------------------------


def test_show_by_id_by_name_and_of_nothing(
    service: Standalone, client: OpenStack, rest: Rest
) -> None:
    share_id = rest.create_share("shown")
    first = rest.available_backup(share_id, name="twice", description="d")
    assert client.json("share backup show", first) == rest.backup(first)
    assert client.json("share backup show", "twice") == rest.backup(first)
    rest.available_backup(share_id, name="twice")
    assert "More than one" in client.fails("share backup show", "twice")
    assert "No sharebackup with a name or ID of 'none'" in client.fails("share backup show", "none")
    # What another project has does not exist for a member.
    member = service.client("bob:elsewhere:member")
    assert "No sharebackup" in member.fails("share backup show", first)


def test_a_member_is_not_shown_where_it_runs(service: Standalone) -> None:
    member = service.rest("ann:seeing:member")
    backup_id = member.available_backup(member.create_share("seen"))
    shown = service.client("ann:seeing:member").json("share backup show", backup_id)
    assert set(shown) == SHOWN_TO_ADMINS - {"host", "topic"}


# --- set, unset -----------------------------------------------------------------------------------


def test_set_and_unset_name_and_description(client: OpenStack, rest: Rest) -> None:
    backup_id = rest.available_backup(rest.create_share("renamed"), name="old")
    client.quiet("share backup set", "old", "--name", "naïve имя 名", "--description", "neu: ß ẞ ﷽")
    assert _names(rest, backup_id) == ("naïve имя 名", "neu: ß ẞ ﷽")
    client.quiet("share backup unset", "naïve имя 名", "--name")
    assert _names(rest, backup_id) == (None, "neu: ß ẞ ﷽")
    client.quiet("share backup unset", backup_id, "--description")
    assert _names(rest, backup_id) == (None, None)
    said = client.fails("share backup unset", backup_id)
    assert "Either name or description must be provided." in said


def test_a_name_that_is_too_long_is_refused(client: OpenStack, rest: Rest) -> None:
    backup_id = rest.available_backup(rest.create_share("long"), name="short")
    said = client.fails("share backup set", backup_id, "--name", "ы" * 256)
    assert "One or more of the set operations failed" in said
    assert "(HTTP 400)" in said
    assert _names(rest, backup_id) == ("short", None)


def _names(rest: Rest, backup_id: str) -> tuple[str | None, str | None]:
    shown = rest.backup(backup_id)
    return shown["name"], shown["description"]


def test_set_every_status(client: OpenStack, rest: Rest) -> None:
    share_id = rest.create_share("reset")
    backup_id = rest.available_backup(share_id)
    statuses = ["error", "creating", "deleting", "restoring", "available"]
    script = []
    for status in statuses:
        script.append(f"share backup set {backup_id} --status {status}")
        script.append(f"share backup show {backup_id} -f json")
    assert [shown["status"] for shown in client.script(script)] == statuses
    # Nothing but the row was touched: it can be restored, and the share is free.
    rest.restored(backup_id)
    assert rest.share_status(share_id) == "available"


def test_no_status_makes_a_backup_out_of_nothing(
    client: OpenStack, rest: Rest, service: Standalone
) -> None:
    backup_id = rest.available_backup(rest.create_share("hollow"))
    client.quiet("share backup set", backup_id, "--status", "error")
    shutil.rmtree(service.store / "default" / backup_id)
    said = client.fails("share backup set", backup_id, "--status", "available")
    assert "One or more of the set operations failed" in said
    assert "(HTTP 400)" in said
    assert rest.backup_status(backup_id) == "error"


def test_a_member_sets_no_status(service: Standalone) -> None:
    member = service.rest("ann:humble:member")
    backup_id = member.available_backup(member.create_share("humble"))
    client = service.client("ann:humble:member")
    said = client.fails("share backup set", backup_id, "--status", "error")
    assert "(HTTP 403)" in said
    assert member.backup_status(backup_id) == "available"


# --- delete ---------------------------------------------------------------------------------------


def test_delete_one_and_wait(client: OpenStack, rest: Rest, service: Standalone) -> None:
    backup_id = rest.available_backup(rest.create_share("waited"), name="waited for")
    used = rest.usage()
    client.quiet("share backup delete", "waited for", "--wait")
    assert rest.call("GET", f"/share-backups/{backup_id}").status == 404
    assert service.epochs(backup_id) == []
    assert rest.usage() == (used[0] - 1, used[1] - 1)


def test_delete_several_of_which_one_is_unknown(
    client: OpenStack, rest: Rest, service: Standalone
) -> None:
    share_id = rest.create_share("several")
    first, second = (rest.available_backup(share_id, name=name) for name in ("eins", "zwei"))
    said = client.fails("share backup delete", "eins", "drei", second)
    assert "Failed to delete a share backup with name or ID 'drei'" in said
    assert "1 of 3 backups failed to delete." in said
    for backup_id in (first, second):
        rest.until_deleted(backup_id)
        assert service.epochs(backup_id) == []


def test_a_busy_backup_is_not_a_members_to_delete(service: Standalone) -> None:
    member = service.rest("ann:hasty:member")
    backup_id = member.available_backup(member.create_share("hasty"))
    service.rest().accepted(
        "POST", f"/share-backups/{backup_id}/action", {"reset_status": {"status": "restoring"}}
    )
    said = service.client("ann:hasty:member").fails("share backup delete", backup_id)
    assert "status must be available or error" in said
    assert "1 of 1 backups failed to delete." in said


# --- a backup outlives its share ------------------------------------------------------------------


def test_a_backup_of_a_share_that_is_gone(
    client: OpenStack, rest: Rest, tmp_path: Path, service: Standalone
) -> None:
    share_id = rest.create_share("short-lived")
    original = fill(tmp_path / "original")
    copy(original, rest.tree(share_id))
    backup_id = rest.available_backup(share_id, name="survivor")
    rest.delete_share(share_id)

    found = rest.get(f"/share-backups?share_id={share_id}")["share_backups"]
    assert [backup["id"] for backup in found] == [backup_id]
    assert client.json("share backup show", "survivor")["share_id"] == share_id
    said = client.fails("share backup restore", "survivor")
    assert "(HTTP 404)" in said
    assert "target" in said

    target_id = rest.create_share("heir")
    client.quiet("share backup restore", "survivor", "--target-share", "heir")
    rest.until_done(backup_id)
    assert compare_trees(original, rest.tree(target_id)) == []
    client.quiet("share backup delete", "survivor")
    rest.until_deleted(backup_id)
    assert service.epochs(backup_id) == []
