# SPDX-License-Identifier: Apache-2.0
"""Looking at entries of a tree that may change at any moment, and opening them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from manila_backup.data.catalog.entry import EntryType
from manila_backup.data.copy.attributes import Xattrs, read_xattrs
from manila_backup.data.copy.dirstack import OtherMount
from manila_backup.data.copy.sysio import OPEN_DIRECTORY, OPEN_FILE, OPEN_PATH, Files, itself

OTHER_TYPE = frozenset({errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.EISDIR})
"""How opening fails when the name has come to mean something of another type."""


class Swapped(Exception):
    """The name no longer means an entry of the type that was seen."""


@dataclass(frozen=True, slots=True)
class OpenEntry:
    """``is_path``: the fd is an O_PATH one, good for attributes only."""

    fd: int
    stat: os.stat_result
    xattrs: Xattrs
    is_path: bool


def type_of(info: os.stat_result) -> EntryType:
    """:raises Swapped: a type that nothing on Linux has."""
    try:
        return EntryType.of_mode(info.st_mode)
    except KeyError:
        raise Swapped from None


class SourceFiles:
    """Opens entries by parent fd and name; never follows a link, never opens a special file."""

    def __init__(self, files: Files, *, is_root: bool) -> None:
        self._files = files
        self._is_root = is_root

    @contextlib.contextmanager
    def opened(self, name: bytes, dir_fd: int, type_: EntryType) -> Iterator[OpenEntry]:
        """The entry with its attributes, for the time of the block.

        :raises Swapped: it is of another type by now.
        :raises OtherMount: another mount covers the name.
        :raises OSError: ENOENT if it has vanished.
        """
        fd, xattrs = self._open(name, dir_fd, type_)
        is_path = type_ not in (EntryType.FILE, EntryType.DIRECTORY)
        try:
            info = self._files.fstat(fd)
            if type_of(info) is not type_:
                raise Swapped
            if xattrs is None:
                xattrs = read_xattrs(self._files, itself(fd) if is_path else fd)
            yield OpenEntry(fd, info, xattrs, is_path)
        finally:
            with contextlib.suppress(OSError):  # nothing was written
                self._files.close(fd)

    def again(self, opened: OpenEntry) -> OpenEntry:
        """Look at the same inode once more."""
        info = self._files.fstat(opened.fd)
        return OpenEntry(opened.fd, info, self._reread(opened), opened.is_path)

    def _reread(self, opened: OpenEntry) -> Xattrs:
        try:
            return read_xattrs(self._files, opened.fd)
        except PermissionError:  # readable only while its mode was changed for us
            return opened.xattrs

    def _open(self, name: bytes, dir_fd: int, type_: EntryType) -> tuple[int, Xattrs | None]:
        flags = {EntryType.FILE: OPEN_FILE, EntryType.DIRECTORY: OPEN_DIRECTORY}
        try:
            return self._files.open_here(name, flags.get(type_, OPEN_PATH), dir_fd), None
        except PermissionError as error:
            if type_of(self._files.lstat(name, dir_fd)) is not type_:
                raise Swapped from error  # to open a device on a mount without devices, say
            if self._is_root:
                raise
            return self._open_own(name, dir_fd, type_)
        except OSError as error:
            if error.errno in OTHER_TYPE:
                raise Swapped from error
            if error.errno == errno.EXDEV:
                raise OtherMount from error
            raise

    def _open_own(self, name: bytes, dir_fd: int, type_: EntryType) -> tuple[int, Xattrs]:
        """A file or directory of our own without read permission: give it for the moment of
        opening. A kill in this moment leaves the owner's read bit set.
        """
        path_fd = self._files.open(name, OPEN_PATH, dir_fd)  # refused if the parent is the matter
        try:
            info = self._files.fstat(path_fd)
            if type_of(info) is not type_:
                raise Swapped
            if info.st_uid != os.geteuid():
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return self._open_with_mode(path_fd, stat.S_IMODE(info.st_mode))
        finally:
            with contextlib.suppress(OSError):
                self._files.close(path_fd)

    def _open_with_mode(self, path_fd: int, mode: int) -> tuple[int, Xattrs]:
        place = itself(path_fd)
        self._files.chmod(place, mode | stat.S_IRUSR)
        try:
            # Through the magic link it is this inode, whatever the name means by now.
            flags = OPEN_FILE & ~os.O_NOFOLLOW
            fd = self._files.open(place, flags, path_fd)
            try:
                return fd, read_xattrs(self._files, fd)
            except BaseException:
                self._files.close(fd)
                raise
        finally:
            self._files.chmod(place, mode)
