# SPDX-License-Identifier: Apache-2.0
"""A directory as the kernel's FUSE protocol (linux/fuse.h, 7.31) asks for it: every request is
passed through to the same entry of the backing directory, reached by an O_PATH fd.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import struct
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

ROOT = 1
MAX_WRITE = 1 << 16
_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22
_DIRECT_IO = 1


class Kind(IntEnum):
    """The requests, by their numbers in the protocol."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    RENAME2 = 45
    LSEEK = 46


WITHOUT_ERRORS = frozenset(
    {Kind.FORGET, Kind.BATCH_FORGET, Kind.RELEASE, Kind.RELEASEDIR, Kind.INIT, Kind.DESTROY}
)
WITHOUT_ANSWER = frozenset({Kind.FORGET, Kind.BATCH_FORGET, Kind.INTERRUPT})
ON_A_NAME = frozenset(
    {
        *(Kind.LOOKUP, Kind.MKNOD, Kind.MKDIR, Kind.UNLINK, Kind.RMDIR, Kind.CREATE),
        *(Kind.SYMLINK, Kind.LINK),
    }
)


class Request(NamedTuple):
    kind: Kind
    node: int
    thread: int
    body: bytes

    def take(self, layout: str) -> tuple[tuple[int, ...], bytes]:
        """The fixed fields, and what follows them."""
        size = struct.calcsize(layout)
        return struct.unpack(layout, self.body[:size]), self.body[size:]


class _Node:
    __slots__ = ("fd", "key", "lookups")

    def __init__(self, fd: int, key: tuple[int, int]) -> None:
        self.fd = fd
        self.key = key
        self.lookups = 0

    @property
    def place(self) -> str:
        """The inode itself, symlinks included: the fd is an O_PATH one."""
        return f"/proc/self/fd/{self.fd}"


def _attr(info: os.stat_result) -> bytes:
    def parts(time_ns: int) -> tuple[int, int]:
        return divmod(time_ns, 10**9)

    (atime, atime_ns), (mtime, mtime_ns), (ctime, ctime_ns) = map(
        parts, (info.st_atime_ns, info.st_mtime_ns, info.st_ctime_ns)
    )
    return struct.pack(
        "<3Q3q10I",
        *(info.st_ino, info.st_size, info.st_blocks, atime, mtime, ctime),
        *(atime_ns, mtime_ns, ctime_ns, info.st_mode, info.st_nlink, info.st_uid, info.st_gid),
        *(info.st_rdev & 0xFFFFFFFF, info.st_blksize, 0),
    )


