# SPDX-License-Identifier: Apache-2.0
"""The fast path for small regular files: whole files in one go, many names per call, and as few
system calls for each as can be.

It does only what is plain. Whatever is not (any error, a link, a hole, a file that changes, an
attribute that cannot be had) is answered with None or False and leaves nothing behind; the careful
way does that file again and finds out what the matter is. No OSError is raised for it.

The calls for one file (in brackets: only if needed):

- reading: openat2, fstat, listxattr [getxattr each] read [lseek SEEK_HOLE], fstat, close;
- writing: openat, write [fchown] [setxattr each] [fchmod] [ACLs], utimensat, fstat, close;
  once per directory (:meth:`SmallFiles.habits`) fstat and getxattr; and for the first of files of
  one slice that are to have the same NFSv4 ACL, which says no more than their mode, a getxattr,
  which finds that new files have it.

There are twins, in C (``_native.c``: the GIL is released for a slice of names) and in Python
(``small_python.py``: through the seam, for tests and for machines without a compiler). They do the
same, except that Python cannot leave the atime alone and sets it to the mtime.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from manila_backup.data.copy.attributes import DEFAULT_ACL
from manila_backup.data.copy.sysio import SYSTEM, Files, is_native

SMALL_BYTES = 256 << 10
"""Larger files are not small."""

BATCH_BYTES = 4 << 20
"""A read ends early when it holds that much."""

XATTR_BYTES = 64 << 10
"""What one file's attributes may take to be plain: some file systems let them be gigabytes."""

SLICE = 16
"""Names between two looks at ``cancelled``."""

LIST_BYTES = 16 << 10
HEAD_BYTES = 9
"""How large a list of names the C twin can take, and what it keeps beside each name and value."""

NO_XATTRS = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})

Cancelled = Callable[[], bool]


class SmallFile(NamedTuple):
    """A consistent look at one file. ``mode`` has the permission bits (07777); ``xattrs`` is None
    if it has none, and includes ACLs."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    xattrs: dict[bytes, bytes] | None
    content: bytes


class NewFile(NamedTuple):
    """A file to be made. ``mode`` and the rest are what the target shall have in the end."""

    name: bytes
    content: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: Mapping[bytes, bytes] | None


class Wish(NamedTuple):
    """How files are copied. Of the mode's bits (07777) the target has those in ``mask``; a file
    that lacks one of ``need`` is not taken. ``replace``: what is at a name is unlinked before.
    ``keep``: answer contents and attributes, too."""

    mask: int
    need: int
    replace: bool
    keep: bool


class Habits(NamedTuple):
    """Whose a new file in a directory will probably be, and whether it will inherit an ACL, which
    is to be removed."""

    uid: int
    gid: int
    strips_acl: bool


class SmallFiles:
    """Reads and writes small files of one directory at a time; good for many threads at once."""

    is_native: bool

    def __init__(self, files: Files = SYSTEM, *, native: bool | None = None) -> None:
        """``native`` None: the C twin if it was built, ``files`` is the real thing, and the
        environment does not say ``MANILA_BACKUP_NATIVE=0``.

        :raises RuntimeError: ``native`` is True and cannot be.
        """
        if native and files is not SYSTEM:
            raise RuntimeError("native calls do not go through a seam")
        if native is None:
            native = files is SYSTEM and is_native()
            slices = _native_slices() if native else None
        elif native:
            slices = _native_slices()
            if slices is None:
                raise RuntimeError("manila_backup.data.copy._native is not built or cannot run")
        else:
            slices = None
        self._files = files
        self._slices = slices or _python_slices(files)
        self.is_native = slices is not None

    def read(
        self, dir_fd: int, names: Sequence[bytes], cancelled: Cancelled
    ) -> list[SmallFile | None]:
        """One answer per name, in order; fewer if :data:`BATCH_BYTES` were read, or if cancelled.
        At least one answer, unless there are no names or it was cancelled.

        None: it has to be looked at the careful way, for it is no regular file, has other links,
        more than :data:`SMALL_BYTES`, a hole, too many attributes or one that cannot be read, a
        time beyond the catalog's; it is on another mount than the directory (a file can be one),
        changed meanwhile, or anything failed.
        """
        found: list[SmallFile | None] = []
        budget = BATCH_BYTES
        for start in range(0, len(names), SLICE):
            if cancelled():
                break
            part = names[start : start + SLICE]
            taken = self._slices.read(dir_fd, part, budget)
            found += taken
            budget -= sum(weight(file) for file in taken if file is not None)
            if budget <= 0 or len(taken) < len(part):
                break
        return found

    def write(self, dir_fd: int, items: Sequence[NewFile], cancelled: Cancelled) -> list[bool]:
        """One answer per item, in order; if cancelled, the rest was not begun.

        True: the file was not there before, and is now exactly as asked. False: it is not there,
        or what is there is not ours; nothing but its name may be wrong with it.
        """
        try:
            habits = self.habits(dir_fd)
        except OSError:
            return [False] * len(items)
        done: list[bool] = []
        for start in range(0, len(items), SLICE):
            if cancelled():
                break
            part = items[start : start + SLICE]
            done += self._slices.write(dir_fd, part, habits)
        return done

    def copy(
        self,
        fds: tuple[int, int],
        names: Sequence[bytes],
        wish: Wish,
        habits: Habits,
        cancelled: Cancelled,
    ) -> tuple[list[SmallFile | None], int]:
        """:meth:`read` from the first directory and :meth:`write` to the second, whose habits these
        are, in one.

        Answers what was read of each file that is copied now, in order of the names, fewer as with
        :meth:`read`; and how many were read but not written. Unless they are kept, contents are
        answered as empty and attributes as None, and do not count for :data:`BATCH_BYTES`. Ends
        early, too, when it took long, which the C twin looks at after each file.
        """
        found: list[SmallFile | None] = []
        unwritten = 0
        budget = BATCH_BYTES
        for start in range(0, len(names), SLICE):
            if cancelled():
                break
            part = names[start : start + SLICE]
            taken, missed = self._slices.copy(fds, part, budget, wish, habits)
            found += taken
            unwritten += missed
            if wish.keep:
                budget -= sum(weight(file) for file in taken if file is not None)
            if budget <= 0 or len(taken) < len(part):
                break
        return found, unwritten

    def habits(self, dir_fd: int) -> Habits:
        """:raises OSError:"""
        info = self._files.fstat(dir_fd)
        gid = info.st_gid if info.st_mode & stat.S_ISGID else os.getegid()
        try:
            self._files.getxattr(dir_fd, DEFAULT_ACL)
        except OSError as error:
            if error.errno != errno.ENODATA and error.errno not in NO_XATTRS:
                raise
            return Habits(os.geteuid(), gid, strips_acl=False)
        return Habits(os.geteuid(), gid, strips_acl=True)


def weight(file: SmallFile) -> int:
    """What it counts of a batch's bytes."""
    xattrs = file.xattrs
    if xattrs is None:
        return file.size
    return file.size + sum(HEAD_BYTES + len(name) + len(xattrs[name]) for name in xattrs)


