# SPDX-License-Identifier: Apache-2.0
"""Who may do what on a share of the ``nfs_ssh`` provider, as the server enforces it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from manila_backup.data.backup_share import ManagedShare
from manila_backup.data.holder import Stop
from manila_backup.data.jobs import run_job
from manila_backup.data.mountinfo import mounted_below
from manila_backup.data.mounts import MountManager
from manila_backup.data.node import Node
from manila_backup.db.models import OperationRow
from manila_backup.db.operations import Operation
from manila_backup.share.nfs_ssh.options import SshSettings, StoreSettings
from manila_backup.share.nfs_ssh.provider import NfsSshShareProvider
from manila_backup.share.nfs_ssh.server import Server
from manila_backup.share.nfs_ssh.store import NfsSshStore
from manila_backup.states import OperationStatus
from tests.data.node.faulty import wait_for
from tests.nfs.guest.site import new_world, nfs_mount

CLIENT, OTHER = "10.99.0.21", "10.99.0.22"
CLONE_NEWNET = 0x40000000
LIMIT_S = 300.0


class Site:
    """Data nodes whose shares are those of the host ``plain``."""

    def __init__(self, *, database_file: str, ssh: dict[str, Any], root: str, version: str) -> None:
        self.world = new_world("source", database_file, version)
        settings = StoreSettings(
            root=root, export_address="10.99.0.1", mount_options=(f"vers={version}",)
        )
        self._settings = settings
        self._ssh = SshSettings(**{**ssh, "key_files": tuple(ssh["key_files"])})
        self.store = NfsSshStore(Server(self._ssh), settings)
        # So that what is queued is of these shares.
        self.world.store = self.store  # type: ignore[assignment]

    def node(self, host: str, address: str, **changes: Any) -> Node:
        fixed = nfs_mount(self.world.backup_share, self.world.version)
        node = self.world.node(host, **{"backup_mount": fixed, "address": address, **changes})
        store = NfsSshStore(Server(self._ssh), self._settings)
        provider = NfsSshShareProvider(store, mount_options=self._settings.mount_options)
        return replace(node, provider=provider, mounts=MountManager(f"/run/mounts-{host}"))

    def mount(self, share_id: str, options: str) -> tuple[int, str]:
        """What becomes of a mount by hand from this host: the status and what mount(8) says."""
        point = Path(f"/run/by-hand-{share_id}")
        point.mkdir(exist_ok=True)
        argv = ["mount", "-t", "nfs", "-o", options, self.store.location(share_id), str(point)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    def until(self, operation: Operation, *statuses: OperationStatus) -> Operation:
        def now() -> Operation:
            return self.world.operation(operation)

        wait_for(lambda: now().status in statuses, f"one of {statuses}", limit_s=LIMIT_S)
        return now()


def _written(path: Path) -> str:
    """What becomes of an attempt to write."""
    try:
        path.write_bytes(b"written")
    except OSError as error:
        return os.strerror(error.errno or 0)
    return "written"


@contextmanager
def _child(work: Any) -> Iterator[int]:
    """``work`` in a process of its own; killed at the end if it still runs."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def read_only(*, share_id: str, **site_arguments: Any) -> dict[str, Any]:
    """A backup of a share that exists, and what its node could do to the source meanwhile, and
    after it. Other arguments are :class:`Site`'s."""
    site = Site(**site_arguments)
    world = site.world
    world.workers.lay("backup", "pass")
    queued = world.queue_backup(share_id)
    node = site.node("node-a", CLIENT)
    options = f"vers={world.version},soft,timeo=20,retrans=1,retry=0"
    with _child(lambda: world.work(queued, node)):
        world.workers.meet("backup", limit_s=LIMIT_S)
        (source,) = (p for p in mounted_below("/run/mounts-node-a") if p.endswith("-share"))
        found: dict[str, Any] = {"through its own mount": _written(Path(source, "new"))}
        status, said = site.mount(share_id, f"rw,{options}")
        by_hand = Path(f"/run/by-hand-{share_id}")
        found["mounted for writing"] = (status, _written(by_hand / "new"))
        subprocess.run(["umount", by_hand], check=True)
        world.workers.let_go("backup")
        ended = site.until(queued, OperationStatus.DONE, OperationStatus.FAILED)
        found["backup"] = (ended.status.value, ended.fail_reason)
    status, said = site.mount(share_id, f"ro,{options}")
    found["after it"] = (status, said)
    return found


