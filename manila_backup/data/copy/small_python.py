# SPDX-License-Identifier: Apache-2.0
"""The twin of ``_native.c`` in Python, through the seam; :mod:`.small` has the contract.

What is changed here is changed there. It is written for speed: no context managers, no values built
in between, and checks for a whole slice at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from manila_backup.data.catalog.codec import TIME_MAX_NS, TIME_MIN_NS
from manila_backup.data.copy.attributes import ACLS, NFS4_ACL, XFS_ACLS
from manila_backup.data.copy.nfs4_acl import is_trivial
from manila_backup.data.copy.small import (
    HEAD_BYTES,
    LIST_BYTES,
    NO_XATTRS,
    SMALL_BYTES,
    XATTR_BYTES,
    Habits,
    NewFile,
    SmallFile,
    Wish,
    weight,
)
from manila_backup.data.copy.sysio import CREATE_FILE, OPEN_FILE, Files

_ONE_BLOCK = 4096
_HOLE_BYTES = 512
"""No file system has smaller holes."""
_ZEROS = bytes(_HOLE_BYTES)
_ACCESS_ACL = b"system.posix_acl_access"
_OF_MODE_BYTES = 512
_NOT_NAMES = frozenset({b"", b".", b".."})
_REFUSED = (OSError, ValueError, OverflowError)
"""Also numbers that the system's types cannot take."""

_OWNER, _MODE, _TIME, _CONTENT = 1, 2, 4, 8


class PythonSlices:
    def __init__(self, files: Files) -> None:
        self._files = files
        self._spare: list[memoryview] = []
        """As many buffers as threads ever read at once."""

    def read(self, dir_fd: int, names: Sequence[bytes], budget: int) -> list[SmallFile | None]:
        files = self._files
        found: list[SmallFile | None] = []
        try:
            buffer = self._spare.pop()
        except IndexError:
            buffer = memoryview(bytearray(SMALL_BYTES + 1))
        bad = _not_names(names)
        for name in names:
            file = None if name in bad else _take(files, dir_fd, name, buffer)
            found.append(file)
            if file is not None:
                budget -= weight(file)
                if budget <= 0:
                    break
        self._spare.append(buffer)
        return found

    def write(self, dir_fd: int, items: Sequence[NewFile], habits: Habits) -> list[bool]:
        files, learned = self._files, _Learned(habits)
        bad = _not_names([item.name for item in items])
        return [item.name not in bad and _put(files, dir_fd, item, learned) for item in items]

    def copy(
        self,
        fds: tuple[int, int],
        names: Sequence[bytes],
        budget: int,
        wish: Wish,
        habits: Habits,
    ) -> tuple[list[SmallFile | None], int]:
        source_fd, target_fd = fds
        found = self.read(source_fd, names, budget)
        chosen = [
            index
            for index, file in enumerate(found)
            if file is not None and file.mode & wish.need == wish.need
        ]
        items = [_like(names[index], cast(SmallFile, found[index]), wish) for index in chosen]
        if wish.replace:
            for item in items:
                with contextlib.suppress(OSError):
                    self._files.unlink(item.name, target_fd)
        written = self.write(target_fd, items, habits)
        answers: list[SmallFile | None] = [None] * len(found)
        for index, ok in zip(chosen, written, strict=True):
            file = found[index]
            if ok and file is not None:
                answers[index] = file if wish.keep else file._replace(content=b"", xattrs=None)
        return answers, written.count(False)


def _like(name: bytes, file: SmallFile, wish: Wish) -> NewFile:
    mode, uid, gid, _, mtime_ns, _, _, xattrs, content = file
    return NewFile(name, content, mode & wish.mask, uid, gid, mtime_ns, xattrs)


def _not_names(names: Sequence[bytes]) -> frozenset[bytes]:
    """Those that are no single component of a path."""
    together = b"".join(names)
    if b"/" in together or b"\0" in together:
        return _NOT_NAMES | {name for name in names if b"/" in name or b"\0" in name}
    return _NOT_NAMES


# --- reading --------------------------------------------------------------------------------------


def _take(files: Files, dir_fd: int, name: bytes, buffer: memoryview) -> SmallFile | None:
    try:
        fd = files.open_here(name, OPEN_FILE, dir_fd)
    except OSError:
        return None
    try:
        return _take_opened(files, fd, buffer)
    except OSError:
        return None
    finally:
        try:  # noqa: SIM105 - a context manager costs as much as the call
            files.close(fd)
        except OSError:  # nothing was written
            pass


