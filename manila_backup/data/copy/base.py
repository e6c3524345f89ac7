# SPDX-License-Identifier: Apache-2.0
"""The contract of the copy engine: trees in, trees out, everything relative to directory fds.

Both trees may be changed by hostile tenants while the engine works as root. So: every access is
relative to a directory fd, one component at a time, with O_NOFOLLOW; only regular files are opened
for reading, with O_NONBLOCK and fstat after open; mounts inside a tree are not entered (by mount
id, so bind mounts neither); special files are made by mknod and never opened.

The engine knows no SQL, HTTP, configuration or logging; progress and cancellation are handed in.
Every sentence of this contract has a test under ``tests/data/copy/``.
"""

from __future__ import annotations

from dataclasses import dataclass

from manila_backup.types import Counters, Remarks

IGNORED_NAMES = frozenset({b"lost+found", b".snapshot", b".zfs"})
"""Names in a share's root that belong to the file server: neither copied nor deleted. Names that
start with ``.nfs`` (files open on an NFS client while removed) are treated so at every level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """What to keep and what to do with what is in the way.

    ``delete`` removes from the target what the source lacks (exact copy). ``plain_target`` leaves
    out what must not appear in a browsable store: setuid and setgid bits, and special files.
    ``reflink`` lets files without checksums share their blocks where the file system can.
    ``read_ahead_bytes`` of a file in work are asked for ahead, and bound how much of its content is
    held. ``processes`` work at a tree at once, 1 means in the caller's own; each with 1 to
    ``threads`` threads, as many as the latency that is seen makes worth it. ``rate_path`` leads to
    the :class:`~.rate.SharedRate` that content is held to.
    """

    delete: bool = False
    plain_target: bool = False
    reflink: bool = False
    read_ahead_bytes: int = 1 << 20
    processes: int = 1
    threads: int = 1
    rate_path: str | None = None

    def __post_init__(self) -> None:
        if self.read_ahead_bytes < 1:
            raise ValueError("read_ahead_bytes must be positive")
        if self.processes < 1 or self.threads < 1:
            raise ValueError("processes and threads must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyResult:
    """Final counters and the paths behind them.

    ``changed`` differ from the source because it, or in a restore the target, was changed by others
    during the copy; ``skipped`` vanished, were refused (swapped for something else while looked at)
    or lie below a mount in the target; ``losses`` are what the target could not hold.
    ``logical_bytes`` is the sum of the sizes of regular files, links counted once.
    """

    counters: Counters
    logical_bytes: int
    remarks: Remarks
