# SPDX-License-Identifier: Apache-2.0
"""What a data node can do to a share is what it was granted: the server enforces it.

Shares of the nfs_ssh provider, data nodes on two hosts of the virtual machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.db.builders import PROJECT
from tests.nfs.vm import ADDRESSES, CLIENT, PLAIN, Agent, Vm
from tests.share.nfs_ssh_harness import VM_ROOT, NfsSshHarness, vm_harness

pytestmark = [pytest.mark.full, pytest.mark.root]


@dataclass(frozen=True, kw_only=True)
class Site:
    """The server as its administrator sees it, a share with a file in it, and a data node that
    works on it."""

    vm: Vm
    server: NfsSshHarness
    share_id: str
    client: Agent
    arguments: dict[str, Any]

    def call(self, function: str, version: str, **more: Any) -> Any:
        arguments = {"version": version, "share_id": self.share_id, **self.arguments, **more}
        return self.client.call(function, **arguments)

    def names(self, share_id: str | None = None) -> str:
        """All that is in the share, or in another one."""
        tree = self.server.store.tree(share_id or self.share_id)
        return self.vm.run(PLAIN, "find", tree, "-mindepth", "1", "-printf", "%P ")


@pytest.fixture
def site(vm: Vm, client: Agent, migrated_file: Path, tmp_path: Path) -> Iterator[Site]:
    known = tmp_path / "known_hosts_inside"
    _, _, key = vm.known_hosts.read_text().partition(" ")
    known.write_text(f"{ADDRESSES[PLAIN]} {key}")
    arguments = {
        "database_file": vm.give(migrated_file),
        "root": VM_ROOT,
        "ssh": {
            "host": ADDRESSES[PLAIN],
            "key_files": [vm.give(vm.key)],
            "known_hosts_file": vm.give(known),
            "connect_timeout_s": 60.0,
            "command_timeout_s": 120.0,
        },
    }
    with vm_harness(vm) as server:
        share_id = server.create_share(project_id=PROJECT)
        vm.run(PLAIN, "sh", "-c", f"echo content >{server.store.tree(share_id)}/file")
        yield Site(vm=vm, server=server, share_id=share_id, client=client, arguments=arguments)


@pytest.mark.parametrize("version", ["4.2", pytest.param("3", marks=pytest.mark.by_hand)])
def test_the_source_cannot_be_written_during_a_backup_nor_mounted_after_it(
    site: Site, version: str
) -> None:
    found = site.call("access.read_only", version)
    assert found["backup"] == ["done", None]
    assert found["through its own mount"] == "Read-only file system"
    assert found["mounted for writing"] == [0, "Read-only file system"]
    status, said = found["after it"]
    assert status != 0
    assert "denied" in said or "No such file" in said, said
    assert site.names() == "file "
    assert site.server.in_force(site.share_id) == set()


def test_the_backups_lie_in_a_share_that_is_open_while_it_is_needed(site: Site) -> None:
    backups_id, target_id = (site.server.create_share(project_id=PROJECT) for _ in range(2))
    site.vm.run(PLAIN, "chmod", "700", site.server.store.tree(backups_id))
    found = site.call("access.managed", "4.2", backups_id=backups_id, target_id=target_id)
    assert found["during"] == [[ADDRESSES[CLIENT], "rw"]]
    assert found["backup"] == found["restore"] == ["done", None]
    assert found["after it"] == found["after all"] == []
    status, said = found["mount after it"]
    assert status != 0
    assert "denied" in said or "No such file" in said, said
    assert site.names(target_id) == "file "


def test_who_was_taken_over_cannot_write_any_more(site: Site) -> None:
    """Suspended, with a worker that goes on: cut off from the database, not from the share."""
    found = site.call("access.fence", "4.2")
    assert found["backup"] == "done"
    assert found["before"] == "written"
    assert found["taken over"] == ["node-b", "done", None]
    assert found["after"] in ("Stale file handle", "Permission denied")
    assert found["mounts left"] == []
    assert found["rules left"] == 0
    # Not what the first one wrote, before or after.
    assert site.names() == "file "
