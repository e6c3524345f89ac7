# SPDX-License-Identifier: Apache-2.0
"""The files of a stored data tree, opened by the paths of the catalog."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from manila_backup.data.catalog.entry import Entry
from manila_backup.data.copy.dirstack import WINDOW, DirStack, NotTheDirectory, OtherMount
from manila_backup.data.copy.errors import ContentDamaged
from manila_backup.data.copy.source import OTHER_TYPE
from manila_backup.data.copy.sysio import OPEN_FILE, OPEN_PATH, Files
from manila_backup.data.copy.walk import GONE
from manila_backup.names import printable


class StoredFiles:
    """Nothing in the tree is trusted to be what the catalog says; nothing is followed."""

    def __init__(self, data_fd: int, files: Files, *, window: int = WINDOW) -> None:
        self._files = files
        self._dirs = DirStack(data_fd, files, window=window)

    def directory(self, path: bytes) -> int | None:
        """The fd of a directory, valid until the next call of any method; None: it cannot be
        entered, for whatever reason."""
        try:
            return self._dirs.enter(path)
        except (OSError, NotTheDirectory, OtherMount):
            return None

    @contextlib.contextmanager
    def opened(self, entry: Entry) -> Iterator[int]:
        """The regular file at the entry's path, of the entry's size, open for reading.

        :raises ContentDamaged: there is none.
        :raises OSError: it cannot be read.
        """
        fd = self._open(entry)
        try:
            info = self._files.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise damaged(entry, "it is not a regular file")
            if info.st_size != entry.size:
                raise damaged(entry, "it has another size")
            yield fd
        finally:
            with contextlib.suppress(OSError):  # nothing was written
                self._files.close(fd)

    def look(self, entry: Entry) -> os.stat_result | None:
        """What is at the entry's path; None if nothing is."""
        directory, _, name = entry.path.rpartition(b"/")
        try:
            return self._files.lstat(name or b".", self._dirs.enter(directory))
        except (NotTheDirectory, OtherMount):
            return None
        except OSError as error:
            if error.errno in GONE:
                return None
            raise

    def readlink(self, entry: Entry) -> bytes:
        """:raises OSError: there is none, or it is no symlink."""
        directory, _, name = entry.path.rpartition(b"/")
        fd = self._files.open(name, OPEN_PATH, self._dirs.enter(directory))
        try:
            return self._files.readlink(fd)
        finally:
            with contextlib.suppress(OSError):
                self._files.close(fd)

    def _open(self, entry: Entry) -> int:
        directory, _, name = entry.path.rpartition(b"/")
        try:
            return self._files.open_here(name, OPEN_FILE, self._dirs.enter(directory))
        except (NotTheDirectory, OtherMount) as error:
            raise damaged(entry, "its directory is missing") from error
        except OSError as error:
            if error.errno in GONE:
                raise damaged(entry, "it is missing") from error
            if error.errno in OTHER_TYPE:
                raise damaged(entry, "it is not a regular file") from error
            if error.errno == errno.EXDEV:
                raise damaged(entry, "another mount covers it") from error
            raise

    def close(self) -> None:
        self._dirs.close()


def damaged(entry: Entry, what: str) -> ContentDamaged:
    return ContentDamaged(path=printable(entry.path), what=what)
