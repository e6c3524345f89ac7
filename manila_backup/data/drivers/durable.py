# SPDX-License-Identifier: Apache-2.0
"""Making what was written survive a power cut."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syncfs.argtypes = [ctypes.c_int]
_libc.syncfs.restype = ctypes.c_int


class Disk:
    """The calls that return when something is durable, or raise ``OSError`` if it may not be.

    Handed in (``disk=``), so that a test can see what was durable when, or let one fail.
    """

    def fsync(self, fd: int) -> None:
        """The file, or the names in the directory, that ``fd`` is."""
        os.fsync(fd)

    def syncfs(self, fd: int) -> None:
        """Everything on the file system that the directory ``fd`` is on.

        Write errors of a file system are reported once per open fd, and only those since it was
        opened (syncfs(2), kernel 5.8 and later): so ``fd`` must have been opened *before* the data
        was written. On NFS the client sends what is dirty and waits for the server's COMMIT.
        """
        if _libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


DISK = Disk()
