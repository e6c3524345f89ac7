# SPDX-License-Identifier: Apache-2.0
"""Removing what the store holds: the manifest first, durably, so that nothing is half there.

Whatever step this is killed at, the backup is either whole or not published, and the same call
again goes on where it stopped.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from manila_backup.data.copy.remove import remove_tree
from manila_backup.data.copy.sysio import Files
from manila_backup.data.drivers.durable import Disk
from manila_backup.data.drivers.layout import (
    ABSENT,
    MANIFEST,
    failing,
    label,
    opened,
    remove_if_empty,
)
from manila_backup.exception import Cancelled, CopyFailed
from manila_backup.names import printable
from manila_backup.types import BackupRef

_NO_MANIFEST = frozenset({errno.ENOENT, errno.EISDIR})


class Removal:
    """Removes from one store; holds nothing open between calls."""

    def __init__(
        self, root_fd: int, cancelled: Callable[[], bool], files: Files, disk: Disk
    ) -> None:
        self._root_fd = root_fd
        self._cancelled = cancelled
        self._files = files
        self._disk = disk

    def remove_backup(self, ref: BackupRef) -> None:
        """Remove all epochs of a backup, and its project's directory if nothing is left in it.

        :raises CopyFailed: something could not be removed.
        :raises Cancelled: between two steps.
        """
        path = f"{ref.project_id}/{ref.backup_id}"
        with _existing(ref.project_id, self._root_fd, ref.project_id) as project_fd:
            if project_fd is None:
                return
            with _directory(ref.backup_id, project_fd, path) as backup_fd:
                if backup_fd is not None:
                    self._unpublish_all(backup_fd, path)
            self._remove(project_fd, ref.backup_id, path)
        with failing(ref.project_id):
            remove_if_empty(ref.project_id, self._root_fd, self._disk)

    def remove_epoch(self, ref: BackupRef) -> None:
        """Remove one epoch, and the directories above it that hold nothing else.

        :raises CopyFailed: something could not be removed.
        :raises Cancelled: between two steps.
        """
        backup_path = f"{ref.project_id}/{ref.backup_id}"
        with _existing(ref.project_id, self._root_fd, ref.project_id) as project_fd:
            if project_fd is None:
                return
            with _existing(ref.backup_id, project_fd, backup_path) as backup_fd:
                if backup_fd is not None:
                    self._unpublish(backup_fd, str(ref.epoch), label(ref))
                    self._remove(backup_fd, str(ref.epoch), label(ref))
            with failing(backup_path):
                remove_if_empty(ref.backup_id, project_fd, self._disk)
        with failing(ref.project_id):
            remove_if_empty(ref.project_id, self._root_fd, self._disk)

    def _unpublish_all(self, backup_fd: int, path: str) -> None:
        with failing(path):
            listed = os.listdir(backup_fd)
        for name in listed:
            self._unpublish(backup_fd, name, f"{path}/{printable(os.fsencode(name))}")

    def _unpublish(self, backup_fd: int, name: str, path: str) -> None:
        if self._cancelled():
            raise Cancelled
        with _directory(name, backup_fd, path) as epoch_fd:
            if epoch_fd is None:
                return
            with failing(f"{path}/{MANIFEST}"):
                try:
                    os.unlink(MANIFEST, dir_fd=epoch_fd)
                except OSError as error:
                    if error.errno not in _NO_MANIFEST:
                        raise
                # Also when it was gone: whoever removed it may have died before this fsync.
                self._disk.fsync(epoch_fd)

    def _remove(self, parent_fd: int, name: str, path: str) -> None:
        try:
            remove_tree(parent_fd, os.fsencode(name), cancelled=self._cancelled, files=self._files)
        except CopyFailed as error:
            # The engine's path begins with ``name``; ours with the store's root.
            above = path.rpartition("/")[0]
            where = f"{above}/{error.path}"
            raise CopyFailed(path=where, reason=error.reason, errno=error.errno) from error
        with failing(path):
            self._disk.fsync(parent_fd)


@contextmanager
def _existing(name: str, parent_fd: int, path: str) -> Iterator[int | None]:
    """A level of ours, or None if it is not there.

    :raises CopyFailed: something odd is in its place, so that where the data is, is unknown.
    """
    with ExitStack() as stack:
        fd = None
        with failing(path), suppress(FileNotFoundError):
            fd = stack.enter_context(opened(name, parent_fd))
        yield fd


@contextmanager
def _directory(name: str, parent_fd: int, path: str) -> Iterator[int | None]:
    """A directory, or None if there is none: what is there instead will be removed as it is."""
    with ExitStack() as stack:
        fd = None
        with failing(path):
            try:
                fd = stack.enter_context(opened(name, parent_fd))
            except OSError as error:
                if error.errno not in ABSENT:
                    raise
        yield fd
