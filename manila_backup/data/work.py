# SPDX-License-Identifier: Apache-2.0
"""The three kinds of work. Each takes in order (mark the share, grant access, mount, copy) and
leaves on the caller's stack how to give it back in reverse (unmount, revoke, unmark).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from oslo_db import exception as db_exc

from manila_backup import exception
from manila_backup.context import service_context
from manila_backup.data import worker_process
from manila_backup.data.backup_share import mount_name
from manila_backup.data.drivers.base import BackupResult, RestoreResult
from manila_backup.data.holder import Holder
from manila_backup.data.notice import notice
from manila_backup.data.task import Task
from manila_backup.data.undo import undo
from manila_backup.db import backups
from manila_backup.db.backups import Backup
from manila_backup.db.clock import iso
from manila_backup.db.intents import IntentKind
from manila_backup.states import OperationKind, Phase, ShareStatus
from manila_backup.types import (
    AccessLevel,
    BackupDescription,
    BackupRef,
    Counters,
    Mount,
    MountedTree,
    Remarks,
    RestoreMode,
    Share,
    StoredBackup,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """``stored`` belongs to a create; ``notice`` tells the tenant what is not as it should be."""

    counters: Counters
    stored: StoredBackup | None = None
    notice: str | None = None


class Work:
    """The work of one attempt. :meth:`do` is called once."""

    def __init__(self, holder: Holder, stack: ExitStack) -> None:
        self._holder = holder
        self._node = holder.node
        self._operation = holder.operation
        self._stack = stack

    def do(self) -> Result:
        """:raises ManilaBackupError: it could not be done; what was taken is on the stack."""
        with self._node.database.reader() as session:
            backup = backups.get(session, self._operation.backup_id)
        if self._operation.kind is OperationKind.CREATE:
            return self._create(backup)
        if self._operation.kind is OperationKind.RESTORE:
            return self._restore(backup)
        return self._delete(backup)

    def _create(self, backup: Backup) -> Result:
        ref = BackupRef(
            project_id=backup.project_id, backup_id=backup.id, epoch=self._operation.epoch
        )
        share = self._enter_share(ShareStatus.BACKUP_CREATING, AccessLevel.RO, backup)
        source = self._mount_share(share, read_only=True)
        root = self._mount_backup_share(read_only=False)
        self._holder.phase(Phase.COPYING)
        self._stack.enter_context(self._data_directory(ref))
        description = _describe(backup, ref, share)
        result: BackupResult = self._drive(backup, root, "backup", description, source, None)
        self._check_owner(share.id)
        counters = result.stored.counters
        said = self._notice(counters, result.remarks)
        return Result(counters=counters, stored=result.stored, notice=said)

    def _restore(self, backup: Backup) -> Result:
        ref = backup.published_ref
        if ref is None:
            raise exception.BackupNotStored(backup_id=backup.id, what="nothing was published")
        share = self._enter_share(ShareStatus.BACKUP_RESTORING, AccessLevel.RW, backup)
        if share.size_gib < backup.size_gib:
            raise exception.PermanentError(
                reason=f"Share size {share.size_gib} is too small to restore backup of size "
                f"{backup.size_gib}."
            )
        root = self._mount_backup_share(read_only=True)
        target = self._mount_share(share, read_only=False)
        self._holder.phase(Phase.COPYING)
        mode = self._operation.mode or RestoreMode.EXACT
        result: RestoreResult = self._drive(backup, root, "restore", ref, target, mode)
        self._check_owner(share.id)
        said = self._notice(result.counters, result.remarks)
        return Result(counters=result.counters, notice=said)

    def _delete(self, backup: Backup) -> Result:
        root = self._mount_backup_share(read_only=False)
        self._holder.phase(Phase.DELETING)
        ref = BackupRef(project_id=backup.project_id, backup_id=backup.id, epoch=0)
        self._drive(backup, root, "delete", ref)
        return Result(counters=self._holder.counters)

    def _notice(self, counters: Counters, remarks: Remarks) -> str | None:
        seen = self._operation
        label = f"Operation {seen.id}, request {seen.request_id}, epoch {seen.epoch}"
        return notice(seen.kind, label, counters, remarks)

    # --- steps --------------------------------------------------------------------------------

    def _enter_share(self, status: ShareStatus, level: AccessLevel, backup: Backup) -> Share:
        context = service_context(self._operation.request_id)
        share = self._node.provider.get(context, self._operation.share_id)
        self._holder.phase(Phase.MARKING)
        self._stack.enter_context(self._marked(share, status))
        # Looked at again under the mark: until then its owner could still change it.
        share = self._check_owner(self._operation.share_id)
        self._check_share(share, backup)
        self._holder.phase(Phase.GRANTING)
        self._stack.enter_context(self._granted(share, level))
        return share

    def _check_owner(self, share_id: str) -> Share:
        share = self._node.provider.get(service_context(self._operation.request_id), share_id)
        if share.project_id != self._operation.project_id:
            raise exception.ShareChangedHands(share_id=share_id)
        return share

    def _check_share(self, share: Share, backup: Backup) -> None:
        settings = self._node.settings
        if share.id == self._node.backup_share.share_id:
            raise exception.PermanentError(reason=f"Share {share.id} is the backup share.")
        if share.is_soft_deleted:
            raise exception.PermanentError(reason=f"Share {share.id} has been soft deleted.")
        if self._operation.kind is not OperationKind.CREATE:
            return
        if share.has_snapshots and settings.refuse_shares_with_snapshots:
            raise exception.PermanentError(reason=f"Share {share.id} has snapshots.")
        if share.has_replicas:
            raise exception.PermanentError(reason=f"Share {share.id} has replicas.")
        if share.size_gib > backup.charged_gib:
            raise exception.PermanentError(
                reason=f"Share {share.id} has grown beyond the {backup.charged_gib} GiB that "
                "were charged."
            )

    @contextmanager
    def _marked(self, share: Share, status: ShareStatus) -> Iterator[None]:
        intent = self._holder.intend(IntentKind.MARK, {"share_id": share.id})
        try:
            self._node.provider.mark(share, self._operation.id, status)
            self._holder.made(intent, intent.detail)
            yield
        finally:
            self._holder.give_back(Phase.UNMARKING, intent)

    @contextmanager
    def _granted(self, share: Share, level: AccessLevel) -> Iterator[None]:
        detail = {
            "share_id": share.id,
            "address": self._node.settings.address,
            "level": str(level),
        }
        intent = self._holder.intend(IntentKind.GRANT, detail)
        try:
            grant = self._node.provider.grant(share, self._node.settings.address, level)
            detail["ours"] = "yes" if grant.ours else "no"
            if grant.reference is not None:
                detail["reference"] = grant.reference
            self._holder.made(intent, detail)
            yield
        finally:
            self._holder.give_back(Phase.REVOKING, self._holder.reread(intent))

    def _mount_share(self, share: Share, *, read_only: bool) -> MountedTree:
        mount = self._node.provider.mounts(share)[0]
        name = f"{self._operation.id}-{self._operation.epoch}-share"
        return self._mount(mount, name, read_only=read_only)

    def _mount_backup_share(self, *, read_only: bool) -> MountedTree:
        """One for all jobs that need it so at the same time."""
        mount = self._stack.enter_context(self._access_to_backup_share())
        return self._mount(mount, mount_name(read_only=read_only), read_only=read_only)

    @contextmanager
    def _access_to_backup_share(self) -> Iterator[Mount]:
        backup_share = self._node.backup_share
        needed = backup_share.grant()
        if needed is None:
            with backup_share.access() as mount:
                yield mount
            return
        detail = {
            "share_id": needed.share_id,
            "address": needed.address,
            "level": str(needed.level),
        }
        intent = self._holder.intend(IntentKind.GRANT, detail)
        try:
            with backup_share.access(lambda _: self._holder.made(intent, detail)) as mount:
                yield mount
        finally:
            # Also of an operation that is another's now, who may have forgotten the intent: it is
            # this node's access.
            self._holder.give_back(Phase.REVOKING, self._holder.reread(intent), even_if_lost=True)
            if self._holder.stop.lost:
                with suppress(exception.GrantFailed):
                    backup_share.release()

    def _mount(self, mount: Mount, name: str, *, read_only: bool) -> MountedTree:
        self._holder.phase(Phase.MOUNTING)
        if mount.proto != "path":
            self._stack.enter_context(self._mount_point(name))
        mounted = self._node.mounts.mounted(mount, name, read_only=read_only)
        return self._stack.enter_context(mounted)

    @contextmanager
    def _mount_point(self, name: str) -> Iterator[None]:
        intent = self._holder.intend(IntentKind.MOUNT, {"path": self._node.mounts.point(name)})
        try:
            yield
        finally:
            self._holder.give_back(Phase.UNMOUNTING, intent, even_if_lost=True)

    @contextmanager
    def _data_directory(self, ref: BackupRef) -> Iterator[None]:
        """Keep the data when the block succeeds (its intent ends with the operation); on an error
        throw it away, unless the node is in a hurry: then the next attempt does, or it is another's
        operation: then the reaper does.
        """
        intent = self._holder.intend(
            IntentKind.DATA_DIRECTORY,
            {"project_id": ref.project_id, "backup_id": ref.backup_id},
        )
        try:
            yield
        except BaseException:
            if self._holder.stop.lost:
                # Whoever took over has thrown it away, and our worker may have made it after that.
                with suppress(db_exc.DBError):
                    self._holder.made(intent, intent.detail)
            elif not self._holder.stop.shutdown:
                undo(self._node, intent)
            raise

    def _drive(self, backup: Backup, root: MountedTree, method: str, *arguments: Any) -> Any:
        """Run a method of the driver that the backup is, or is to be, stored by."""
        task = Task(
            driver=backup.driver,
            root=root,
            parallelism=self._node.parallelism,
            method=method,
            arguments=arguments,
        )
        stop = self._holder.stop
        return worker_process.run(
            task, stop.event, self._holder.hooks(), grace_s=lambda: stop.grace_s
        )


def _describe(backup: Backup, ref: BackupRef, share: Share) -> BackupDescription:
    return BackupDescription(
        ref=ref,
        share_id=share.id,
        share_name=share.name,
        share_proto=share.share_proto,
        size_gib=backup.size_gib,
        user_id=backup.user_id,
        name=backup.name,
        description=backup.description,
        availability_zone=backup.availability_zone,
        created_at=f"{iso(backup.created_at_us)}Z",
        options=dict(backup.options),
    )
