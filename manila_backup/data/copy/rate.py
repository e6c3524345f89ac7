# SPDX-License-Identifier: Apache-2.0
"""How many bytes per second all processes of a node may move together.

The processes share one page of memory, a memfd that each opens through ``/proc``: it ends with the
node, whatever ends it. It holds the rate and the time until which what has been moved so far is
paid for. Who moves bytes moves that time on by what they cost, and waits for it; so nobody is in
debt for long, whoever else comes and goes, and no process has to know of another (the generic cell
rate algorithm of ITU-T I.371).
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import weakref

from manila_backup.exception import WorkerDied

BURST_S = 0.25
"""What was not used lately is not lost: so much of it may be moved at once."""

_LAYOUT = struct.Struct("<ddQ")
"""Bytes per second, 0 for as many as can be; the CLOCK_MONOTONIC second, the same for all processes
of a machine, that is paid for; and how often a rate was set."""


class RateLimit:
    """One user of the rate; belongs to one thread."""

    def __init__(self, path: str) -> None:
        """:raises WorkerDied: the node that made it is gone."""
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise WorkerDied(how="its node has ended") from error
        weakref.finalize(self, os.close, self._fd)
        self._setting = 0

    def debt_s(self, count_bytes: int) -> float:
        """Count what was moved; how long to wait before more may be, unless it is forgiven."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            rate, paid_s, self._setting = _read(self._fd)
            if rate <= 0:
                return 0.0
            now_s = time.monotonic()
            paid_s = max(paid_s, now_s - BURST_S) + count_bytes / rate
            os.pwrite(self._fd, _LAYOUT.pack(rate, paid_s, self._setting), 0)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        return paid_s - now_s

    @property
    def is_forgiven(self) -> bool:
        """Whether another rate was set after the last debt was made."""
        return _read(self._fd)[2] != self._setting


class SharedRate:
    """The node's end: holds the memory as long as it lives.

    ``path`` leads other processes of the same user to it.
    """

    def __init__(self, bytes_per_s: float) -> None:
        """0: no limit."""
        self._fd = os.memfd_create("rate", os.MFD_CLOEXEC)
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"
        os.pwrite(self._fd, _LAYOUT.pack(0.0, 0.0, 0), 0)
        self.set(bytes_per_s)

    def set(self, bytes_per_s: float) -> None:
        """Also for what is in work; debts made at the former rate are forgiven."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            setting = _read(self._fd)[2] + 1
            os.pwrite(self._fd, _LAYOUT.pack(float(bytes_per_s), time.monotonic(), setting), 0)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._fd)


def _read(fd: int) -> tuple[float, float, int]:
    rate, paid_s, setting = _LAYOUT.unpack(os.pread(fd, _LAYOUT.size, 0))
    return rate, paid_s, setting
