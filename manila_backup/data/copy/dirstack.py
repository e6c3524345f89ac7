# SPDX-License-Identifier: Apache-2.0
"""From one directory of a tree to another, with a bounded number of open fds.

Directories are opened relative to an fd above them, one component at a time with O_NOFOLLOW, or
several with openat2, which follows no symlink on the way; so neither PATH_MAX nor a symlink that a
tenant puts in the way matters. Of a deep path only the
lowest directories stay open; higher ones are opened again through ``..`` when the way leads back,
and are used only if they are the same inode as before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from enum import Enum

from manila_backup.data.copy.sysio import OPEN_DIRECTORY, OPEN_PATH, Files, itself

WINDOW = 64
"""Directories kept open per stack."""

Identity = tuple[int, int]
"""(st_dev, st_ino)"""


class NotTheDirectory(Exception):
    """What is at the path is not the directory that was there before: somebody moved it."""


class OtherMount(Exception):
    """Another file system or bind mount is mounted there; it is not entered."""


def identity_of(info: os.stat_result) -> Identity:
    return info.st_dev, info.st_ino


class Lock(Enum):
    """What to do as an ordinary user with a directory of one's own that is closed to its owner."""

    RESPECT = "respect"
    """Fail with EACCES."""

    PUT_BACK = "put back"
    """Change its mode and put it back on leaving. A kill in between leaves it changed."""

    OPEN = "open"
    """Change its mode: it is going to get another one in any case."""


_SLASH = ord("/")


class _Level:
    """``end`` is the length of its path; ``lock`` is an O_PATH fd and the mode to put back, if
    there is one to put back.
    """

    __slots__ = ("end", "fd", "identity", "lock")

    def __init__(self, end: int, fd: int, identity: Identity) -> None:
        self.end = end
        self.fd = fd
        self.identity = identity
        self.lock: tuple[int, int] | None = None


