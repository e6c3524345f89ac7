# SPDX-License-Identifier: Apache-2.0
"""The real application in-process, with the real local shares and a real database behind it.

The part of the data node is played by what the data node itself calls: claims and endings.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from oslo_config import cfg
from werkzeug.test import Client, TestResponse

from manila_backup.api.app import build_app
from manila_backup.api.gateway.options import GatewaySettings
from manila_backup.api.options import Settings
from manila_backup.context import RequestContext
from manila_backup.data import endings
from manila_backup.data.endings import Outcome
from manila_backup.db import backups, busy_shares, operations
from manila_backup.db.backups import Backup
from manila_backup.db.engine import Database
from manila_backup.db.operations import Operation
from manila_backup.share.local.provider import LocalShareProvider
from manila_backup.share.local.records import LocalShare
from manila_backup.share.local.store import LocalShareStore
from manila_backup.states import OperationEvent, ShareStatus
from manila_backup.types import BackupDescription, BackupRef, Counters, Share, StoredBackup
from tests.db.builders import Contents, committed

P1, P2 = "p-one", "p-two"
MEMBER = f"ann:{P1}:member"
READER = f"rita:{P1}:reader"
NOBODY = f"noel:{P1}:guest"
OTHER = f"otto:{P2}:member"
ADMIN = "root:p-admin:admin"
LATEST = "2.99"


class RecordingWaker:
    """Remembers whom it woke, and what was committed then."""

    def __init__(self, database: Database) -> None:
        self.woken: list[str] = []
        self.statuses: list[str] = []
        self._database = database

    def wake(self, operation_id: str) -> None:
        self.woken.append(operation_id)
        with self._database.reader() as session:
            self.statuses.append(operations.get(session, operation_id).status)


class AdjustedProvider(LocalShareProvider):
    """The local provider, whose shares can be given what only Manila's have."""

    def __init__(self, store: LocalShareStore) -> None:
        super().__init__(store, bind_mounts=False)
        self.adjust: dict[str, Any] = {}

    def get(self, context: RequestContext, share_id: str) -> Share:
        return replace(super().get(context, share_id), **self.adjust)


