# SPDX-License-Identifier: Apache-2.0
"""The small shares API, through the client: what a tenant needs around his backups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.acceptance.programs import OpenStack, compare_trees
from tests.acceptance.rest import Rest
from tests.acceptance.standalone import Standalone
from tests.acceptance.trees import copy, fill
from tests.acceptance.waiting import until

pytestmark = pytest.mark.acceptance


def test_a_share_from_its_creation_to_its_end(client: OpenStack, rest: Rest) -> None:
    made = client.json(
        "share create NFS 2",
        *("--name", "Ablage", "--description", "für alle", "--share-type", "default"),
        *("--property", "team=blau", "--wait"),
    )
    assert made["status"] == "available"
    assert (made["size"], made["share_proto"]) == (2, "NFS")
    share_id = made["id"]
    assert client.json("share list", "--name", "Ablage")[0]["ID"] == share_id

    client.quiet("share set", "Ablage", "--name", "Archiv", "--property", "year=2026")
    client.quiet("share resize", "Archiv", "3", "--wait")
    shown = client.json("share show", "Archiv")
    assert shown["id"] == share_id
    assert (shown["size"], shown["description"]) == (3, "für alle")
    assert "year='2026'" in str(shown["properties"]) or "2026" in str(shown["properties"])
    client.quiet("share unset", "Archiv", "--property", "team", "--description")
    found = rest.share(share_id)
    assert found["metadata"] == {"year": "2026"}
    assert not found["description"]

    (location,) = client.json("share export location list", share_id)
    tree = Path(location["Path"])
    assert tree.is_dir()
    shown = client.json("share export location show", share_id, location["ID"])
    assert shown["path"] == location["Path"]

    client.quiet("share resize", share_id, "1", "--wait")
    assert rest.share(share_id)["size"] == 1
    client.quiet("share delete", share_id, "--wait")
    assert rest.call("GET", f"/shares/{share_id}").status == 404
    assert not tree.exists()


def test_access_rules_are_the_tenants(client: OpenStack, rest: Rest) -> None:
    share_id = rest.create_share("guarded")
    made = client.json(
        "share access create", share_id, "ip", "10.1.2.0/24", "--access-level", "ro", "--wait"
    )
    assert (made["access_to"], made["access_level"], made["state"]) == (
        *("10.1.2.0/24", "ro", "active"),
    )
    listed = client.json("share access list", "guarded")
    assert [row["ID"] for row in listed] == [made["id"]]
    assert client.json("share access show", made["id"])["access_to"] == "10.1.2.0/24"
    before = rest.access_rules(share_id)
    rest.available_backup(share_id)
    assert rest.access_rules(share_id) == before
    client.quiet("share access delete", share_id, made["id"], "--wait")
    assert client.json("share access list", share_id) == []


def test_snapshots_are_copies_and_keep_backups_away(
    client: OpenStack, rest: Rest, service: Standalone, tmp_path: Path
) -> None:
    share_id = rest.create_share("frozen")
    original = fill(tmp_path / "original")
    copy(original, rest.tree(share_id))
    made = client.json(
        "share snapshot create", share_id, "--name", "Монтаг", "--description", "d", "--wait"
    )
    assert made["share_id"] == share_id
    assert [row["ID"] for row in client.json("share snapshot list", "--share", share_id)] == [
        made["id"]
    ]
    shown = client.json("share snapshot show", "Монтаг")
    assert (shown["id"], shown["status"]) == (made["id"], "available")
    tree = service.state / "shares" / share_id / "snapshots" / made["id"] / "tree"
    assert compare_trees(original, tree) == []

    assert "while it has snapshots" in client.fails("share backup create", share_id)
    client.quiet("share snapshot delete", "Монтаг", "--wait")
    assert not tree.exists()
    rest.available_backup(share_id)


def test_share_types_and_quotas(client: OpenStack, rest: Rest) -> None:
    (kind,) = client.json("share type list")
    assert (kind["Name"], kind["Is Default"]) == ("default", True)
    shown = client.json("share quota show", "default")
    assert "backups" in shown
    assert "backup_gigabytes" in shown
    rest.set_quota("poor", backups=3, backup_gigabytes=7)
    shown = client.json("share quota show", "poor")
    assert (shown["backups"], shown["backup_gigabytes"]) == (3, 7)
    defaults = client.json("share quota show", "poor", "--defaults")
    assert (defaults["backups"], defaults["backup_gigabytes"]) == (10, 1000)


def test_a_failed_backup_says_why(client: OpenStack, rest: Rest, service: Standalone) -> None:
    """The share is gone from under the data node: its directory was taken away."""
    share_id = rest.create_share("vanishing")
    tree = Path(rest.tree(share_id))
    os.rename(tree, tree.with_name("elsewhere"))
    backup_id = rest.create_backup(share_id)
    until(lambda: rest.operation(backup_id)["fail_reason"], "a reason")
    rest.accepted("POST", f"/share-backups/{backup_id}/action", {"cancel": None})
    operation = rest.until_ended(backup_id)
    assert operation["status"] == "cancelled"
    os.rename(tree.with_name("elsewhere"), tree)
    assert rest.backup_status(backup_id) == "error"
    (message,) = client.json("share message list", "--resource-id", backup_id)
    assert message["Resource Type"] == "SHARE_BACKUP"
    assert rest.share_status(share_id) == "available"
