# SPDX-License-Identifier: Apache-2.0
"""A small site: shares with trees, a backup share, a database, data nodes. All of it real."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from manila_backup import exception
from manila_backup.data import jobs
from manila_backup.data.copy.rate import SharedRate
from manila_backup.data.holder import Stop
from manila_backup.data.mountinfo import mounted_below
from manila_backup.data.mounts import MountManager
from manila_backup.data.node import Node, NodeSettings
from manila_backup.db import backups, busy_shares, intents, operations
from manila_backup.db.backups import Backup
from manila_backup.db.engine import Database
from manila_backup.db.operations import Operation
from manila_backup.quota import ledger
from manila_backup.quota.ledger import Limits
from manila_backup.share.local.access import with_tenant_rule
from manila_backup.share.local.records import LocalAccessRule, LocalShare
from manila_backup.share.local.store import LocalShareStore
from manila_backup.states import (
    BackupEvent,
    BackupStatus,
    OperationEvent,
    OperationKind,
    OperationStatus,
    ShareEvent,
    ShareStatus,
)
from manila_backup.types import AccessLevel, Mount, Parallelism, RestoreMode
from tests.data.drivers.trees import describe, fill
from tests.data.node.faulty import Provider, Runner, Steps, WorkerFaults
from tests.data.node.faulty_driver import DRIVER
from tests.db.builders import PROJECT, new_backup, new_operation

ADDRESS = "192.0.2.7"
SIZE_GIB = 2
IS_ROOT = os.geteuid() == 0


_NO_LIMIT = SharedRate(0)


@dataclass
class World:
    """``steps`` are those of provider and mounts, ``workers`` those of the driver."""

    directory: Path
    database: Database
    workers: WorkerFaults
    bind: bool = IS_ROOT
    steps: Steps = field(default_factory=Steps)

    def __post_init__(self) -> None:
        self.store = LocalShareStore(self.directory / "shares")
        self.backup_share = self.directory / "backup_share"
        self.backup_share.mkdir(mode=0o700)

    # --- nodes --------------------------------------------------------------------------------

    def node(self, host: str = "node-a", **changes: Any) -> Node:
        settings = NodeSettings(
            host=host,
            address=ADDRESS,
            availability_zone="nova",
            driver=DRIVER,
            backup_mount=Mount(proto=self._proto, export=str(self.backup_share)),
            max_operations=2,
            max_by_kind={},
            own_zone_only=False,
            parallelism=Parallelism(),
            max_attempts=3,
            retry_delay_s=0.0,
            lease_s=3600.0,
            takeover_grace_s=0.0,
            poll_interval_s=3600.0,
            reaper_interval_s=3600.0,
            refuse_shares_with_snapshots=True,
        )
        return Node(
            settings=replace(settings, **changes),
            database=self.database,
            provider=Provider(self.store, self.steps, bind_mounts=self.bind),
            mounts=MountManager(str(self.mounts_of(host)), runner=Runner(self.steps)),
            rate=_NO_LIMIT,
        )

    @property
    def _proto(self) -> str:
        return "bind" if self.bind else "path"

    def mounts_of(self, host: str) -> Path:
        return self.directory / f"mounts-{host}"

    # --- the tenant ---------------------------------------------------------------------------

    def share(self, *, size_gib: int = SIZE_GIB, filled: bool = True) -> str:
        share = LocalShare(
            id=str(uuid.uuid4()),
            project_id=PROJECT,
            user_id="user-1",
            name="accounts",
            description=None,
            size_gib=size_gib,
            created_at=self.store.now(),
        )
        self.store.create(share)
        if filled:
            fill(self.store.tree(share.id))
        return share.id

    def small_share(self) -> str:
        """One with a single file, for tests that care for what is around the copy."""
        share_id = self.share(filled=False)
        (self.store.tree(share_id) / "file").write_text("content")
        return share_id

    def add_rule(self, share_id: str, address: str, level: AccessLevel) -> None:
        rule = LocalAccessRule(
            id=str(uuid.uuid4()),
            access_type="ip",
            access_to=address,
            access_level=level,
            created_at=self.store.now(),
        )
        self.store.update(share_id, lambda share: with_tenant_rule(share, rule))

    def change_share(self, share_id: str, **changes: Any) -> None:
        self.store.update(share_id, lambda share: replace(share, **changes))

    # --- what the API queues ------------------------------------------------------------------

    def queue_backup(self, share_id: str) -> Operation:
        share = self.store.get(share_id)

        def write(session: Session) -> Operation:
            new = new_backup(share_id=share_id, size_gib=share.size_gib, driver=DRIVER)
            backup = backups.create(session, new)
            ledger.charge(session, PROJECT, share.size_gib, Limits(backups=1000))
            return self._queue(session, backup, OperationKind.CREATE, share_id, ShareEvent.BACKUP)

        return self.database.write(write)

    def queue_restore(
        self, backup_id: str, share_id: str, mode: RestoreMode = RestoreMode.EXACT
    ) -> Operation:
        def write(session: Session) -> Operation:
            busy = busy_shares.get(session, share_id)
            backups.transition(session, backup_id, BackupEvent.RESTORE)
            return self._queue(
                session,
                backups.get(session, backup_id),
                OperationKind.RESTORE,
                share_id,
                ShareEvent.RESTORE,
                mode=mode,
                share_was_in_error=busy is not None,
            )

        return self.database.write(write)

    def queue_delete(self, backup_id: str) -> Operation:
        def write(session: Session) -> Operation:
            backups.transition(session, backup_id, BackupEvent.DELETE)
            backup = backups.get(session, backup_id)
            return self._queue(session, backup, OperationKind.DELETE, backup.share_id, None)

        return self.database.write(write)

    def _queue(
        self,
        session: Session,
        backup: Backup,
        kind: OperationKind,
        share_id: str,
        event: ShareEvent | None,
        **more: Any,
    ) -> Operation:
        operation = operations.create(
            session, new_operation(kind=kind, backup_id=backup.id, share_id=share_id, **more)
        )
        if event is not None:
            busy_shares.transition(
                session, share_id, event, operation_id=operation.id, project_id=PROJECT
            )
        return operation

    # --- work ---------------------------------------------------------------------------------

    def claim(self, queued: Operation, node: Node) -> Operation:
        seen = self.operation(queued)
        settings = node.settings
        event = {
            OperationStatus.QUEUED: OperationEvent.CLAIM,
            OperationStatus.RUNNING: OperationEvent.TAKE_OVER,
        }[seen.status]

        def take(session: Session) -> Operation:
            if event is OperationEvent.TAKE_OVER and seen.host != settings.host:
                # Whose lease has ended meanwhile.
                operations.renew(session, seen, lease_s=0)
            return operations.take(
                session, seen, event, host=settings.host, lease_s=settings.lease_s
            )

        return self.database.write(take)

    def work(
        self, queued: Operation, node: Node | None = None, stop: Stop | None = None
    ) -> Operation:
        """One attempt, in this thread; the operation as it is afterwards."""
        node = node or self.node()
        jobs.run_job(node, self.claim(queued, node), stop or Stop())
        return self.operation(queued)

    def backed_up(self, share_id: str) -> str:
        """The id of a backup that is made here and now."""
        done = self.work(self.queue_backup(share_id))
        assert done.status is OperationStatus.DONE, done.fail_reason
        return done.backup_id

    # --- looks --------------------------------------------------------------------------------

    def operation(self, seen: Operation) -> Operation:
        with self.database.reader() as session:
            return operations.get(session, seen.id)

    def backup(self, backup_id: str) -> Backup | None:
        with self.database.reader() as session:
            try:
                return backups.get(session, backup_id)
            except exception.BackupNotFound:
                return None

    def backup_status(self, backup_id: str) -> BackupStatus | None:
        found = self.backup(backup_id)
        return None if found is None else found.status

    def share_status(self, share_id: str) -> ShareStatus:
        with self.database.reader() as session:
            busy = busy_shares.get(session, share_id)
        return ShareStatus.AVAILABLE if busy is None else busy.status

    def intents(self) -> list[intents.Intent]:
        with self.database.reader() as session:
            return intents.every(session)

    def rules(self, share_id: str) -> tuple[LocalAccessRule, ...]:
        return self.store.get(share_id).access_rules

    def tree(self, share_id: str) -> dict[bytes, dict[str, Any]]:
        return describe(self.store.tree(share_id))

    def epochs(self, backup_id: str) -> dict[int, bool]:
        """The directories of a backup's epochs in the store -> whether they are published."""
        top = self.backup_share / PROJECT / backup_id
        if not top.exists():
            return {}
        return {int(path.name): (path / "manifest.json").exists() for path in top.iterdir()}

    def mounts(self) -> list[str]:
        tops = [path for path in self.directory.glob("mounts-*") if path.is_dir()]
        points = [str(path) for top in tops for path in top.iterdir()]
        return sorted({*mounted_below(str(self.directory)), *points})

    def assert_nothing_is_left(self, share_id: str) -> None:
        """No intent, no mount, no mark, no rule of ours; the ledger is exact."""
        assert self.mounts() == []
        found = self.store.get(share_id)
        assert found.mark is None
        assert [rule for rule in found.access_rules if rule.ours] == []
        assert self.intents() == []
        with self.database.reader() as session:
            assert ledger.check(session) == []
