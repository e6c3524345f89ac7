# SPDX-License-Identifier: Apache-2.0
"""A worker's part in a large file that several workers copy at once, range by range.

The source is opened by its name for each task, which goes on only if it is the inode that it was.
The target is the coordinator's, who holds it open: whatever others do to its name, what was begun
is completed.
"""

from __future__ import annotations

import errno
import os

from manila_backup.data.catalog.entry import Entry, EntryType
from manila_backup.data.copy.attributes import Attributes, entry_of
from manila_backup.data.copy.content import CopiedPart, Mover, plan_ranges
from manila_backup.data.copy.dirstack import (
    DirStack,
    NotTheDirectory,
    OtherMount,
    identity_of,
)
from manila_backup.data.copy.errors import TargetFailed, copy_failed
from manila_backup.data.copy.notes import Notes, Pulse
from manila_backup.data.copy.source import SourceFiles, Swapped
from manila_backup.data.copy.sysio import Files
from manila_backup.data.copy.target import Held, Target
from manila_backup.data.copy.tasks import BeginFile, Begun, CopyRange, LargeFile, SealFile
from manila_backup.data.copy.walk import GONE

LARGE_BYTES = 64 << 20
"""Files from this size are tasks of their own."""

RANGE_BYTES = 64 << 20
"""A multiple of the piece size, so that the pieces are those of the file as a whole."""

_NOT_THERE = (Swapped, NotTheDirectory, OtherMount, FileNotFoundError)
"""How the source shows that it is not what it was."""


_Sealed = tuple[Entry, Held, tuple[str, ...]]


class Ranges:
    """What :class:`~.copier.Copier` does of large files; shares its parts."""

    def __init__(
        self,
        files: Files,
        *,
        dirs: DirStack,
        source: SourceFiles,
        target: Target,
        mover: Mover,
        pulse: Pulse,
        hashing: bool,
    ) -> None:
        self._files = files
        self._dirs = dirs
        self._source = source
        self._target = target
        self._mover = mover
        self._pulse = pulse
        self._hashing = hashing

    def begin(self, task: BeginFile) -> Begun | None:
        """See :class:`~.tasks.BeginFile`.

        :raises CopyFailed:
        """
        directory, name = task.directory, task.name
        path = directory.path + b"/" + name if directory.path else name
        try:
            fd = self._dirs.enter(directory.path, directory.source)
            with self._source.opened(name, fd, EntryType.FILE) as opened:
                info = opened.stat
                if info.st_nlink != 1:
                    return None
                ranges = plan_ranges(
                    self._files, opened.fd, info.st_size, RANGE_BYTES, self._pulse.check
                )
        except _NOT_THERE:
            return None
        except OSError as error:
            if error.errno in GONE or error.errno == errno.ESTALE:
                return None
            raise copy_failed(path, error) from error
        return Begun(source=identity_of(info), seen=_looks(info), ranges=ranges)

    def copy(self, task: CopyRange) -> CopiedPart | None:
        """See :class:`~.tasks.CopyRange`.

        :raises CopyFailed: :raises Cancelled:
        """
        file = task.file
        path = path_of(file)
        bytes_before = self._pulse.notes.bytes
        try:
            fd = self._dirs.enter(file.directory.path, file.directory.source)
            with self._source.opened(file.name, fd, EntryType.FILE) as opened:
                if identity_of(opened.stat) != file.source:
                    return None
                with self._target.begun_file(file.place, file.target) as target:
                    part = self._mover.copy_part(
                        opened.fd, target, task.start, task.end, hashing=self._hashing
                    )
        except _NOT_THERE:
            part = None
        except TargetFailed as failed:
            raise copy_failed(path, failed.error) from failed
        except OSError as error:
            if error.errno != errno.ESTALE and error.errno not in GONE:
                raise copy_failed(path, error) from error
            part = None
        if part is None or part.cut_short:
            self._pulse.notes.bytes = bytes_before
            return None
        return part

    def seal(self, task: SealFile, notes: Notes) -> _Sealed | None:
        """See :class:`~.tasks.SealFile`: the entry without losses, what the target holds of it, and
        what could not be read.

        :raises CopyFailed:
        """
        file = task.file
        path = path_of(file)
        size = file.seen[0]
        try:
            fd = self._dirs.enter(file.directory.path, file.directory.source)
            with self._source.opened(file.name, fd, EntryType.FILE) as opened:
                info = opened.stat
                if identity_of(info) != file.source or _looks(info) != file.seen:
                    return None
                wanted = Attributes.of_stat(info, opened.xattrs)
                with self._target.begun_file(file.place, file.target) as target:
                    held = self._target.seal(target, wanted, size=size)
                if not self._target.is_at(path, file.target):
                    return None
        except _NOT_THERE:
            return None
        except TargetFailed as failed:
            raise copy_failed(path, failed.error) from failed
        except OSError as error:
            if error.errno != errno.ESTALE and error.errno not in GONE:
                raise copy_failed(path, error) from error
            return None
        notes.files += 1
        notes.logical_bytes += size
        return entry_of(path, EntryType.FILE, info, wanted), held, wanted.lost


def path_of(file: LargeFile) -> bytes:
    directory = file.directory.path
    return directory + b"/" + file.name if directory else file.name


def _looks(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns
