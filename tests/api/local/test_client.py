# SPDX-License-Identifier: Apache-2.0
"""Everything that a user types, with the real client, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.local.client import CommandFailed, OpenStack, openstack, serving
from tests.api.local.harness import SharesApi

pytestmark = pytest.mark.acceptance


@pytest.fixture
def client(shares: SharesApi) -> Iterator[OpenStack]:
    # What goes on in the background is done before the answer: the client would wait seconds.
    with serving(shares.app) as url, openstack(url) as session:
        yield session


def test_shares(client: OpenStack, shares: SharesApi) -> None:
    shown = client.share(
        *("create", "NFS", "1", "--name", "x", "--description", "d", "--public", "True"),
        *("--property", "k=v", "--share-type", "default", "--availability-zone", "nova", "--wait"),
    )
    share_id = shown["id"]
    assert (shown["status"], shown["name"], shown["is_public"]) == ("available", "x", True)
    client.share("create", "nfs", "3", "--name", "y")

    (first, second) = client.share("list")
    assert (first["Name"], first["Size"], first["Status"]) == ("x", 1, "available")
    assert second["Share Type Name"] == "default"
    assert [share["Name"] for share in client.share("list", "--long", "--all-projects")] == [
        "x",
        "y",
    ]
    assert [share["Name"] for share in client.share("list", "--name", "y")] == ["y"]
    assert [share["Name"] for share in client.share("list", "--property", "k=v")] == ["x"]
    assert client.share("list", "--status", "error") == []
    assert client.share("list", "--soft-deleted") == []
    assert len(client.share("list", "--limit", "1")) == 1

    shown = client.share("show", "x")
    assert shown["properties"] == {"k": "v"}
    assert str(shares.store.tree(share_id)) in str(shown["export_locations"])

    client.do("set", "x", "--name", "z", "--description", "e", "--property", "l=w")
    shown = client.share("show", share_id)
    assert (shown["name"], shown["description"]) == ("z", "e")
    assert shown["properties"] == {"k": "v", "l": "w"}
    client.do("unset", "z", "--description", "--property", "k")
    shown = client.share("show", "z")
    assert (shown["description"], shown["properties"]) == (None, {"l": "w"})

    client.do("set", "z", "--status", "error", "--task-state", "migration_error")
    shown = client.share("show", "z")
    assert (shown["status"], shown["task_state"]) == ("error", "migration_error")
    client.do("set", "z", "--status", "available", "--task-state", "none")

    client.do("resize", "z", "5", "--wait")
    assert client.share("show", "z")["size"] == 5
    client.do("resize", "z", "2")
    assert client.share("show", "z")["size"] == 2

    with pytest.raises(CommandFailed, match="no recycle bin"):
        client.do("delete", "z", "--soft")
    client.do("delete", "z", "--wait")
    client.do("delete", "y", "--force", "--wait")
    assert client.share("list") == []
    assert list(shares.store.shares()) == []


def test_access_and_export_locations(client: OpenStack, shares: SharesApi) -> None:
    share_id = client.share("create", "NFS", "1", "--name", "x")["id"]
    rule = client.share(
        *("access", "create", "x", "ip", "10.0.0.1", "--access-level", "ro", "--wait"),
        *("--properties", "k=v"),
    )
    assert (rule["state"], rule["access_level"], rule["share_id"]) == ("active", "ro", share_id)
    with pytest.raises(CommandFailed, match="exists"):
        client.share("access", "create", "x", "ip", "10.0.0.1")
    (listed,) = client.share("access", "list", "x", "--access-to", "10.0.0.1")
    assert (listed["ID"], listed["Access To"]) == (rule["id"], "10.0.0.1")
    client.do("access", "set", rule["id"], "--property", "l=w", "--access-level", "rw")
    client.do("access", "unset", rule["id"], "--property", "k")
    shown = client.share("access", "show", rule["id"])
    assert (shown["access_level"], shown["properties"]) == ("rw", "l : w")
    client.do("access", "delete", "x", rule["id"], "--wait")
    assert client.share("access", "list", "x") == []

    (location,) = client.share("export", "location", "list", "x")
    assert location["Path"] == str(shares.store.tree(share_id))
    shown = client.share("export", "location", "show", "x", location["ID"])
    assert Path(shown["path"]).is_dir()


def test_snapshots(client: OpenStack, shares: SharesApi) -> None:
    share_id = client.share("create", "NFS", "1", "--name", "x")["id"]
    (shares.store.tree(share_id) / "file").touch()
    taken = client.share(
        *("snapshot", "create", "x", "--name", "s", "--description", "d", "--wait"),
        *("--property", "k=v"),
    )
    assert (taken["status"], taken["share_id"]) == ("available", share_id)
    with pytest.raises(CommandFailed, match="snapshots"):
        client.do("delete", "x")
    (listed,) = client.share("snapshot", "list", "--detail", "--share", "x")
    assert (listed["Name"], listed["Status"], listed["Description"]) == ("s", "available", "d")
    client.do("snapshot", "set", "s", "--name", "t", "--property", "l=w", "--status", "error")
    client.do("snapshot", "unset", "t", "--description", "--property", "k")
    shown = client.share("snapshot", "show", "t")
    assert (shown["status"], shown["description"]) == ("error", None)
    assert shown["properties"] == {"l": "w"}
    assert shown["export_locations"] == []
    client.do("snapshot", "delete", "t", "--wait")
    assert client.share("snapshot", "list") == []


def test_types(client: OpenStack) -> None:
    (only,) = client.share("type", "list")
    assert (only["Name"], only["Visibility"], only["Is Default"]) == ("default", "public", True)
    assert client.share("type", "show", "default")["id"] == only["ID"]


def test_a_share_that_a_backup_holds(client: OpenStack, shares: SharesApi) -> None:
    share_id = client.share("create", "NFS", "1", "--name", "x")["id"]
    client.share("backup", "create", "x", "--name", "b")
    assert client.share("show", "x")["status"] == "backup_creating"
    assert [s["ID"] for s in client.share("list", "--status", "backup_creating")] == [share_id]
    with pytest.raises(CommandFailed, match="backup_creating"):
        client.do("delete", "x")
    with pytest.raises(CommandFailed, match="backup_creating"):
        client.do("resize", "x", "2")
    with pytest.raises(CommandFailed, match="backup_creating"):
        client.share("snapshot", "create", "x")