@dataclass(kw_only=True)
class Api:
    """One service. ``manifests`` are the backups for which the store has a valid manifest."""

    database: Database
    store: LocalShareStore
    provider: AdjustedProvider
    waker: RecordingWaker
    settings: Settings = field(default_factory=Settings)
    manifests: set[str] = field(default_factory=set)
    conf: cfg.ConfigOpts | None = None
    gateway: GatewaySettings | None = None

    def __post_init__(self) -> None:
        self.manifest_exists: Callable[[Backup], bool] = lambda backup: backup.id in self.manifests
        self.build()

    def build(self) -> None:
        """Make the application of what the fields say now."""
        self.app = build_app(
            self.settings,
            self.database,
            self.provider,
            self.waker,
            conf=self.conf,
            manifest_exists=self.manifest_exists,
            gateway=self.gateway,
        )
        self.client = Client(self.app)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        who: str | None = MEMBER,
        version: str | None = LATEST,
        experimental: bool = True,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> TestResponse:
        """One request, as python-manilaclient makes it; ``path`` is below ``/v2``."""
        sent = {} if who is None else {"X-Auth-Token": who}
        if version is not None:
            sent["X-OpenStack-Manila-API-Version"] = version
        if experimental:
            sent["X-OpenStack-Manila-API-Experimental"] = "true"
        if body is not None:
            more["json"] = body
        return self.client.open(
            f"/v2{path}", method=method, headers={**sent, **(headers or {})}, **more
        )

    # --- shares -----------------------------------------------------------------------------------

    def share(self, project_id: str = P1, **values: Any) -> str:
        """A new available share; its id."""
        share = LocalShare(
            id=str(uuid.uuid4()),
            project_id=project_id,
            user_id="u",
            name=values.pop("name", "accounts"),
            description=None,
            size_gib=values.pop("size_gib", 2),
            created_at=self.store.now(),
            **values,
        )
        self.store.create(share)
        return share.id

    def change_share(self, share_id: str, **values: Any) -> None:
        self.store.update(share_id, lambda share: replace(share, **values))

    def share_status(self, share_id: str) -> ShareStatus:
        with self.database.reader() as session:
            held = busy_shares.get(session, share_id)
        return ShareStatus.AVAILABLE if held is None else held.status

    # --- backups ----------------------------------------------------------------------------------

    def create(self, share_id: str, *, who: str = MEMBER, **values: Any) -> str:
        """Ask for a backup; its id."""
        body = {"share_backup": {"share_id": share_id, **values}}
        answer = self.call("POST", "/share-backups", body, who=who)
        assert answer.status_code == 202, answer.text
        return str(answer.json["share_backup"]["id"])

    def available(self, share_id: str, *, who: str = MEMBER, **values: Any) -> str:
        """A backup that a data node has finished; its id."""
        backup_id = self.create(share_id, who=who, **values)
        self.finish(backup_id)
        return backup_id

    def row(self, backup_id: str) -> Backup:
        with self.database.reader() as session:
            return backups.get(session, backup_id)

    def active(self, backup_id: str) -> Operation | None:
        with self.database.reader() as session:
            return operations.active_of_backup(session, backup_id)

    def claim(self, backup_id: str) -> Operation:
        """A data node takes the backup's queued operation."""

        def take(session: Any) -> Operation:
            seen = operations.active_of_backup(session, backup_id)
            assert seen is not None
            return operations.take(session, seen, OperationEvent.CLAIM, host="node-1", lease_s=60)

        return self.database.write(take)

    def finish(self, backup_id: str) -> None:
        """A data node takes the backup's queued operation and succeeds."""
        self.complete(backup_id, self.claim(backup_id))

    def complete(self, backup_id: str, held: Operation, **changes: Any) -> None:
        """The data node that has taken the operation succeeds, with ``changes`` to what it has
        stored."""
        stored = replace(_stored(self.row(backup_id), held.epoch), **changes)
        self.manifests.add(backup_id)
        finish = OperationEvent.FINISH
        self.end(held, Outcome(event=finish, stored=stored, counters=stored.counters))

    def fail(self, backup_id: str, reason: str = "disk full", *, written: bool = False) -> None:
        """A data node takes the backup's queued operation and fails."""
        held = self.claim(backup_id)
        self.database.write(lambda session: operations.note(session, held, share_written=written))
        self.end(held, Outcome(event=OperationEvent.FAIL, reason=reason))

    def end(self, held: Operation, outcome: Outcome) -> None:
        self.database.write(lambda session: endings.end(session, held, outcome))

    # --- everything -------------------------------------------------------------------------------

    def contents(self) -> Contents:
        """All rows of all tables."""
        return committed(self.database)


def _stored(backup: Backup, epoch: int) -> StoredBackup:
    ref = BackupRef(project_id=backup.project_id, backup_id=backup.id, epoch=epoch)
    description = BackupDescription(
        ref=ref,
        share_id=backup.share_id,
        share_name=backup.share_name,
        share_proto=backup.share_proto,
        size_gib=backup.size_gib,
        user_id=backup.user_id,
        name=backup.name,
        description=backup.description,
        availability_zone=backup.availability_zone,
        created_at="2026-11-21T12:00:00.000000Z",
    )
    return StoredBackup(
        description=description,
        driver=backup.driver,
        counters=Counters(files=3, bytes=17),
        stored_bytes=17,
        logical_bytes=17,
        format_version=1,
    )


def fault(answer: TestResponse) -> tuple[str, int, str]:
    """Name, code and message of an error body, which must have Manila's format."""
    assert answer.content_type == "application/json", answer
    (name,) = answer.json
    inner = dict(answer.json[name])
    assert inner.pop("retryAfter", None) == ("0" if answer.status_code == 413 else None)
    assert set(inner) == {"code", "message"}
    assert inner["code"] == answer.status_code
    return name, inner["code"], inner["message"]
