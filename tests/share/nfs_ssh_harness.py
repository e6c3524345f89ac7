# SPDX-License-Identifier: Apache-2.0
"""The nfs_ssh provider over a real sshd and exportfs, for the conformance suite and its own tests.

They are on the loopback interface of this machine (``ssh_server.py``), or in the virtual machine
whose kernel serves NFS (``tests/nfs/vm.py``).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from manila_backup.exception import ShareNotFound
from manila_backup.share.base import ShareProvider
from manila_backup.share.local.access import visible_rules, with_tenant_rule, without_tenant_rule
from manila_backup.share.local.changes import resized
from manila_backup.share.local.records import LocalAccessRule, LocalShare
from manila_backup.share.nfs_ssh.connection import Connection
from manila_backup.share.nfs_ssh.options import SshSettings, StoreSettings
from manila_backup.share.nfs_ssh.provider import NfsSshShareProvider
from manila_backup.share.nfs_ssh.server import Server
from manila_backup.share.nfs_ssh.store import MARKER, NfsSshStore
from manila_backup.types import AccessLevel
from tests.nfs.vm import ADDRESSES, PLAIN, Vm
from tests.share.harness import ADMIN, OWNER, STRANGER, Rules
from tests.share.ssh_server import SshServer
from tests.support.ports import free_port

VM_ROOT = "/srv/manila-backup"


class NfsSshHarness:
    """Shares of one NFS server, as one process of ours has them."""

    owner, stranger, admin = OWNER, STRANGER, ADMIN
    takes_snapshots = False

    def __init__(self, ssh: SshSettings, settings: StoreSettings) -> None:
        self.ssh = ssh
        self.settings = settings
        self._away = False
        self.server = Server(ssh, self._connect)
        self.store = NfsSshStore(self.server, settings)
        self.provider: ShareProvider = NfsSshShareProvider(self.store)
        self._made: list[str] = []

    def _connect(self, settings: SshSettings) -> Connection:
        return Connection(replace(settings, port=free_port()) if self._away else settings)

    def create_share(
        self, *, is_public: bool = False, size_gib: int = 1, project_id: str = "p-owner"
    ) -> str:
        share = LocalShare(
            id=str(uuid.uuid4()),
            project_id=project_id,
            user_id="u-owner",
            name="data",
            description=None,
            size_gib=size_gib,
            created_at=self.store.now(),
            is_public=is_public,
        )
        self._made.append(share.id)
        return self.store.create(share).id

    def remove_share(self, share_id: str) -> None:
        self.store.begin_delete(share_id)
        self.store.finish_delete(share_id)

    def set_busy(self, share_id: str) -> None:
        self.store.update(share_id, lambda share: replace(share, task_state="migration_starting"))

    def take_snapshot(self, share_id: str) -> None:
        raise NotImplementedError

    def add_rule(self, share_id: str, address: str, level: AccessLevel) -> str:
        rule = LocalAccessRule(
            id=str(uuid.uuid4()),
            access_type="ip",
            access_to=address,
            access_level=level,
            created_at=self.store.now(),
        )
        self.store.update(share_id, lambda share: with_tenant_rule(share, rule))
        return rule.id

    def remove_rule(self, share_id: str, rule_id: str) -> None:
        self.store.update(share_id, lambda share: without_tenant_rule(share, rule_id))

    def tenant_sees(self, share_id: str) -> Rules:
        rules = visible_rules(self.store.get(share_id))
        return {(rule.access_to, rule.access_level.value) for rule in rules}

    def in_force(self, share_id: str) -> Rules:
        """What the record says, exportfs has in force, and the files would put into force again."""
        record = {
            (rule.access_to, rule.access_level.value)
            for rule in self.store.get(share_id).access_rules
        }
        assert self.live(share_id) == record
        assert self.after_reboot(share_id) == record
        return record

    def live(self, share_id: str) -> Rules:
        """As exportfs tells it."""
        entries = self.store.exports.in_force(self.store.tree(share_id))
        return {(client, entry.level.value) for client, entry in entries.items()}

    def after_reboot(self, share_id: str) -> Rules:
        """As the files in the exports directory have it."""
        directory = self.settings.exports_directory
        argv = ["grep", "-rhs", "-e", f"^{self.store.tree(share_id)} ", "--", directory]
        lines = self.server.run(argv, expected=(0, 1)).out.decode().splitlines()
        clients = [line.split(" ", 1)[1] for line in lines]
        return {(client.partition("(")[0], client.partition("(")[2][:2]) for client in clients}

    def disturbances(self, share_id: str) -> Mapping[str, Callable[[], object]]:
        return {
            "delete": lambda: self.store.begin_delete(share_id),
            "force_delete": lambda: self.store.begin_delete(share_id, force=True),
            "extend": lambda: self.store.update(share_id, lambda share: resized(share, 9)),
            "shrink": lambda: self.store.update(share_id, lambda share: resized(share, 1)),
        }

    def put_away(self) -> None:
        """Nobody listens where the server is any more."""
        self._away = True
        self.server.close()

    def clean_up(self) -> None:
        """So that another host has nothing left of ours."""
        self._away = False
        for share_id in self._made:
            with suppress(ShareNotFound):
                self.store.update(share_id, _removable)
                self.remove_share(share_id)
        self.store.close()


def _removable(share: LocalShare) -> LocalShare:
    return replace(share, mark=None, task_state=None, status="available", removing=False)


def harness_over(server: SshServer, **changes: Any) -> NfsSshHarness:
    """A process's view of a server that tests have started. To be closed: ``store.close()``."""
    (server.root / MARKER).touch()
    settings = StoreSettings(root=str(server.root), export_address="127.0.0.1")
    return NfsSshHarness(server.settings(**changes), settings)


@contextmanager
def nfs_ssh_harness() -> Iterator[NfsSshHarness]:
    """One test's own."""
    with SshServer() as server:
        harness = harness_over(server)
        try:
            yield harness
        finally:
            harness.store.close()


def vm_settings(vm: Vm) -> tuple[SshSettings, StoreSettings]:
    """For the host ``plain`` of the virtual machine, as an operator would set it up."""
    vm.run(PLAIN, "mkdir", "-p", "-m", "755", VM_ROOT)
    vm.run(PLAIN, "touch", f"{VM_ROOT}/{MARKER}")
    ssh = SshSettings(
        host="127.0.0.1",
        port=vm.port,
        key_files=(str(vm.key),),
        known_hosts_file=str(vm.known_hosts),
        connect_timeout_s=60.0,
        command_timeout_s=120.0,
    )
    return ssh, StoreSettings(root=VM_ROOT, export_address=ADDRESSES[PLAIN])


@contextmanager
def vm_harness(vm: Vm) -> Iterator[NfsSshHarness]:
    """One test's own view of the machine; its shares are gone at the end."""
    harness = NfsSshHarness(*vm_settings(vm))
    try:
        yield harness
    finally:
        harness.clean_up()
