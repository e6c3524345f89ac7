# SPDX-License-Identifier: Apache-2.0
"""A page of memory that the processes of one copy share: what they are told, and live figures."""

from __future__ import annotations

import mmap
import os
import struct

_SLOT = struct.Struct("=Q")
_FIRST = 64
"""What they are told has a cache line of its own: every worker looks at it all the time."""

_STOP, _SHARE = 0, 1


class Board:
    """Made by the coordinator; a child opens it by the inherited fd. Slots are written by one
    thread each; a torn read of a figure does no harm."""

    def __init__(self, fd: int, slots: int) -> None:
        """Takes over ``fd``."""
        self.fd = fd
        self._slots = slots
        self._memory = mmap.mmap(fd, _FIRST + slots * _SLOT.size)

    @classmethod
    def create(cls, slots: int) -> Board:
        fd = os.memfd_create("manila-backup-copy", os.MFD_CLOEXEC)
        os.ftruncate(fd, _FIRST + slots * _SLOT.size)
        return cls(fd, slots)

    def stop(self) -> None:
        self._memory[_STOP] = 1

    def is_stopped(self) -> bool:
        return self._memory[_STOP] != 0

    def ask_to_share(self, *, is_asked: bool) -> None:
        """Whether workers shall give back what they have not begun, since others have nothing."""
        self._memory[_SHARE] = is_asked

    def is_asked_to_share(self) -> bool:
        return self._memory[_SHARE] != 0

    def put(self, slot: int, figure: int) -> None:
        _SLOT.pack_into(self._memory, _FIRST + slot * _SLOT.size, max(figure, 0))

    def total(self) -> int:
        return sum(
            _SLOT.unpack_from(self._memory, _FIRST + slot * _SLOT.size)[0]
            for slot in range(self._slots)
        )

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)
