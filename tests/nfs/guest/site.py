# SPDX-License-Identifier: Apache-2.0
"""A data node whose shares and backup share are exports of the machine's two NFS servers, and what
may happen to a server.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from manila_backup.data.mounts import MountManager
from manila_backup.data.node import Node
from manila_backup.db.engine import Database
from manila_backup.types import Mount, Share
from tests.data.node.faulty import Provider, WorkerFaults
from tests.data.node.faulty_driver import FAULTS, plugin_path
from tests.data.node.world import World

ANSWERS_WITHIN = ("timeo=20", "retrans=1")
"""Two seconds and one more try of four: what takes a minute with the defaults."""

HOSTS = {"source": "10.99.0.11", "backup": "10.99.0.12"}


def export_of(path: Path) -> str:
    """How clients name a directory of a server."""
    _, top, host, *below = path.parts
    assert top == "export"
    return f"{HOSTS[host]}:/{'/'.join(below)}"


class NfsProvider(Provider):
    """The local provider over a directory of a server, whose clients mount it.

    ``elsewhere``: shares whose trees lie in another directory, perhaps on another server.
    """

    def __init__(self, world: NfsWorld) -> None:
        super().__init__(world.store, world.steps, bind_mounts=True)
        self._version = world.version
        self._elsewhere = world.elsewhere

    def mounts(self, share: Share) -> list[Mount]:
        (local,) = super().mounts(share)
        tree = self._elsewhere.get(share.id, Path(local.export))
        return [nfs_mount(tree, self._version)]


def nfs_mount(path: Path, version: str) -> Mount:
    """Of a directory of a server."""
    options = (f"vers={version}", *ANSWERS_WITHIN)
    return Mount(proto="nfs", export=export_of(path), options=options)


@dataclass
class NfsWorld(World):
    """Shares on one server, the backup share on the server ``backup``."""

    version: str = "4.2"
    elsewhere: dict[str, Path] = field(default_factory=dict)

    def nfs_node(self, host: str = "node-a", **changes: object) -> Node:
        mount = nfs_mount(self.backup_share, self.version)
        return replace(
            self.node(host, backup_mount=mount, **changes),
            provider=NfsProvider(self),
            mounts=MountManager(f"/run/mounts-{host}"),
        )


def new_world(server: str, database_file: str, version: str) -> NfsWorld:
    """Records and trees of shares lie on ``server``; the rest is this host's own.

    :param database_file: one with the newest schema and no rows, to be copied.
    """
    top = Path(tempfile.mkdtemp(prefix="world-"))
    shutil.copy(database_file, top / "state.sqlite")
    os.environ["PYTHONPATH"] = plugin_path(top / "plugins")
    os.environ["XDG_CACHE_HOME"] = str(top / "cache")
    os.environ[FAULTS] = str(top / "faults")
    on_server = Path(tempfile.mkdtemp(prefix="world-", dir=f"/export/{server}/ext4"))
    world = NfsWorld(
        directory=on_server,
        database=Database(f"sqlite:///{top / 'state.sqlite'}"),
        workers=WorkerFaults(top / "faults"),
        version=version,
    )
    world.backup_share = Path(tempfile.mkdtemp(prefix="backups-", dir="/export/backup/xfs"))
    return world


# --- what happens to a server ---------------------------------------------------------------------


def on(host: str, *argv: str) -> None:
    pid = "1" if host == "plain" else Path(f"/mnt/hosts/{host}.pid").read_text().strip()
    subprocess.run(["nsenter", "-t", pid, "-n", "-m", "-u", "--", *argv], check=True)


def strike(host: str, fault: str) -> None:
    """Stop the NFS server, drop what is sent to it, or let it export nothing any more."""
    if fault == "stopped":
        on(host, "rpc.nfsd", "0")
    elif fault == "dropped":
        on("plain", "tc", "qdisc", "replace", "dev", host, "root", "netem", "loss", "100%")
    else:
        on(host, "exportfs", "-ua")
        on(host, "exportfs", "-f")


def mend(host: str, fault: str) -> None:
    if fault == "stopped":
        on(host, "rpc.nfsd", "8")
    elif fault == "dropped":
        on("plain", "tc", "qdisc", "del", "dev", host, "root")
    else:
        on(host, "exportfs", "-ra")