def managed(
    *, share_id: str, backups_id: str, target_id: str, **site_arguments: Any
) -> dict[str, Any]:
    """A backup into a share of the provider's, and a restore from it to another share; who had
    access to the share of the backups during the first, and after each."""
    site = Site(**site_arguments)
    world = site.world
    node = site.node("node-a", CLIENT, backup_mount=ManagedShare(share_id=backups_id))

    def rules() -> list[tuple[str, str]]:
        found = site.store.get(backups_id).access_rules
        return [(rule.access_to, rule.access_level.value) for rule in found]

    found: dict[str, Any] = {}
    world.workers.lay("publish", "pass")
    queued = world.queue_backup(share_id)
    with _child(lambda: world.work(queued, node)):
        world.workers.meet("publish", limit_s=LIMIT_S)
        found["during"] = rules()
        world.workers.let_go("publish")
        ended = site.until(queued, OperationStatus.DONE, OperationStatus.FAILED)
    found["backup"] = (ended.status.value, ended.fail_reason)
    found["after it"] = rules()
    found["mount after it"] = site.mount(backups_id, f"vers={world.version},soft,retry=0")
    ended = world.work(world.queue_restore(queued.backup_id, target_id), node)
    found["restore"] = (ended.status.value, ended.fail_reason)
    found["after all"] = rules()
    return found


def fence(*, share_id: str, **site_arguments: Any) -> dict[str, Any]:
    """A node that was cut off from the database while it restores: what it can write before and
    after another one has taken over."""
    site = Site(**site_arguments)
    world = site.world
    backed_up = world.work(world.queue_backup(share_id), site.node("node-a", CLIENT))
    found: dict[str, Any] = {"backup": backed_up.status.value}
    queued = world.queue_restore(backed_up.backup_id, share_id)
    world.workers.lay("write", "pass")
    first = site.node("node-a", CLIENT)
    with _child(lambda: world.work(queued, first)) as silent:
        world.workers.meet("write", limit_s=LIMIT_S)
        os.kill(silent, signal.SIGSTOP)
        (target,) = (p for p in mounted_below("/run/mounts-node-a") if p.endswith("-share"))
        found["before"] = _written(Path(target, "stray"))

        # It seems to be on another machine: nobody can look whether its worker lives.
        def elsewhere(session: Any) -> None:
            session.get(OperationRow, queued.id).worker_started = "elsewhere/1/1"

        world.database.write(elsewhere)
        with _child(lambda: _as_other(site, queued)):
            ended = site.until(queued, OperationStatus.DONE, OperationStatus.FAILED)
        found["taken over"] = (ended.host, ended.status.value, ended.fail_reason)
        found["after"] = _written(Path(target, "late"))
        world.workers.let_go("write")
        os.kill(silent, signal.SIGCONT)
        until_s = time.monotonic() + LIMIT_S
        while mounted_below("/run/mounts-node-a") and time.monotonic() < until_s:
            time.sleep(0.2)
        found["mounts left"] = mounted_below("/run/mounts-node-a")
    found["rules left"] = len(site.store.get(share_id).access_rules)
    return found


def _as_other(site: Site, queued: Operation) -> None:
    """From here on this process is on the host ``other``: it has its network."""
    pid = Path("/mnt/hosts/other.pid").read_text().strip()
    with open(f"/proc/{pid}/ns/net", encoding="ascii") as network:
        assert ctypes.CDLL(None).setns(network.fileno(), CLONE_NEWNET) == 0
    node = site.node("node-b", OTHER, takeover_grace_s=1.0)
    run_job(node, site.world.claim(queued, node), Stop())
