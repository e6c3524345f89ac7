# SPDX-License-Identifier: Apache-2.0
"""Files of the local share store: durable documents, locks that die with their holder, removal.

The store's own directories are writable by the service only, so names in them may be trusted. What
lies in a share's tree may not: it is hostile, and may still be changing while it is removed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEW_SUFFIX = ".new"
"""A document being written; found after a kill, it is worth nothing."""

REMOVING = ".removing"
"""Directory (0700) into which a tree is taken apart while it is removed."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_STUBBORN_PASSES = 16

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syncfs.argtypes = [ctypes.c_int]


def write_document(path: Path, content: bytes) -> None:
    """Replace ``path`` atomically and durably. One writer at a time: the caller holds the lock."""
    temporary = path.with_name(path.name + NEW_SUFFIX)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o600), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(temporary, path)
    sync_directory(path.parent)


def read_document(path: Path) -> bytes:
    """:raises FileNotFoundError:"""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as stream:
        return stream.read()


def sync_directory(path: Path) -> None:
    fd = os.open(path, _DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file_system(fd: int) -> None:
    """Make all that was written to the file system of ``fd`` since it was opened durable."""
    if _libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class WorkLock:
    """Says that somebody alive works in a directory. The kernel drops it with its holder.

    Unlike the store's lock it is held for as long as the work takes, and nobody waits for it.
    """

    def __init__(self, directory: Path) -> None:
        """:raises FileNotFoundError:
        :raises BlockingIOError: somebody else, in this process or another, works there.
        """
        self._fd = os.open(directory, _DIRECTORY)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(self._fd)
            raise

    def release(self) -> None:
        """Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


@contextmanager
def work_lock(directory: Path) -> Iterator[bool]:
    """Hold the directory's :class:`WorkLock`; False if it is held elsewhere or not there."""
    try:
        lock = WorkLock(directory)
    except (BlockingIOError, FileNotFoundError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def remove_tree(parent: Path, name: str) -> None:
    """Remove the tree ``parent/name``, whatever is in it. Idempotent, also after a kill.

    The tree is taken apart in ``parent/.removing``, a directory that tenants cannot enter: each
    directory's subdirectories are moved up into it before the directory itself goes. So neither
    recursion nor open files grow with the depth, no name is looked up through a directory that
    somebody else may swap for a link, and mounts in the tree (EBUSY) stop the removal. The copy
    engine's removal works in place, as it must in a share that lives on; here the share ends, so
    its users are shut out first and cannot fill it again.
    :raises OSError: something could not be removed; what is left is found by the next call.
    """
    parent_fd = os.open(parent, _DIRECTORY)
    try:
        with suppress(FileExistsError):
            os.mkdir(REMOVING, 0o700, dir_fd=parent_fd)
        bin_fd = os.open(REMOVING, _DIRECTORY, dir_fd=parent_fd)
        try:
            _move_into(bin_fd, parent_fd, name)
            _empty(bin_fd)
        finally:
            os.close(bin_fd)
        os.rmdir(REMOVING, dir_fd=parent_fd)
    finally:
        os.close(parent_fd)


def _empty(bin_fd: int) -> None:
    while names := os.listdir(bin_fd):
        for name in names:
            _take_apart(bin_fd, name)


def _take_apart(bin_fd: int, name: str) -> None:
    """Remove ``name`` of the bin, its subdirectories moved up into the bin."""
    try:
        fd = _open_directory(bin_fd, name)
    except OSError as exc:
        if exc.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        os.unlink(name, dir_fd=bin_fd)
        return
    try:
        # Whoever still sits in the directory (an open descriptor, a working directory) cannot add
        # to it any more. Only root may take it from its owner.
        with suppress(PermissionError):
            os.fchown(fd, os.geteuid(), os.getegid())
        with suppress(PermissionError):
            os.fchmod(fd, 0o700)
        for _ in range(_STUBBORN_PASSES):
            _clear(bin_fd, fd)
            try:
                os.rmdir(name, dir_fd=bin_fd)
            except OSError as exc:
                if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                return
        raise OSError(errno.ENOTEMPTY, "the directory does not become empty")
    finally:
        os.close(fd)


def _clear(bin_fd: int, fd: int) -> None:
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _move_into(bin_fd, fd, entry.name)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(entry.name, dir_fd=fd)


def _move_into(bin_fd: int, fd: int, name: str) -> None:
    fresh = uuid.uuid4().hex
    try:
        os.rename(name, fresh, src_dir_fd=fd, dst_dir_fd=bin_fd)
    except FileNotFoundError:
        pass
    except PermissionError:
        # Moving a directory changes its "..", which an ordinary user needs write permission for.
        _make_accessible(fd, name)
        os.rename(name, fresh, src_dir_fd=fd, dst_dir_fd=bin_fd)


def _open_directory(dir_fd: int, name: str) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=dir_fd)
    except PermissionError:
        _make_accessible(dir_fd, name)
        return os.open(name, _DIRECTORY, dir_fd=dir_fd)


def _make_accessible(dir_fd: int, name: str) -> None:
    """chmod 0700 of a directory that may be swapped for a link at any time: by its inode."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)
