# SPDX-License-Identifier: Apache-2.0
"""The standalone service pointed at an NFS server instead of local directories.

sshd and exportfs are real. The kernel's part is played by a mount.nfs of the test's: it lets in
whom the table that exportfs has made lets in, and binds the directory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from manila_backup.share.nfs_ssh.store import MARKER
from tests.acceptance.programs import compare_trees
from tests.acceptance.standalone import Standalone, refused, running
from tests.acceptance.trees import copy, damage, fill
from tests.acceptance.waiting import until
from tests.share.ssh_server import SshServer

pytestmark = [pytest.mark.acceptance, pytest.mark.root]

NODE = "127.0.0.1"

MOUNT_NFS = """\
#!/bin/sh
# mount.nfs SOURCE TARGET -o OPTIONS
if [ -e {hold} ]; then
    touch {held}
    while [ -e {hold} ]; do sleep 0.1; done
fi
path=${{1#*:}}
case ,$4, in *,ro,*) level='r[ow]' ;; *) level=rw ;; esac
grep -q "^$path[[:space:]]{node}($level," {table} || {{
    echo "mount.nfs: access denied by server while mounting $1" >&2
    exit 32
}}
exec mount --bind -o "$4" -- "$path" "$2"
"""


@pytest.fixture
def sshd() -> Iterator[SshServer]:
    with SshServer() as server:
        (server.root / MARKER).touch()
        yield server


@pytest.fixture
def options(sshd: SshServer, tmp_path: Path) -> Path:
    found = tmp_path / "nfs-server.conf"
    found.write_text(
        f"""\
[DEFAULT]
data_node_address = {NODE}

[nfs_ssh]
host = 127.0.0.1
port = {sshd.port}
key_files = {sshd.key}
known_hosts_file = {sshd.known_hosts}
root = {sshd.root}
"""
    )
    return found


@pytest.fixture
def start(sshd: SshServer, options: Path, tmp_path: Path) -> Callable[[], Any]:
    """Starts the service on the same state directory, in a namespace with our mount.nfs."""
    helper = tmp_path / "mount.nfs"
    helper.write_text(
        MOUNT_NFS.format(
            node=NODE,
            table=sshd.directory / "nfs" / "etab",
            hold=tmp_path / "hold",
            held=tmp_path / "held",
        )
    )
    helper.chmod(0o755)
    inside = 'mount --bind "$1" /sbin/mount.nfs; shift; exec "$@"'
    prefix = ["unshare", "--mount", "--", "sh", "-ec", inside, "namespace", str(helper)]
    return lambda: running(tmp_path / "state", "--nfs-ssh", str(options), prefix=prefix)


@pytest.fixture
def service(start: Callable[[], Any]) -> Iterator[Standalone]:
    with start() as found:
        yield found


def table(sshd: SshServer) -> list[str]:
    """Who may mount what, without most options."""
    lines = sshd.as_administrator("exportfs", "-s").split("\n")
    return [line.split("(")[0].split("  ")[1] for line in lines if line]


def test_a_share_s_life(sshd: SshServer, service: Standalone, tmp_path: Path) -> None:
    rest = service.rest()
    share_id = rest.create_share("on a server")
    tree = sshd.root / "shares" / share_id
    assert rest.tree(share_id) == f"127.0.0.1:{tree}"
    rest.allow(share_id, "198.51.100.0/24", "rw")
    assert table(sshd) == ["198.51.100.0/24"]
    original = fill(tmp_path / "original")
    copy(original, tree)

    backup_id = rest.available_backup(share_id)
    assert table(sshd) == ["198.51.100.0/24"]
    damage(tree)
    rest.restored(backup_id)
    assert compare_trees(original, tree) == []
    assert table(sshd) == ["198.51.100.0/24"]
    assert [rule["access_to"] for rule in rest.access_rules(share_id)] == ["198.51.100.0/24"]
    assert rest.share_status(share_id) == "available"

    refusal = rest.call("POST", "/snapshots", {"snapshot": {"share_id": share_id}})
    assert (refusal.status, "no snapshots" in refusal.message) == (400, True)
    rest.delete_share(share_id)
    assert not tree.exists()
    assert (table(sshd), list(sshd.exports.iterdir())) == ([], [])
    assert rest.backup_status(backup_id) == "available"


def test_killed_while_it_has_access(
    sshd: SshServer, service: Standalone, start: Callable[[], Any], tmp_path: Path
) -> None:
    rest = service.rest()
    share_id = rest.create_share("killed")
    (tmp_path / "hold").touch()
    backup_id = rest.create_backup(share_id)
    until((tmp_path / "held").exists, "the mount")
    assert table(sshd) == [NODE]
    # The tenant neither sees the rule nor can remove the share meanwhile.
    assert rest.access_rules(share_id) == []
    assert rest.call("DELETE", f"/shares/{share_id}").status == 403
    # mount(8) outlives it for a moment: who ends it is the server's answer.
    answer = threading.Timer(1, (tmp_path / "hold").unlink)
    answer.start()
    service.kill()
    answer.join()
    assert table(sshd) == [NODE]
    with start() as again:
        again.rest().until_done(backup_id)
        assert table(sshd) == []
        again.rest().delete_share(share_id)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("host = 127.0.0.1", "host"),
        ("key_files = ", "key_files"),
        ("root = ", "root"),
        ("data_node_address = ", "data_node_address"),
    ],
)
def test_a_file_that_does_not_suffice_is_refused_at_start(
    options: Path, tmp_path: Path, line: str, named: str
) -> None:
    lines = options.read_text().splitlines()
    wrong = "root = relative" if named == "root" else ""
    changed = [wrong if old.startswith(line) else old for old in lines]
    assert changed != lines
    options.write_text("\n".join(changed))
    ended = refused(tmp_path / "state", "--nfs-ssh", str(options))
    assert ended.status == 1
    assert f"option {named} " in ended.err
