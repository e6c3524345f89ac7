# SPDX-License-Identifier: Apache-2.0
"""Whether there is room, asked before anything is written."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from manila_backup.data.catalog.entry import Entry, EntryType
from manila_backup.data.drivers.layout import DIRECTORY_FLAGS
from manila_backup.exception import Cancelled, NotEnoughInodes, NotEnoughSpace

_BLOCK_BYTES = 512
_DEPTH_LIMIT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """``bytes`` and ``inodes`` that are needed, or that will become free again."""

    bytes: int
    inodes: int


def require(fd: int, where: str, needed: Room, freed: Room) -> None:
    """Refuse what does not fit on the file system of ``fd``, ``freed`` counted as free.

    File systems that state no size (some network ones) and those that make inodes as they need
    them are taken at their word.
    :raises NotEnoughSpace: bytes or inodes are too few.
    """
    status = os.fstatvfs(fd)
    free_bytes = status.f_bavail * status.f_frsize + freed.bytes
    if status.f_blocks and needed.bytes > free_bytes:
        raise NotEnoughSpace(where=where, needed=needed.bytes, free=free_bytes)
    free_inodes = status.f_favail + freed.inodes
    if status.f_files and needed.inodes > free_inodes:
        raise NotEnoughInodes(where=where, needed=needed.inodes, free=free_inodes)


def replaced_room(entries: Iterable[Entry], target_fd: int, cancelled: Callable[[], bool]) -> Room:
    """What those entries take in the target now that a restore over it would replace.

    Looks only; whatever is in the way or cannot be looked at counts nothing. One lstat per entry.
    :raises Cancelled:
    """
    allocated = inodes = 0
    with _Descent(target_fd) as descent:
        for entry in entries:
            if cancelled():
                raise Cancelled
            status = descent.lstat(entry.path)
            if status is None:
                continue
            inodes += 1
            if entry.type is EntryType.FILE and stat.S_ISREG(status.st_mode):
                # Of a file with more names the blocks become free with the last of them only.
                allocated += status.st_blocks * _BLOCK_BYTES // status.st_nlink
    return Room(bytes=allocated, inodes=inodes)


class _Descent:
    """Looks paths up below a directory, in any order, cheapest in catalog order.

    Keeps the directories down to the last path open, at most ``_DEPTH_LIMIT``; deeper is not seen.
    """

    def __init__(self, top_fd: int) -> None:
        self._top_fd = top_fd
        self._open: list[tuple[bytes, int]] = []

    def __enter__(self) -> _Descent:
        return self

    def __exit__(self, *_: object) -> None:
        self._climb(0)

    def lstat(self, path: bytes) -> os.stat_result | None:
        """What is at ``path``, or None."""
        *parents, name = path.split(b"/")
        try:
            fd = self._enter(parents)
            return os.stat(name or b".", dir_fd=fd, follow_symlinks=False)
        except OSError:
            return None

    def _enter(self, parents: list[bytes]) -> int:
        if len(parents) > _DEPTH_LIMIT:
            raise OSError("deeper than is looked at")
        shared = 0
        for parent, (name, _) in zip(parents, self._open, strict=False):
            if parent != name:
                break
            shared += 1
        self._climb(shared)
        for parent in parents[shared:]:
            above = self._open[-1][1] if self._open else self._top_fd
            self._open.append((parent, os.open(parent, DIRECTORY_FLAGS, dir_fd=above)))
        return self._open[-1][1] if self._open else self._top_fd

    def _climb(self, depth: int) -> None:
        while len(self._open) > depth:
            os.close(self._open.pop()[1])
