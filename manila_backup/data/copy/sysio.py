# SPDX-License-Identifier: Apache-2.0
"""The one way from the copy engine to the file system: each system call that can fail, named.

It is handed in (``files=``), so that a test can let the n-th call fail, or let a rival act exactly
between two calls. No method takes a path with more than one component, except ``open_beneath``, and
the ``/proc`` paths made here, which stand for an open fd or for a name directly below one.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from enum import IntEnum

from manila_backup.data.copy.openat2 import openat2

try:
    from manila_backup.data.copy import _native
except ImportError:  # it is not built, or this kernel cannot
    _native = None  # type: ignore[assignment]

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
OPEN_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FICLONE = 0x40049409
"""_IOW(0x94, 9, int) of linux/fs.h."""

CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Kind(IntEnum):
    """What a directory's listing says of a name; it may be something else by now."""

    DIRECTORY = 0
    FILE = 1
    OTHER = 2


_PATH_BYTES = 4096
"""PATH_MAX: what the kernel takes in one call, the NUL included."""

_KINDS = Kind.DIRECTORY, Kind.FILE, Kind.OTHER

Place = int | bytes
"""What attributes belong to: an fd, or :func:`itself` of an O_PATH fd."""


def itself(path_fd: int) -> bytes:
    """The object that an O_PATH fd stands for, symlinks and special files included: the magic link
    leads to it and not on to a symlink's target. Calls that take an fd refuse O_PATH ones."""
    return b"/proc/self/fd/%d" % path_fd


def is_native() -> bool:
    """Whether the parts in C may be used, where there are any: unless the environment says
    ``MANILA_BACKUP_NATIVE=0``."""
    return os.environ.get("MANILA_BACKUP_NATIVE") != "0"


class Files:
    """The real thing, without state; arguments are fds of directories or files, and names."""

    def open(self, name: bytes, flags: int, dir_fd: int, mode: int = 0o600) -> int:
        return os.open(name, flags, mode, dir_fd=dir_fd)

    def open_here(self, name: bytes, flags: int, dir_fd: int) -> int:
        """Open what is right in the directory, on the directory's own mount.

        :raises OSError: EXDEV if another mount covers the name, also if it is only a file's.
        """
        fd = openat2(name, flags, dir_fd)
        if fd >= 0:
            return fd
        fd = self.open(name, flags, dir_fd)
        try:
            if self.mount_id(fd) != self.mount_id(dir_fd):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def open_beneath(self, path: bytes, flags: int, dir_fd: int) -> int:
        """Open what is several components down, in one call: without a symlink, another mount or a
        ``..`` on the way. -1 if that cannot be, whatever the reason.
        """
        return openat2(path, flags, dir_fd) if len(path) < _PATH_BYTES else -1

    def close(self, fd: int) -> None:
        """The fd is closed also if this raises."""
        os.close(fd)

    # --- looking ----------------------------------------------------------------------------------

    def lstat(self, name: bytes, dir_fd: int) -> os.stat_result:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)

    def fstat(self, fd: int) -> os.stat_result:
        return os.fstat(fd)

    def mount_id(self, fd: int) -> int:
        """Which mount an open fd is on; tells bind mounts apart, which ``st_dev`` does not."""
        info = os.open(b"/proc/self/fdinfo/%d" % fd, os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(info, 4096)
        finally:
            os.close(info)
        return int(text.split(b"mnt_id:", 1)[1].split(None, 1)[0])

    def names(self, dir_fd: int) -> Iterator[tuple[bytes, Kind]]:
        """The names in a directory, in no order, and what each was when listed; streaming."""
        # btrfs lists what was there when the fd was opened, or rewound.
        os.lseek(dir_fd, 0, os.SEEK_SET)
        if _native is not None and is_native():
            while portion := _native.names(dir_fd, _KINDS):
                yield from portion
            return
        fsencode = os.fsencode
        with os.scandir(dir_fd) as listing:
            for item in listing:
                if item.is_file(follow_symlinks=False):
                    kind = Kind.FILE
                elif item.is_dir(follow_symlinks=False):
                    kind = Kind.DIRECTORY
                else:
                    kind = Kind.OTHER
                yield fsencode(item.name), kind

    def readlink(self, path_fd: int) -> bytes:
        """The target of the symlink that ``path_fd`` (O_PATH) is."""
        return os.readlink(b"", dir_fd=path_fd)

    # --- content ----------------------------------------------------------------------------------

    def seek(self, fd: int, offset: int, whence: int) -> int:
        return os.lseek(fd, offset, whence)

    def read(self, fd: int, buffer: memoryview, offset: int) -> int:
        return os.preadv(fd, [buffer], offset)

    def will_need(self, fd: int, offset: int, count: int) -> None:
        """Have the kernel fetch content into its cache, without waiting for it (posix_fadvise)."""
        os.posix_fadvise(fd, offset, count, os.POSIX_FADV_WILLNEED)

    def forget(self, fd: int) -> None:
        """Have the kernel drop what it caches of a file's content, as far as it can."""
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def copy_range(self, source: int, target: int, offset: int, count: int) -> int:
        """Have the kernel, or the file server, copy to the same offset (copy_file_range)."""
        return os.copy_file_range(source, target, count, offset, offset)

    def send(self, source: int, target: int, offset: int, count: int) -> int:
        """Have the kernel copy from ``offset`` to where the target's position is (sendfile)."""
        return os.sendfile(target, source, offset, count)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    # --- making and removing ----------------------------------------------------------------------

    def mkdir(self, name: bytes, dir_fd: int) -> None:
        os.mkdir(name, 0o700, dir_fd=dir_fd)

    def mknod(self, name: bytes, mode: int, rdev: int, dir_fd: int) -> None:
        os.mknod(name, mode, rdev, dir_fd=dir_fd)

    def symlink(self, target: bytes, name: bytes, dir_fd: int) -> None:
        os.symlink(target, name, dir_fd=dir_fd)

    def link(self, old: bytes, old_dir_fd: int, new: bytes, new_dir_fd: int) -> None:
        os.link(old, new, src_dir_fd=old_dir_fd, dst_dir_fd=new_dir_fd, follow_symlinks=False)

    def unlink(self, name: bytes, dir_fd: int) -> None:
        os.unlink(name, dir_fd=dir_fd)

    def rmdir(self, name: bytes, dir_fd: int) -> None:
        os.rmdir(name, dir_fd=dir_fd)

    def clone(self, source: int, target: int) -> None:
        """Have the target share all blocks of the source (FICLONE, ioctl_ficlonerange(2))."""
        fcntl.ioctl(target, _FICLONE, source)

    # --- attributes -------------------------------------------------------------------------------

    def chown(self, place: Place, uid: int, gid: int) -> None:
        """-1 leaves one as it is."""
        os.chown(place, uid, gid)

    def chmod(self, place: Place, mode: int) -> None:
        os.chmod(place, mode)

    def utime(self, place: Place, mtime_ns: int) -> None:
        """Sets atime as well: Python has no way to leave it alone."""
        os.utime(place, ns=(mtime_ns, mtime_ns))

    def listxattr(self, place: Place) -> list[bytes]:
        return [os.fsencode(name) for name in os.listxattr(place)]

    def getxattr(self, place: Place, name: bytes) -> bytes:
        return os.getxattr(place, name)

    def setxattr(self, place: Place, name: bytes, value: bytes) -> None:
        os.setxattr(place, name, value)

    def removexattr(self, place: Place, name: bytes) -> None:
        os.removexattr(place, name)


SYSTEM = Files()
