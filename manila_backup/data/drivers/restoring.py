# SPDX-License-Identifier: Apache-2.0
"""Laying a stored tree over a share: all that can be checked first, then the writing."""

from __future__ import annotations

import errno
import os
from itertools import islice

from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.measure import measure_tree
from manila_backup.data.copy.restore import restore_tree
from manila_backup.data.copy.sysio import Files
from manila_backup.data.copy.verify import check_presence
from manila_backup.data.drivers.base import Control, RestoreResult
from manila_backup.data.drivers.durable import Disk
from manila_backup.data.drivers.layout import DATA, failing, label
from manila_backup.data.drivers.meter import Meter
from manila_backup.data.drivers.space import Room, replaced_room, require
from manila_backup.data.drivers.stored import StoredTree, damage_named
from manila_backup.exception import BackupDamaged, CopyFailed
from manila_backup.types import MountedTree, Parallelism, RestoreMode

_NAMED_PROBLEMS = 3


def require_writable(target: MountedTree, target_fd: int) -> None:
    """:raises CopyFailed: the target is mounted read-only."""
    if target.read_only or os.fstatvfs(target_fd).f_flag & os.ST_RDONLY:
        raise CopyFailed(path=".", reason=os.strerror(errno.EROFS), errno=errno.EROFS)


class Restoration:
    """One restore of one stored tree. The fds stay the caller's."""

    def __init__(
        self,
        stored: StoredTree,
        target_fd: int,
        mode: RestoreMode,
        control: Control,
        *,
        parallelism: Parallelism,
        files: Files,
        disk: Disk,
    ) -> None:
        self._stored = stored
        self._target_fd = target_fd
        self._mode = mode
        self._control = control
        self._parallelism = parallelism
        self._files = files
        self._disk = disk

    def check(self) -> None:
        """Catalog, presence and size of each entry, and room in the target; changes nothing.

        :raises BackupDamaged:
        :raises NotEnoughSpace:
        :raises CopyFailed: something cannot be read.
        :raises Cancelled:
        """
        with damage_named(self._stored.ref):
            self._stored.check_catalog(self._control.cancelled)
            self._check_presence()
            self._check_room()

    def _check_presence(self) -> None:
        problems = check_presence(
            self._stored.entries,
            self._stored.data_fd,
            cancelled=self._control.cancelled,
            files=self._files,
        )
        with failing(label(self._stored.ref, DATA)):
            first = list(islice(problems, _NAMED_PROBLEMS))
        if first:
            raise BackupDamaged(backup_id=self._stored.ref.backup_id, what="; ".join(first))

    def _check_room(self) -> None:
        # A lower bound: how the target rounds up to blocks is not known. It must not refuse the
        # share that the backup was made of, full as it may be.
        manifest = self._stored.manifest
        needed = Room(bytes=manifest.stored_bytes, inodes=manifest.catalog.entries)
        with failing("."):
            require(self._target_fd, "the share", needed, self._freed())

    def _freed(self) -> Room:
        cancelled = self._control.cancelled
        if self._mode is RestoreMode.MERGE:
            return replaced_room(self._stored.entries(), self._target_fd, cancelled)
        present = measure_tree(self._target_fd, cancelled=cancelled, files=self._files)
        return Room(bytes=present.bytes, inodes=present.entries)

    def write(self) -> RestoreResult:
        """The restore itself; durable when it returns.

        :raises BackupDamaged: content is not what its checksum says; names the path.
        :raises CopyFailed:
        :raises Cancelled:
        """
        manifest = self._stored.manifest
        meter = Meter(
            self._control,
            content_bytes=manifest.stored_bytes,
            entries=manifest.catalog.entries,
        )
        with damage_named(self._stored.ref):
            result = restore_tree(
                self._stored.entries,
                self._stored.data_fd,
                self._target_fd,
                CopyOptions(
                    delete=self._mode is RestoreMode.EXACT,
                    processes=self._parallelism.processes,
                    threads=self._parallelism.threads,
                    rate_path=self._parallelism.rate_path,
                ),
                progress=meter,
                cancelled=self._control.cancelled,
                files=self._files,
            )
        # The fd was opened before anything was written, so that no write error escapes it.
        with failing("."):
            self._disk.syncfs(self._target_fd)
        meter.finish(result.counters)
        return RestoreResult(counters=result.counters, remarks=result.remarks)
