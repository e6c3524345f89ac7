# SPDX-License-Identifier: Apache-2.0
"""Deletion passes: remove from a target what is not wanted there.

One pass is a merge of two streams in raw byte order of the paths, the wanted entries and a walk of
the target; memory does not grow with either.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from manila_backup.data.catalog.chain import Chain
from manila_backup.data.catalog.entry import Entry, EntryType
from manila_backup.data.copy.errors import copy_failed
from manila_backup.data.copy.remove import Remover
from manila_backup.data.copy.source import Swapped, type_of
from manila_backup.data.copy.sysio import Files
from manila_backup.data.copy.tally import Tally
from manila_backup.data.copy.walk import Found, Walk


@dataclass(frozen=True, slots=True)
class Wanted:
    """What must be at a path."""

    path: bytes
    type: EntryType
    size: int
    mtime_ns: int

    @classmethod
    def of_entry(cls, entry: Entry) -> Wanted:
        return cls(entry.path, entry.type, entry.size, entry.mtime_ns)


class Pruner:
    """``wanted`` starts a new pass over the wanted entries."""

    def __init__(
        self,
        target_fd: int,
        wanted: Callable[[], Generator[Wanted]],
        tally: Tally,
        *,
        cancelled: Callable[[], bool],
        files: Files,
    ) -> None:
        self._target_fd = target_fd
        self._wanted = wanted
        self._tally = tally
        self._cancelled = cancelled
        self._files = files
        self._remover = Remover(files=files, cancelled=cancelled, keep=True)
        self._is_root = os.geteuid() == 0
        self._is_final = False
        self._compare = False
        self._directories: Chain[int] = Chain()

    def before(self) -> None:
        """Make room: remove what is not wanted, and directories that must not be directories (or
        the other way round).
        """
        self._pass()

    def after(self, *, compare: bool) -> bool:
        """The same when all has been written, so what is found now was made by others meanwhile: it
        is counted and named, and the times of its directory are put right again.

        With ``compare`` what is missing or looks different is counted and named, too. Answers
        whether anything was removed.
        """
        self._is_final = True
        self._compare = compare
        removed_before = self._remover.removed
        self._pass()
        return self._remover.removed > removed_before

    def _pass(self) -> None:
        self._directories = Chain()
        walk = Walk(
            self._target_fd,
            files=self._files,
            cancelled=self._cancelled,
            on_skip=lambda path: None,
        )
        with contextlib.closing(self._wanted()) as wanted, contextlib.closing(iter(walk)) as tree:
            following = next(wanted, None)
            for found in tree:
                while following is not None and following.path < found.path:
                    self._missing(following)
                    following = next(wanted, None)
                if following is not None and following.path == found.path:
                    self._match(following, found, walk)
                    following = next(wanted, None)
                else:
                    self._extra(found, walk)
            while following is not None:
                self._missing(following)
                following = next(wanted, None)

    def _match(self, wanted: Wanted, found: Found, walk: Walk) -> None:
        self._directories.done_before(wanted.path)
        is_directory = wanted.type is EntryType.DIRECTORY
        if is_directory:
            self._directories.push(wanted.path, wanted.mtime_ns)
        try:
            type_ = type_of(found.stat)
        except Swapped:
            type_ = None
        if is_directory != (type_ is EntryType.DIRECTORY):
            self._remove(found, walk)
        elif self._compare and not self._alike(wanted, type_, found):
            self._tally.change(wanted.path)

    def _alike(self, wanted: Wanted, type_: EntryType | None, found: Found) -> bool:
        if type_ is not wanted.type:
            return False
        if type_ is EntryType.DIRECTORY:
            return True  # what was put into it is found by itself
        if type_ is EntryType.FILE and found.stat.st_size != wanted.size:
            return False
        return self._tally.times_lost or found.stat.st_mtime_ns == wanted.mtime_ns

    def _missing(self, wanted: Wanted) -> None:
        self._directories.done_before(wanted.path)
        if self._compare:
            self._tally.change(wanted.path)

    def _extra(self, found: Found, walk: Walk) -> None:
        if found.path:  # the root itself always stays
            self._directories.done_before(found.path)
            self._remove(found, walk)

    def _remove(self, found: Found, walk: Walk) -> None:
        walk.skip()
        removed_before = self._remover.removed
        try:
            with self._writable(found.parent_fd):
                gone = self._remover.remove(found.parent_fd, found.name, path=found.path)
        except OSError as error:
            raise copy_failed(found.path, error) from error
        self._tally.deleted += self._remover.removed - removed_before
        if self._is_final:
            self._tally.change(found.path)
            self._put_time_right(found)
        elif not gone:
            # A mount, or a file that an NFS client has open, is below it.
            self._tally.warnings += 1
        self._tally.report()

    @contextlib.contextmanager
    def _writable(self, fd: int) -> Iterator[None]:
        """Let an ordinary user remove entries from a directory of its own, whatever its mode is.
        A kill in between leaves it changed; the restore gives it its final mode in any case."""
        info = None if self._is_root else self._files.fstat(fd)
        if info is None or info.st_mode & stat.S_IWUSR or info.st_uid != os.geteuid():
            yield
            return
        mode = stat.S_IMODE(info.st_mode)
        self._files.chmod(fd, mode | stat.S_IWUSR)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # an error of the removal must not be hidden
                self._files.chmod(fd, mode)

    def _put_time_right(self, found: Found) -> None:
        mtime_ns = self._directories.parent_of(found.path)
        if mtime_ns is None:
            return
        try:
            with contextlib.suppress(PermissionError, OverflowError):
                self._files.utime(found.parent_fd, mtime_ns)
        except OSError as error:
            raise copy_failed(found.path, error) from error
