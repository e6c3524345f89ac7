# SPDX-License-Identifier: Apache-2.0
"""Remove a tree of any depth with three open fds.

The way back up leads through ``..``, checked against what was recorded on the way down; if a
directory was moved away meanwhile, the removal starts over from the top, where it no longer finds
what was moved.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable

from manila_backup.data.copy.dirstack import Identity, OtherMount, identity_of
from manila_backup.data.copy.errors import copy_failed
from manila_backup.data.copy.sysio import OPEN_DIRECTORY, OPEN_PATH, SYSTEM, Files, Kind, itself
from manila_backup.data.copy.walk import is_ignored
from manila_backup.exception import Cancelled

_BATCH = 10_000
"""Subdirectories of one directory remembered at a time."""

_TRIES = 10
"""How often a directory that somebody else goes on filling, or moves, is tried again."""

_NOT_A_DIRECTORY = frozenset({errno.ENOTDIR, errno.ELOOP})
_NOT_EMPTY = frozenset({errno.ENOTEMPTY, errno.EEXIST})


def remove_tree(
    parent_fd: int, name: bytes, *, cancelled: Callable[[], bool], files: Files = SYSTEM
) -> int:
    """Remove ``name`` in the directory ``parent_fd``, whatever it is, with all that is below it.

    Idempotent: what is not there is removed; entries that vanish meanwhile are fine. Mounts are
    not entered. Interrupted, it can be called again. Answers how many entries it removed.
    :raises CopyFailed: something could not be removed (a mount: EBUSY); names the path.
    :raises Cancelled:
    """
    remover = Remover(files=files, cancelled=cancelled)
    remover.remove(parent_fd, name, path=name)
    return remover.removed


class _Moved(Exception):
    """The way back up is not what the way down was."""


class _Level:
    """A directory being emptied. ``todo``: subdirectories found and not entered yet. ``kept``:
    names that stay. ``tries`` left for what others put into it."""

    __slots__ = ("identity", "kept", "name", "todo", "tries")

    def __init__(self, name: bytes, identity: Identity) -> None:
        self.name = name
        self.identity = identity
        self.todo: list[bytes] = []
        self.kept: set[bytes] = set()
        self.tries = _TRIES


class Remover:
    """Removes trees, one after another; ``removed`` counts entries over all of them.

    With ``keep`` it leaves alone what belongs to the file server (``.nfs*``), mounts, and what
    somebody else goes on creating, with the directories they are in, instead of failing.
    """

    def __init__(self, *, files: Files, cancelled: Callable[[], bool], keep: bool = False) -> None:
        self._files = files
        self._cancelled = cancelled
        self._keep = keep
        self._is_root = os.geteuid() == 0
        self._levels: list[_Level] = []
        self._fd = -1  # of the last level
        self._mount = -1
        self.removed = 0

    def remove(self, parent_fd: int, name: bytes, *, path: bytes) -> bool:
        """Answers whether it is gone: always, unless ``keep`` kept something.

        :raises CopyFailed: calls what it is about by ``path``.
        """
        try:
            return self._try_unlink(name, parent_fd) or self._remove_directory(parent_fd, name)
        except OSError as error:
            if self._may_stay(error) and not self._levels:
                return False
            where = b"/".join([path, *(level.name for level in self._levels[1:])])
            raise copy_failed(where, error) from error
        finally:
            self._reset()

    def _remove_directory(self, parent_fd: int, name: bytes) -> bool:
        self._mount = self._files.mount_id(parent_fd)
        for _ in range(_TRIES):
            try:
                return self._empty_and_remove(parent_fd, name)
            except _Moved:
                self._reset()
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def _empty_and_remove(self, parent_fd: int, name: bytes) -> bool:
        top = _Level(b"", (0, 0))  # stands for the parent
        self._enter(top, name, parent_fd)
        while self._levels:
            level = self._levels[-1]
            if not level.todo:
                self._list(level)
            if level.todo:
                self._enter(level, level.todo.pop(), self._fd)
            else:
                self._leave(level, top, parent_fd)
        return not top.kept

    def _list(self, level: _Level) -> None:
        """Unlink what is not a directory, remember a batch of what is."""
        for name, kind in self._files.names(self._fd):
            self._check_cancelled()
            if name in level.kept:
                continue
            if self._keep and is_ignored(name, is_root=False):
                level.kept.add(name)
            elif kind is Kind.DIRECTORY or not self._try_unlink_in(level, name):
                level.todo.append(name)
                if len(level.todo) >= _BATCH:
                    return

    def _try_unlink_in(self, level: _Level, name: bytes) -> bool:
        try:
            return self._try_unlink(name, self._fd)
        except OSError as error:
            if not self._may_stay(error):
                raise
            level.kept.add(name)
            return True

    def _may_stay(self, error: OSError) -> bool:
        """A file that something is mounted on."""
        return self._keep and error.errno == errno.EBUSY

    # --- down -------------------------------------------------------------------------------------

    def _enter(self, level: _Level, name: bytes, dir_fd: int) -> None:
        self._check_cancelled()
        try:
            fd = self._open(name, dir_fd)
        except OtherMount:
            if not self._keep:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY)) from None
            level.kept.add(name)
            return
        if fd is None:
            return
        if self._fd >= 0:
            self._files.close(self._fd)
        self._fd = fd
        self._levels.append(_Level(name, identity_of(self._files.fstat(fd))))

    def _open(self, name: bytes, dir_fd: int) -> int | None:
        """None: it is gone, or was no directory any more and was unlinked."""
        try:
            if not self._is_root:
                self._open_up(name, dir_fd)
            fd = self._files.open(name, OPEN_DIRECTORY, dir_fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _NOT_A_DIRECTORY and self._try_unlink(name, dir_fd):
                return None
            raise
        try:
            if self._files.mount_id(fd) != self._mount:
                raise OtherMount
        except BaseException:
            self._files.close(fd)
            raise
        return fd

    def _open_up(self, name: bytes, dir_fd: int) -> None:
        """An ordinary user may not be allowed to empty a directory of its own as it is."""
        path_fd = self._files.open(name, OPEN_PATH, dir_fd)
        try:
            info = self._files.fstat(path_fd)
            mode = stat.S_IMODE(info.st_mode)
            if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and mode & 0o700 != 0o700:
                self._files.chmod(itself(path_fd), mode | 0o700)
        finally:
            self._files.close(path_fd)

    # --- up ---------------------------------------------------------------------------------------

    def _leave(self, level: _Level, top: _Level, top_fd: int) -> None:
        """Go up and remove the directory that is empty now, if nothing came into it meanwhile."""
        if len(self._levels) == 1:
            above, parent_fd = top, top_fd
        else:
            above = self._levels[-2]
            parent_fd = self._open_parent(above)
        try:
            gone = not level.kept and self._try_rmdir(level, parent_fd)
        except BaseException:
            self._close_above(parent_fd, top_fd)
            raise
        if not gone and not level.kept:
            self._close_above(parent_fd, top_fd)
            return
        if level.kept:
            above.kept.add(level.name)
        self._levels.pop()
        self._files.close(self._fd)
        self._fd = -1 if parent_fd == top_fd else parent_fd

    def _close_above(self, parent_fd: int, top_fd: int) -> None:
        if parent_fd != top_fd:
            self._files.close(parent_fd)

    def _open_parent(self, above: _Level) -> int:
        try:
            fd = self._files.open(b"..", OPEN_DIRECTORY, self._fd)
        except FileNotFoundError:
            raise _Moved from None
        if identity_of(self._files.fstat(fd)) != above.identity:
            self._files.close(fd)
            raise _Moved
        return fd

    def _try_rmdir(self, level: _Level, parent_fd: int) -> bool:
        """False: it is not empty, look into it again."""
        try:
            self._files.rmdir(level.name, parent_fd)
            self.removed += 1
        except FileNotFoundError:
            pass
        except NotADirectoryError:
            return self._try_unlink(level.name, parent_fd)
        except OSError as error:
            if error.errno not in _NOT_EMPTY:
                raise
            self._check_same(level, parent_fd)
            level.tries -= 1
            if level.tries:
                return False
            if not self._keep:
                raise
            level.kept.add(b"")
            return False
        return True

    def _check_same(self, level: _Level, parent_fd: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            if identity_of(self._files.lstat(level.name, parent_fd)) == level.identity:
                return
        raise _Moved

    # --- either way -------------------------------------------------------------------------------

    def _try_unlink(self, name: bytes, dir_fd: int) -> bool:
        """False: it is a directory."""
        try:
            self._files.unlink(name, dir_fd)
        except FileNotFoundError:
            return True
        except IsADirectoryError:
            return False
        except PermissionError:
            # As an ordinary user the answer for a directory may be this one.
            try:
                is_directory = stat.S_ISDIR(self._files.lstat(name, dir_fd).st_mode)
            except FileNotFoundError:
                return True
            if is_directory:
                return False
            raise
        self.removed += 1
        return True

    def _check_cancelled(self) -> None:
        if self._cancelled():
            raise Cancelled

    def _reset(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self._files.close(self._fd)
        self._fd = -1
        self._levels.clear()