def _take_opened(files: Files, fd: int, buffer: memoryview) -> SmallFile | None:
    info = files.fstat(fd)
    mode, size = info.st_mode, info.st_size
    mtime_ns, ctime_ns = info.st_mtime_ns, info.st_ctime_ns
    if mode & 0o170000 != stat.S_IFREG or info.st_nlink != 1 or size > SMALL_BYTES:
        return None
    if not (TIME_MIN_NS <= mtime_ns <= TIME_MAX_NS and TIME_MIN_NS <= ctime_ns <= TIME_MAX_NS):
        return None
    has_blocks = info.st_blocks * 512 >= size
    if not has_blocks and files.seek(fd, 0, os.SEEK_HOLE) < size:
        return None
    xattrs = _read_xattrs(files, fd)
    # One byte more is asked for than there should be: the answer proves that the file ends there.
    if size and files.read(fd, buffer[: size + 1], 0) != size:
        return None
    content = bytes(buffer[:size])
    # A file of at most one page all of whose blocks are there needs no request to prove that it has
    # no hole; but blocks that attributes have taken count too.
    is_full = size <= _ONE_BLOCK and has_blocks and not xattrs
    has_hole = not is_full and _has_hole(files, fd, content)
    after = files.fstat(fd)
    same_times = after.st_ctime_ns == ctime_ns and after.st_mtime_ns == mtime_ns
    if has_hole or not same_times or after.st_size != size:
        return None
    # As SmallFile(...) does, less a call.
    return tuple.__new__(
        SmallFile,
        (
            mode & 0o7777,
            info.st_uid,
            info.st_gid,
            size,
            mtime_ns,
            ctime_ns,
            info.st_ino,
            xattrs,
            content,
        ),
    )


def _has_hole(files: Files, fd: int, content: bytes) -> bool:
    """Asks only if it can be, for a hole reads as zeros. Blocks that were never written are no hole
    any more while what was read of them is cached.

    :raises OSError:
    """
    if not _has_zeros(content):
        return False
    files.forget(fd)
    return files.seek(fd, 0, os.SEEK_HOLE) < len(content)


def _has_zeros(content: bytes) -> bool:
    """Whether there is a block of zeros where a hole could be."""
    if not content:
        return False
    if not content[-(len(content) % _HOLE_BYTES or _HOLE_BYTES) :].strip(b"\0"):
        return True
    if _ZEROS not in content:
        return False
    starts = range(0, len(content), _HOLE_BYTES)
    return any(content.startswith(_ZEROS, start) for start in starts)


def _read_xattrs(files: Files, fd: int) -> dict[bytes, bytes] | None:
    """:raises OSError: one cannot be read, or they are too many."""
    try:
        names = files.listxattr(fd)
    except OSError as error:
        if error.errno in NO_XATTRS:
            return None
        raise
    if not names:
        return None
    if sum(map(len, names)) + len(names) > LIST_BYTES:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    values: dict[bytes, bytes] = {}
    room = XATTR_BYTES
    for name in names:
        if name in XFS_ACLS:
            continue
        try:
            value = files.getxattr(fd, name)
        except OSError as error:
            if error.errno not in NO_XATTRS:
                raise
            continue
        room -= HEAD_BYTES + len(name)
        if room <= 0 or len(value) > room:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        room -= len(value)
        values[name] = value
    return values or None


# --- writing --------------------------------------------------------------------------------------


class _Learned:
    """What new files turn out to have without being given it. ``owner_differs``: the owner was
    guessed wrong, give it always; ``denied``: mode bits that were not granted (the umask);
    ``implied``: mode, which of owner and mode was given later, and the NFSv4 ACL of it then."""

    __slots__ = ("denied", "gid", "implied", "owner_differs", "strips_acl", "uid")

    def __init__(self, habits: Habits) -> None:
        self.uid, self.gid, self.strips_acl = habits
        self.owner_differs = False
        self.denied = 0o7000
        self.implied: tuple[int, int, bytes] | None = None


class _Wanted(NamedTuple):
    """``acl_of_mode``: an NFSv4 ACL that says no more than the mode; not among the xattrs."""

    item: NewFile
    acl_of_mode: bytes | None

    @classmethod
    def of(cls, item: NewFile) -> _Wanted:
        xattrs = item.xattrs
        if not xattrs or NFS4_ACL not in xattrs:
            return cls(item, None)
        value = xattrs[NFS4_ACL]
        if len(value) > _OF_MODE_BYTES or not is_trivial(value):
            return cls(item, None)
        rest = {name: xattrs[name] for name in xattrs if name != NFS4_ACL}
        return cls(item._replace(xattrs=rest), value)


def _may_have_mode(mode: int, item: NewFile, habits: _Learned) -> bool:
    """From the start? Not if the wrong group would have more access than the right one until its
    owner is set, nor if an ACL is still to narrow it, nor if an ordinary owner could not set
    attributes any more.
    """
    if mode & habits.denied or mode >> 3 & 7 != mode & 7 or habits.strips_acl:
        return False
    xattrs = item.xattrs
    return not xattrs or (mode & 0o200 != 0 and ACLS.isdisjoint(xattrs))


def _put(files: Files, dir_fd: int, item: NewFile, habits: _Learned) -> bool:
    wanted = _Wanted.of(item)
    name, mode = item.name, item.mode
    has_mode = _may_have_mode(mode, wanted.item, habits)
    try:
        fd = files.open(name, CREATE_FILE, dir_fd, mode if has_mode else 0o600)
    except _REFUSED:
        return False
    made = None
    try:
        made = _fill(files, fd, wanted, has_mode, habits)
    except _REFUSED:
        pass
    except BaseException:
        _abandon(files, fd, dir_fd, name)
        raise
    if made is None:
        _abandon(files, fd, dir_fd, name)
        return False
    try:
        files.close(fd)  # tells of writes that failed late (NFS)
    except OSError:
        _take_back(files, dir_fd, name, made)
        return False
    return True