class _Slices(Protocol):
    """At most SLICE names or items at once."""

    def read(self, dir_fd: int, names: Sequence[bytes], budget: int) -> list[SmallFile | None]: ...

    def write(self, dir_fd: int, items: Sequence[NewFile], habits: Habits) -> list[bool]: ...

    def copy(
        self,
        fds: tuple[int, int],
        names: Sequence[bytes],
        budget: int,
        wish: Wish,
        habits: Habits,
    ) -> tuple[list[SmallFile | None], int]: ...


class _NativeSlices:
    def __init__(self) -> None:
        """:raises ImportError: it is not built, or with other limits, or this kernel cannot."""
        from manila_backup.data.copy import _native

        limits = (_native.SLICE, _native.SMALL_BYTES, _native.XATTR_BYTES)
        if limits != (SLICE, SMALL_BYTES, XATTR_BYTES):
            raise ImportError("_native was built from another version's source")
        self._read = _native.read
        self._write = _native.write
        self._copy = _native.copy

    def read(self, dir_fd: int, names: Sequence[bytes], budget: int) -> list[SmallFile | None]:
        return self._read(SmallFile, dir_fd, list(names), budget)

    def write(self, dir_fd: int, items: Sequence[NewFile], habits: Habits) -> list[bool]:
        return self._write(dir_fd, list(items), habits)

    def copy(
        self,
        fds: tuple[int, int],
        names: Sequence[bytes],
        budget: int,
        wish: Wish,
        habits: Habits,
    ) -> tuple[list[SmallFile | None], int]:
        return self._copy(SmallFile, fds, list(names), budget, wish, habits)


def _native_slices() -> _Slices | None:
    try:
        return _NativeSlices()
    except ImportError:
        return None


def _python_slices(files: Files) -> _Slices:
    from manila_backup.data.copy.small_python import PythonSlices  # it needs what is above

    return PythonSlices(files)
