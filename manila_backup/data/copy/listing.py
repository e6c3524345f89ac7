# SPDX-License-Identifier: Apache-2.0
"""The names of a directory: all of them, though others rename entries meanwhile, and in order,
however many there are: what does not fit is sorted in runs on disk and merged.
"""

from __future__ import annotations

import errno
import heapq
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from manila_backup.data.copy.sysio import Files, Kind

RUN_NAMES = 50_000
"""Names of one directory held in memory at most."""

HELD_NAMES = 200_000
"""Names held by all directories of one walk at most, plus one run."""

LISTINGS = 3
"""How often a directory that others change is listed."""

_READ_BYTES = 1 << 16

_END = b"/"
"""No name has one. What stands for a name may end in NUL and more: it sorts like the name."""


def live_names(
    files: Files, dir_fd: int, *, on_change: Callable[[], None]
) -> Iterator[tuple[bytes, Kind]]:
    """The names in a directory that others may change meanwhile, in no order; a name may come more
    than once, as different things.

    A listing promises nothing for what is renamed while it lasts: btrfs leaves a name out that
    another file takes over. So a directory that is not as it was before is listed again, and what
    comes is all that was seen. ``on_change`` hears of one that never stands still: names that were
    there all the time may be missing.
    """
    for _ in range(LISTINGS):
        before = files.fstat(dir_fd)
        yield from files.names(dir_fd)
        after = files.fstat(dir_fd)
        if (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns):
            return
    on_change()


class Spill:
    """One unnamed temporary file for all runs of a walk, used like a stack."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._end = 0

    @property
    def end(self) -> int:
        """Where the next run begins; to be handed to ``cut`` when the runs from here are done."""
        return self._end

    def write(self, names: Iterable[bytes]) -> Iterator[bytes]:
        """Put sorted names away; answers an iterator that reads them back."""
        fd = self._fd()
        start = self._end
        data = bytearray()
        for name in names:
            data += name + _END
            if len(data) >= _READ_BYTES:
                self._append(fd, data)
                data = bytearray()
        self._append(fd, data)
        return self._read(fd, start, self._end)

    def _fd(self) -> int:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by close()
        return self._file.fileno()

    def _append(self, fd: int, data: bytearray) -> None:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(fd, rest, self._end)
            self._end += written
            rest = rest[written:]

    def _read(self, fd: int, start: int, end: int) -> Iterator[bytes]:
        rest = b""
        while start < end:
            data = os.pread(fd, min(_READ_BYTES, end - start), start)
            if not data:
                raise OSError(errno.EIO, "a temporary file has become shorter")
            start += len(data)
            *names, rest = (rest + data).split(_END)
            yield from names

    def cut(self, end: int) -> None:
        """Give back the space from ``end`` on."""
        if self._file is not None and end < self._end:
            os.ftruncate(self._file.fileno(), end)
            self._end = end

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class SortedNames:
    """An iterator over the names of one directory in raw byte order, each once."""

    def __init__(self, names: Iterable[bytes], spill: Spill, *, run_names: int = RUN_NAMES) -> None:
        self._spill = spill
        self._spill_start = spill.end
        self._run: list[bytes] | None = None
        self._merged: Iterator[bytes]
        self._next: bytes | None = None
        self._read(names, run_names)
        self.advance()

    def _read(self, names: Iterable[bytes], run_names: int) -> None:
        run: list[bytes] = []
        runs: list[Iterator[bytes]] = []
        for name in names:
            run.append(name)
            if len(run) >= run_names:
                run.sort()
                runs.append(self._spill.write(run))
                run = []
        run.sort(reverse=True)
        if runs:
            self._merged = heapq.merge(*runs, iter(run[::-1]))
        else:
            self._run = run

    @property
    def held(self) -> int:
        """Names in memory."""
        return len(self._run) if self._run is not None else 0

    @property
    def next(self) -> bytes | None:
        """The name that comes next, None at the end."""
        return self._next

    def advance(self) -> None:
        """Pass over it. A name that the server listed twice comes once."""
        last = self._next
        while self._next == last:
            if self._run is not None:
                self._next = self._run.pop() if self._run else None
            else:
                self._next = next(self._merged, None)
            if self._next is None:
                return

    def put_away(self) -> None:
        """Move the rest to disk, so that the way down does not hold it in memory."""
        if self._run:
            self._merged = self._spill.write(reversed(self._run))
            self._run = None

    def close(self) -> None:
        """The directory is done; those entered later must be done already."""
        self._spill.cut(self._spill_start)
