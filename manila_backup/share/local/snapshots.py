# SPDX-License-Identifier: Apache-2.0
"""Snapshots of local shares: full copies of the tree, taken while the share goes on being used.

They are as consistent as a copy of a live directory can be. On a file system without reflinks they
cost as much space as the share.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.tree import copy_tree
from manila_backup.exception import Invalid, OperationError, ShareSnapshotNotFound
from manila_backup.share.local import files
from manila_backup.share.local.changes import refuse_unless_available
from manila_backup.share.local.records import (
    LocalSnapshot,
    RecordDamaged,
    dump_snapshot,
    is_uuid,
    load_snapshot,
)
from manila_backup.share.local.store import LocalShareStore

LOG = logging.getLogger(__name__)

SNAPSHOT_DOCUMENT = "snapshot.json"
TREE = "tree"

TreeCopier = Callable[[int, int], None]
"""Copies the tree below the first directory fd into the empty directory of the second, following
no links and entering no mounts; raises OSError or OperationError."""


def copy_with_engine(source_fd: int, target_fd: int) -> None:
    """The copy engine: safe in a tree that its users go on changing, and ends with this process."""
    copy_tree(
        source_fd,
        target_fd,
        CopyOptions(reflink=True),
        catalog=None,
        progress=lambda counters: None,
        cancelled=lambda: False,
    )


class PendingSnapshot:
    """A snapshot announced and not yet copied; whoever holds it must ``finish`` it."""

    def __init__(self, snapshot: LocalSnapshot, lock: files.WorkLock) -> None:
        self.snapshot = snapshot
        self.lock = lock


class LocalSnapshots:
    """The snapshots of a store's shares. Instances may be shared between threads."""

    def __init__(self, store: LocalShareStore, copy: TreeCopier = copy_with_engine) -> None:
        self._store = store
        self._copy = copy

    def directory(self, share_id: str, snapshot_id: str) -> Path:
        """:raises ShareSnapshotNotFound: the id is not a UUID."""
        if not is_uuid(snapshot_id):
            raise ShareSnapshotNotFound(snapshot_id=snapshot_id)
        return self._store.snapshots_directory(share_id) / snapshot_id

    def begin(self, snapshot: LocalSnapshot) -> PendingSnapshot:
        """Announce the snapshot, in status ``creating``; :meth:`finish` copies the tree.

        A store that is opened while the copy is under way leaves it alone; when this process dies
        the announced snapshot disappears with the next opening.
        :raises ShareNotFound:
        :raises InvalidShare: the share is not available.
        :raises ShareBusy: a task of the share is under way.
        """
        directory = self.directory(snapshot.share_id, snapshot.id)
        snapshot = replace(snapshot, status="creating", copying=True)
        with self._store.lock():
            share = self._store.get(snapshot.share_id)
            refuse_unless_available(share)
            directory.mkdir(mode=0o700)
            lock = files.WorkLock(directory)
            try:
                self._write(snapshot)
                files.sync_directory(directory.parent)
            except BaseException:
                lock.release()
                with suppress(OSError):
                    drop_empty(directory)
                raise
        return PendingSnapshot(snapshot, lock)

    def finish(self, pending: PendingSnapshot) -> LocalSnapshot:
        """Copy the tree; the snapshot ends ``available``, or in ``error`` without content.

        An administrator who set another status meanwhile, or deleted the snapshot, has his way.
        """
        snapshot = pending.snapshot
        status = "error"
        try:
            status = self._fill(snapshot)
        finally:
            try:
                ended = self._ended(snapshot, status)
            finally:
                pending.lock.release()
        if ended.removing:
            self.finish_delete(snapshot.share_id, snapshot.id)
        return ended

    def _fill(self, snapshot: LocalSnapshot) -> str:
        directory = self.directory(snapshot.share_id, snapshot.id)
        try:
            self._copy_tree(self._store.tree(snapshot.share_id), directory / TREE)
        except (OSError, OperationError) as exc:
            LOG.warning("Snapshot %s failed: %s", snapshot.id, exc)
            with suppress(OSError):
                files.remove_tree(directory, TREE)
            return "error"
        return "available"

    def get(self, snapshot_id: str) -> LocalSnapshot:
        """Looks into every share's directory for the name.

        :raises ShareSnapshotNotFound:
        """
        if is_uuid(snapshot_id):
            for share_id in self._share_ids():
                with suppress(ShareSnapshotNotFound):
                    return self.read(share_id, snapshot_id)
        raise ShareSnapshotNotFound(snapshot_id=snapshot_id)

    def read(self, share_id: str, snapshot_id: str) -> LocalSnapshot:
        """:raises ShareSnapshotNotFound:
        :raises RecordDamaged:
        """
        path = self.directory(share_id, snapshot_id) / SNAPSHOT_DOCUMENT
        try:
            return load_snapshot(str(path), files.read_document(path))
        except FileNotFoundError as exc:
            raise ShareSnapshotNotFound(snapshot_id=snapshot_id) from exc

    def all(self) -> Iterator[LocalSnapshot]:
        """All snapshots of all shares in no particular order; damaged ones are logged, left out."""
        for share_id in self._share_ids():
            for snapshot_id in self._store.snapshot_ids(share_id):
                try:
                    yield self.read(share_id, snapshot_id)
                except ShareSnapshotNotFound:
                    continue
                except RecordDamaged as exc:
                    LOG.warning("%s", exc)

    def update(
        self, snapshot_id: str, change: Callable[[LocalSnapshot], LocalSnapshot]
    ) -> LocalSnapshot:
        """Replace the snapshot by ``change(snapshot)``, as one step; ``change`` may raise."""
        share_id = self.get(snapshot_id).share_id
        with self._store.lock():
            before = self.read(share_id, snapshot_id)
            after = change(before)
            if after == before:
                return before
            after = replace(after, updated_at=self._store.now())
            self._write(after)
            return after

    def begin_delete(self, snapshot_id: str, *, force: bool = False) -> LocalSnapshot:
        """Announce the deletion; :meth:`finish_delete` does it, or the next start of the store.

        ``force`` passes over the status.
        :raises Invalid: the status does not allow it.
        """

        def announce(snapshot: LocalSnapshot) -> LocalSnapshot:
            if not force and snapshot.status not in {"available", "error"}:
                raise Invalid(reason=f"The snapshot's status is {snapshot.status}.")
            return replace(snapshot, status="deleting", removing=True)

        return self.update(snapshot_id, announce)

    def finish_delete(self, share_id: str, snapshot_id: str) -> None:
        """Remove what ``begin_delete`` has announced. Idempotent; left to whoever is already at it.

        What cannot be removed is logged and leaves the snapshot in ``error_deleting``.
        """
        directory = self.directory(share_id, snapshot_id)
        with files.work_lock(directory) as ours:
            if not ours or not self._is_removing(share_id, snapshot_id):
                return
            try:
                files.remove_tree(directory, TREE)
                with self._store.lock():
                    drop_empty(directory)
            except OSError as exc:
                LOG.warning("Snapshot %s could not be removed: %s", snapshot_id, exc)
                with suppress(ShareSnapshotNotFound):
                    self.update(snapshot_id, lambda old: replace(old, status="error_deleting"))

    def _share_ids(self) -> list[str]:
        """:raises TransientError: the store is away."""
        self._store.refuse_if_away()
        return [name for name in os.listdir(self._store.root) if is_uuid(name)]

    def _is_removing(self, share_id: str, snapshot_id: str) -> bool:
        try:
            return self.read(share_id, snapshot_id).removing
        except ShareSnapshotNotFound:
            return False

    def _write(self, snapshot: LocalSnapshot) -> None:
        directory = self.directory(snapshot.share_id, snapshot.id)
        files.write_document(directory / SNAPSHOT_DOCUMENT, dump_snapshot(snapshot))

    def _ended(self, snapshot: LocalSnapshot, status: str) -> LocalSnapshot:
        def end(old: LocalSnapshot) -> LocalSnapshot:
            wanted = status if old.status == "creating" else old.status
            return replace(old, status=wanted, copying=False)

        return self.update(snapshot.id, end)

    def _copy_tree(self, source: Path, target: Path) -> None:
        target.mkdir(mode=0o700)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        source_fd = os.open(source, flags)
        try:
            target_fd = os.open(target, flags)
            try:
                self._copy(source_fd, target_fd)
                files.sync_file_system(target_fd)
            finally:
                os.close(target_fd)
        finally:
            os.close(source_fd)


def drop_empty(directory: Path) -> None:
    """Remove a snapshot's directory that has no content (any more). The caller holds the lock.

    :raises OSError: there is something in it; then its document is still there, too.
    """
    for name in (TREE, files.REMOVING):
        with suppress(FileNotFoundError):
            (directory / name).rmdir()
    for name in (SNAPSHOT_DOCUMENT, SNAPSHOT_DOCUMENT + files.NEW_SUFFIX):
        (directory / name).unlink(missing_ok=True)
    directory.rmdir()
    files.sync_directory(directory.parent)