class DirStack:
    """The way from the root to the current directory. The root's fd is the caller's.

    Memory per level does not depend on how long its path is: the levels' paths are all beginnings
    of one.
    """

    def __init__(
        self,
        root_fd: int,
        files: Files,
        *,
        lock: Lock = Lock.RESPECT,
        window: int = WINDOW,
    ) -> None:
        self._files = files
        self._lock = lock if os.geteuid() else Lock.RESPECT
        self._window = window
        self._mount = files.mount_id(root_fd)
        self._levels = [_Level(0, root_fd, identity_of(files.fstat(root_fd)))]
        self._path = b""  # the path of each level is its beginning; maybe longer than the last one
        self._lowest = 1  # the lowest level whose fd may be open, besides the root

    def enter(self, path: bytes, expected: Identity | None = None) -> int:
        """The fd of the directory at ``path``, valid until the next call. Cheap if it is near the
        one before.

        :raises NotTheDirectory: it is not ``expected``, or a directory on the way has been moved.
        :raises OtherMount: another mount begins there or on the way.
        :raises OSError: ENOENT, ENOTDIR, ELOOP if it is not, or not any more, there.
        """
        levels = self._levels
        last = levels[-1]
        if last.end != len(path) or path != self._path:
            self._leave_for(path)
            self._path = path
            self._reopen()
            start = levels[-1].end
            if start < len(path):
                self._down(path[start + 1 if start else 0 :])
        elif last.fd < 0:
            self._reopen()
        last = levels[-1]
        if expected is not None and last.identity is not expected:
            if last.identity != expected:
                raise NotTheDirectory
            last.identity = expected  # the caller's serves both
        return last.fd

    def close(self) -> None:
        while len(self._levels) > 1:
            self._close(level := self._levels.pop())
            self._put_back(level)

    # --- the way down -----------------------------------------------------------------------------

    def _down(self, names: bytes) -> None:
        """To a directory one or more levels further down. Those on the way need not be opened: as
        root nothing has to be put back there, and whoever goes on beside them comes from above.
        """
        if b"/" not in names:
            self._step(names)
        elif self._lock is not Lock.RESPECT or not self._jump(names):
            for name in names.split(b"/"):
                self._step(name)

    def _jump(self, names: bytes) -> bool:
        """False: one step after the other tells what the matter is."""
        here = self._levels[-1]
        fd = self._files.open_beneath(names, OPEN_DIRECTORY, here.fd)
        if fd >= 0:
            self._append(_Level(self._end_of(names), fd, self._looked_at(fd)))
        return fd >= 0

    def _step(self, name: bytes) -> None:
        here = self._levels[-1]
        level = _Level(self._end_of(name), -1, (0, 0))
        try:
            level.fd = self._open(name, here.fd, level)
            level.identity = self._looked_at(level.fd)
        except BaseException:
            self._put_back(level)
            raise
        self._append(level)

    def _end_of(self, names: bytes) -> int:
        here = self._levels[-1]
        return here.end + 1 + len(names) if here.end else len(names)

    def _append(self, level: _Level) -> None:
        self._levels.append(level)
        if len(self._levels) - self._lowest > self._window:
            self._close(self._levels[self._lowest])
            self._lowest += 1

    def _open(self, name: bytes, dir_fd: int, level: _Level) -> int:
        try:
            fd = self._files.open_here(name, OPEN_DIRECTORY, dir_fd)
        except PermissionError:
            if self._lock is Lock.RESPECT:
                raise
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise OtherMount from error
            raise
        else:
            # One's own directory may be readable and yet nothing in it can be reached.
            if self._lock is Lock.RESPECT or self._files.fstat(fd).st_mode & stat.S_IXUSR:
                return fd
            self._drop(fd)
        path_fd = self._files.open(name, OPEN_PATH | os.O_DIRECTORY, dir_fd)
        try:
            info = self._files.fstat(path_fd)
            if info.st_uid != os.geteuid():
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            mode = stat.S_IMODE(info.st_mode)
            self._files.chmod(itself(path_fd), mode | 0o700)
            if self._lock is Lock.PUT_BACK:
                level.lock = (path_fd, mode)
            # Through the same inode, whatever the name means by now.
            fd = self._files.open(b".", OPEN_DIRECTORY, path_fd)
            self._check_mount(fd)
            return fd
        finally:
            if level.lock is None:
                self._drop(path_fd)

    def _put_back(self, level: _Level) -> None:
        if level.lock is not None:
            path_fd, mode = level.lock
            level.lock = None
            with contextlib.suppress(OSError):  # it may have been removed meanwhile
                self._files.chmod(itself(path_fd), mode)
            self._drop(path_fd)

    def _looked_at(self, fd: int) -> Identity:
        """Closes it if that fails."""
        try:
            return identity_of(self._files.fstat(fd))
        except BaseException:
            self._drop(fd)
            raise

    def _check_mount(self, fd: int) -> None:
        """Closes it if it is on another one."""
        try:
            # Not by st_dev: it is that of the file system for bind mounts, and another one for
            # subvolumes, which are no mounts.
            if self._files.mount_id(fd) != self._mount:
                raise OtherMount
        except BaseException:
            self._drop(fd)
            raise

    # --- the way up -------------------------------------------------------------------------------

    def _leave_for(self, path: bytes) -> None:
        levels = self._levels
        while len(levels) > 1:
            if self._leads_to(levels[-1].end, path):
                return
            left = levels.pop()
            if levels[-1].fd < 0 and left.fd >= 0:
                self._open_parent(left.fd, levels[-1])
            self._close(left)
            self._put_back(left)
        # Reopened levels lie below ``_lowest``: it must point at the lowest one that is open.
        self._lowest = min(self._lowest, len(levels))

    def _leads_to(self, end: int, path: bytes) -> bool:
        """Whether ``path`` is, or lies below, the level whose path has this length. Cost: as long
        as what the two have in common."""
        if not path.startswith(memoryview(self._path)[:end]):
            return False
        return len(path) == end or path[end] == _SLASH

    def _open_parent(self, fd: int, parent: _Level) -> None:
        """Leaves ``parent`` closed if ``..`` is another directory by now."""
        with contextlib.suppress(OSError, OtherMount):
            up = self._files.open(b"..", OPEN_DIRECTORY, fd)
            self._check_mount(up)
            if self._looked_at(up) == parent.identity:
                parent.fd = up
                self._lowest = min(self._lowest, len(self._levels) - 1)
            else:
                self._drop(up)

    def _reopen(self) -> None:
        """Make sure that the last level is open, from the nearest open one above it."""
        levels = self._levels
        if levels[-1].fd >= 0:
            return
        closed: list[_Level] = []
        while levels[-1].fd < 0:
            closed.append(level := levels.pop())
            self._put_back(level)
        self._lowest = min(self._lowest, len(levels))
        for level in reversed(closed):
            start = levels[-1].end
            self._down(self._path[start + 1 if start else 0 : level.end])
            if levels[-1].identity != level.identity:
                raise NotTheDirectory

    def _close(self, level: _Level) -> None:
        if level.fd >= 0:
            self._drop(level.fd)
            level.fd = -1

    def _drop(self, fd: int) -> None:
        with contextlib.suppress(OSError):  # nothing was written through a directory's fd
            self._files.close(fd)