class Passthrough:
    """One method per kind of request, named like it; answers the body of the reply."""

    def __init__(self, backing: Path) -> None:
        fd = os.open(backing, os.O_PATH | os.O_DIRECTORY)
        info = os.fstat(fd)
        self._nodes = {ROOT: _Node(fd, (info.st_dev, info.st_ino))}
        self._numbers = {(info.st_dev, info.st_ino): ROOT}
        self._last = ROOT
        self._listings: dict[int, list[tuple[bytes, int, int]]] = {}

    def answer(self, request: Request) -> bytes:
        """:raises OSError: is the answer."""
        do: Callable[[Request, _Node], bytes] | None = getattr(
            self, request.kind.name.lower(), None
        )
        if do is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        # Requests about the connection, or about many nodes, name none.
        return do(request, self._nodes[request.node or ROOT])

    def where(self, request: Request) -> bytes:
        """The path that a request is about, for reports."""
        top = os.readlink(self._nodes[ROOT].place)
        path = os.fsencode(os.readlink(self._nodes[request.node].place)[len(top) + 1 :])
        if request.kind not in ON_A_NAME:
            return path
        skip = {Kind.MKNOD: 16, Kind.CREATE: 16, Kind.MKDIR: 8, Kind.LINK: 8}
        name = request.body[skip.get(request.kind, 0) :].split(b"\0")[0]
        return path + b"/" + name if path else name

    # --- nodes ------------------------------------------------------------------------------------

    def _entry(self, parent: _Node, name: bytes) -> bytes:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent.fd)
        info = os.fstat(fd)
        key = info.st_dev, info.st_ino
        number = self._numbers.get(key)
        if number is None:
            self._last += 1
            number = self._numbers[key] = self._last
            self._nodes[number] = _Node(fd, key)
        else:
            os.close(fd)
        self._nodes[number].lookups += 1
        return struct.pack("<4Q2I", number, 0, 0, 0, 0, 0) + _attr(info)

    def _forget(self, number: int, lookups: int) -> None:
        node = self._nodes.get(number)
        if node is None or number == ROOT:
            return
        node.lookups -= lookups
        if node.lookups <= 0:
            os.close(node.fd)
            del self._nodes[number], self._numbers[node.key]

    def lookup(self, request: Request, node: _Node) -> bytes:
        return self._entry(node, request.body[:-1])

    def forget(self, request: Request, node: _Node) -> bytes:
        (lookups,), _ = request.take("<Q")
        self._forget(request.node, lookups)
        return b""

    def batch_forget(self, request: Request, node: _Node) -> bytes:
        (count, _), rest = request.take("<II")
        for number, lookups in struct.iter_unpack("<QQ", rest[: 16 * count]):
            self._forget(number, lookups)
        return b""

    # --- attributes -------------------------------------------------------------------------------

    def getattr(self, request: Request, node: _Node) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + _attr(os.fstat(node.fd))

    def setattr(self, request: Request, node: _Node) -> bytes:
        fields, _ = request.take("<2I3Q3q8I")
        valid, handle, size = fields[0], fields[2], fields[3]
        mode, uid, gid = fields[11], fields[13], fields[14]
        if valid & (2 | 4):
            os.chown(node.place, uid if valid & 2 else -1, gid if valid & 4 else -1)
        if valid & 1:
            os.chmod(node.place, stat.S_IMODE(mode))
        if valid & 8:
            os.truncate(handle if valid & 64 else node.place, size)
        if valid & (16 | 32):
            self._set_times(node, valid, fields)
        return self.getattr(request, node)

    def _set_times(self, node: _Node, valid: int, fields: tuple[int, ...]) -> None:
        info = os.fstat(node.fd)
        times = [info.st_atime_ns, info.st_mtime_ns]
        for index in (0, 1):
            if valid & (128 << index):
                os.utime(node.place)  # now; the other one, if it is kept, is put right below
                times[index] = os.fstat(node.fd).st_mtime_ns
            elif valid & (16 << index):
                times[index] = fields[5 + index] * 10**9 + fields[8 + index]
        os.utime(node.place, ns=(times[0], times[1]))

    def setxattr(self, request: Request, node: _Node) -> bytes:
        (size, flags), rest = request.take("<II")
        name, _, value = rest.partition(b"\0")
        os.setxattr(node.place, name, value[:size], flags)
        return b""

    def getxattr(self, request: Request, node: _Node) -> bytes:
        (size, _), name = request.take("<II")
        return self._sized(size, os.getxattr(node.place, name[:-1]))

    def listxattr(self, request: Request, node: _Node) -> bytes:
        (size, _), _ = request.take("<II")
        names = [os.fsencode(name) + b"\0" for name in os.listxattr(node.place)]
        return self._sized(size, b"".join(names))

    def _sized(self, size: int, data: bytes) -> bytes:
        if not size:
            return struct.pack("<II", len(data), 0)
        if size < len(data):
            raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
        return data

    def removexattr(self, request: Request, node: _Node) -> bytes:
        os.removexattr(node.place, request.body[:-1])
        return b""

    def access(self, request: Request, node: _Node) -> bytes:
        return b""

    def readlink(self, request: Request, node: _Node) -> bytes:
        target: bytes = os.readlink(b"", dir_fd=node.fd)
        return target

    # --- names ------------------------------------------------------------------------------------

    def symlink(self, request: Request, node: _Node) -> bytes:
        name, target, _ = request.body.split(b"\0")
        os.symlink(target, name, dir_fd=node.fd)
        return self._entry(node, name)

    def mknod(self, request: Request, node: _Node) -> bytes:
        (mode, rdev, _, _), name = request.take("<4I")
        os.mknod(name[:-1], mode, rdev, dir_fd=node.fd)
        return self._entry(node, name[:-1])

    def mkdir(self, request: Request, node: _Node) -> bytes:
        (mode, _), name = request.take("<II")
        os.mkdir(name[:-1], mode, dir_fd=node.fd)
        return self._entry(node, name[:-1])

    def unlink(self, request: Request, node: _Node) -> bytes:
        os.unlink(request.body[:-1], dir_fd=node.fd)
        return b""

    def rmdir(self, request: Request, node: _Node) -> bytes:
        os.rmdir(request.body[:-1], dir_fd=node.fd)
        return b""

    def link(self, request: Request, node: _Node) -> bytes:
        (old,), name = request.take("<Q")
        place = self._nodes[old].place
        os.link(place, name[:-1], dst_dir_fd=node.fd, follow_symlinks=True)
        return self._entry(node, name[:-1])

    def rename(self, request: Request, node: _Node) -> bytes:
        (directory,), names = request.take("<Q")
        return self._rename(node, directory, names)

    def rename2(self, request: Request, node: _Node) -> bytes:
        (directory, flags, _), names = request.take("<QII")
        if flags:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return self._rename(node, directory, names)

    def _rename(self, node: _Node, directory: int, names: bytes) -> bytes:
        old, new, _ = names.split(b"\0")
        os.rename(old, new, src_dir_fd=node.fd, dst_dir_fd=self._nodes[directory].fd)
        return b""

    # --- content ----------------------------------------------------------------------------------

    def open(self, request: Request, node: _Node) -> bytes:
        (flags, _), _ = request.take("<II")
        flags &= os.O_ACCMODE | os.O_APPEND | os.O_TRUNC
        return self._opened(os.open(node.place, flags))

    def create(self, request: Request, node: _Node) -> bytes:
        (flags, mode, _, _), name = request.take("<4I")
        flags &= os.O_ACCMODE | os.O_APPEND | os.O_TRUNC | os.O_EXCL
        fd = os.open(name[:-1], flags | os.O_CREAT | os.O_NOFOLLOW, mode, dir_fd=node.fd)
        return self._entry(node, name[:-1]) + self._opened(fd)

    def _opened(self, fd: int) -> bytes:
        return struct.pack("<QII", fd, _DIRECT_IO, 0)

    def read(self, request: Request, node: _Node) -> bytes:
        (handle, offset, size, *_), _ = request.take("<2Q2IQ2I")
        return os.pread(handle, size, offset)

    def write(self, request: Request, node: _Node) -> bytes:
        (handle, offset, size, *_), data = request.take("<2Q2IQ2I")
        return struct.pack("<II", os.pwrite(handle, data[:size], offset), 0)

    def lseek(self, request: Request, node: _Node) -> bytes:
        (handle, offset, whence, _), _ = request.take("<2Q2I")
        return struct.pack("<Q", os.lseek(handle, offset, whence))

    def flush(self, request: Request, node: _Node) -> bytes:
        (handle, *_), _ = request.take("<Q")
        os.close(os.dup(handle))
        return b""

    def fsync(self, request: Request, node: _Node) -> bytes:
        (handle, flags, _), _ = request.take("<QII")
        (os.fdatasync if flags & 1 else os.fsync)(handle)
        return b""

    def release(self, request: Request, node: _Node) -> bytes:
        (handle, *_), _ = request.take("<Q")
        os.close(handle)
        return b""

    def statfs(self, request: Request, node: _Node) -> bytes:
        found = os.statvfs(node.place)
        return struct.pack(
            "<5Q4I24x",
            *(found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree),
            *(found.f_bsize, found.f_namemax, found.f_frsize, 0),
        )

    # --- directories ------------------------------------------------------------------------------

    def opendir(self, request: Request, node: _Node) -> bytes:
        fd = os.open(node.place, os.O_RDONLY | os.O_DIRECTORY)
        with os.scandir(fd) as listing:
            self._listings[fd] = [
                (os.fsencode(item.name), item.inode(), _type_of(item)) for item in listing
            ]
        return struct.pack("<QII", fd, 0, 0)

    def readdir(self, request: Request, node: _Node) -> bytes:
        (handle, offset, size, *_), _ = request.take("<2Q2IQ2I")
        listing = self._listings[handle]
        found = bytearray()
        for number in range(offset, len(listing)):
            name, inode, type_ = listing[number]
            record = struct.pack("<QQII", inode, number + 1, len(name), type_) + name
            record += b"\0" * (-len(record) % 8)
            if len(found) + len(record) > size:
                break
            found += record
        return bytes(found)

    def releasedir(self, request: Request, node: _Node) -> bytes:
        (handle, *_), _ = request.take("<Q")
        del self._listings[handle]
        os.close(handle)
        return b""

    def fsyncdir(self, request: Request, node: _Node) -> bytes:
        return self.fsync(request, node)

    # --- the connection ---------------------------------------------------------------------------

    def init(self, request: Request, node: _Node) -> bytes:
        (_, _, read_ahead, flags), _ = request.take("<4I")
        return struct.pack(
            "<4I2H2I2H8I",
            *(7, 31, read_ahead, flags & (_BIG_WRITES | _MAX_PAGES)),
            *(12, 9, MAX_WRITE, 1, MAX_WRITE // mmap.PAGESIZE, 0),
            *([0] * 8),
        )

    def destroy(self, request: Request, node: _Node) -> bytes:
        return b""


def _type_of(item: os.DirEntry[str]) -> int:
    if item.is_symlink():
        return stat.S_IFLNK >> 12
    if item.is_dir(follow_symlinks=False):
        return stat.S_IFDIR >> 12
    return stat.S_IFREG >> 12 if item.is_file(follow_symlinks=False) else 0  # 0: unknown