def _fill(
    files: Files, fd: int, wanted: _Wanted, has_mode: bool, habits: _Learned
) -> os.stat_result | None:
    """What the file is now, exactly as asked; or None.

    :raises OSError:
    """
    item = wanted.item
    content = memoryview(item.content)
    while content:
        written = files.write(fd, content, len(item.content) - len(content))
        if not written:
            return None
        content = content[written:]
    is_ours = item.uid == habits.uid and item.gid == habits.gid and not habits.owner_differs
    must = (0 if is_ours else _OWNER) | (0 if has_mode else _MODE)
    made, wrong = _dress(files, fd, wanted, must, habits)
    if not wrong:
        return made
    if wrong & _CONTENT:
        return None
    if is_ours and wrong & _OWNER:
        habits.owner_differs = True
    if has_mode:
        habits.denied |= item.mode & ~made.st_mode
    # Giving an owner takes setuid bits and capabilities away, so all is done once more.
    made, wrong = _dress(files, fd, wanted, (wrong & _OWNER) | _MODE, habits)
    return None if wrong else made


def _dress(
    files: Files, fd: int, wanted: _Wanted, must: int, habits: _Learned
) -> tuple[os.stat_result, int]:
    """Give the open file what ``must`` says and all that belongs after it; answers what is not as
    it shall be.

    :raises OSError:
    """
    item, acl_of_mode = wanted
    _, content, mode, uid, gid, mtime_ns, xattrs = item
    if must & _OWNER:
        files.chown(fd, uid, gid)
    if xattrs:
        _set_xattrs(files, fd, xattrs, acls=False)
    if habits.strips_acl and not (xattrs and _ACCESS_ACL in xattrs):
        _strip_acl(files, fd)
    if must & _MODE:
        _set_mode(files, fd, item)
    if xattrs:
        _set_xattrs(files, fd, xattrs, acls=True)
    if acl_of_mode is not None:
        _have_acl_of_mode(files, fd, acl_of_mode, (mode, must & (_OWNER | _MODE)), habits)
    files.utime(fd, mtime_ns)
    made = files.fstat(fd)
    wrong = 0
    if made.st_uid != uid or made.st_gid != gid:
        wrong = _OWNER
    if made.st_mode & 0o7777 != mode:
        wrong |= _MODE
    if made.st_mtime_ns != mtime_ns:
        wrong |= _TIME
    if made.st_size != len(content):
        wrong |= _CONTENT
    return made, wrong


def _set_xattrs(files: Files, fd: int, xattrs: Mapping[bytes, bytes], *, acls: bool) -> None:
    for name, value in xattrs.items():
        if (name in ACLS) == acls:
            files.setxattr(fd, name, value)


def _have_acl_of_mode(
    files: Files, fd: int, wanted: bytes, made_with: tuple[int, int], habits: _Learned
) -> None:
    """Give it, unless the file has it already. One is looked at, the others that are made like it
    have it, too: that saves them a request."""
    implied = (*made_with, wanted)
    if habits.implied == implied:
        return
    try:
        is_there = files.getxattr(fd, NFS4_ACL) == wanted
    except OSError as error:
        # Where there are no NFSv4 ACLs none is needed.
        is_there = error.errno in (errno.ENOTSUP, errno.ENODATA)
        if not is_there and error.errno not in (errno.ERANGE, errno.EACCES, errno.EPERM):
            raise
    if is_there:
        habits.implied = implied
    else:
        files.setxattr(fd, NFS4_ACL, wanted)


def _strip_acl(files: Files, fd: int) -> None:
    try:
        files.removexattr(fd, _ACCESS_ACL)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise


def _set_mode(files: Files, fd: int, item: NewFile) -> None:
    """A setuid program must not come to belong to somebody else, whatever chown answered."""
    if item.mode & 0o6000:
        info = files.fstat(fd)
        if info.st_uid != item.uid or info.st_gid != item.gid:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    files.chmod(fd, item.mode)


def _abandon(files: Files, fd: int, dir_fd: int, name: bytes) -> None:
    made = None
    with contextlib.suppress(OSError):
        made = files.fstat(fd)
    with contextlib.suppress(OSError):
        files.close(fd)
    _take_back(files, dir_fd, name, made)


def _take_back(files: Files, dir_fd: int, name: bytes, made: os.stat_result | None) -> None:
    """Remove the file that was made, if the name still means it. ``made`` None: nothing more is
    known of it; then it is removed unseen, as the careful way would what is in its way."""
    with contextlib.suppress(OSError):
        if made is not None:
            info = files.lstat(name, dir_fd)
            if (info.st_dev, info.st_ino) != (made.st_dev, made.st_ino):
                return
        files.unlink(name, dir_fd)
