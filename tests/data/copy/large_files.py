# SPDX-License-Identifier: Apache-2.0
"""Large files that several workers copy or restore at once, and what others do to them meanwhile.

A range is as short as it can be, and most of a file is a hole: it is quickly read and compared.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from manila_backup.data.catalog.pieces import PIECE_BYTES
from manila_backup.data.copy.content import data_extents
from manila_backup.data.copy.crew import Bundle, Done, InlineCrew, Worker
from manila_backup.data.copy.sysio import SYSTEM
from manila_backup.data.copy.tasks import Outcome
from manila_backup.exception import CopyFailed
from tests.support.trees import snapshot

BIG = b"big"
RANGE = PIECE_BYTES


def fill(path: Path, size: int, *extents: tuple[int, int], seed: int = 1) -> None:
    """A file of that size with data there only."""
    draw = random.Random(seed)
    with path.open("wb") as file:
        for offset, length in extents:
            file.seek(offset)
            file.write(draw.randbytes(length))
        file.truncate(size)
    os.utime(path, ns=(5, 10**18 + 7))


SPOTS = [(4096, 5000), (RANGE + 8192, 5000), (2 * RANGE - 4096, 4096)]
SIZE = 2 * RANGE


def spotted(path: Path, seed: int = 1) -> None:
    """Two ranges with little in each."""
    fill(path, SIZE, *SPOTS, seed=seed)


SHAPES = {
    "dense": (3 * RANGE, [(0, 3 * RANGE)]),
    "dense and a bit": (3 * RANGE + 4097, [(0, 3 * RANGE + 4097)]),
    "one hole": (4 * RANGE, []),
    "spots": (SIZE, SPOTS),
    "data across all borders": (
        5 * RANGE,
        [(number * RANGE - 8192, 16384) for number in range(1, 5)],
    ),
    "hole of a range": (4 * RANGE, [(0, RANGE), (2 * RANGE, 2 * RANGE)]),
    "hole at the end": (5 * RANGE + 1, [(0, RANGE + 1)]),
    "data at the end": (5 * RANGE + 1, [(5 * RANGE, 1)]),
    "far apart": (1 << 40, [(1 << 20, 4096), (1 << 39, 4096)]),
}


# --- who does the work ----------------------------------------------------------------------------


class AllAtOnce(InlineCrew[Any]):
    """Does all that it has been given and hands it over together, failures first."""

    def __init__(self, worker: Worker[Any]) -> None:
        super().__init__(worker)
        self._tasks: list[tuple[int, Any]] = []

    @property
    def room(self) -> int:
        return 8 - len(self._tasks)

    def submit(self, bundle: Bundle[Any]) -> None:
        self._tasks += bundle

    def wait(self, timeout_s: float) -> list[Done]:
        tasks, self._tasks = self._tasks, []
        done = [(number, self._done(task)) for number, task in tasks]
        return sorted(done, key=lambda item: not isinstance(item[1], CopyFailed))

    def _done(self, task: Any) -> Outcome | BaseException:
        try:
            return self._worker.do(task)
        except CopyFailed as failed:
            return failed


# --- others act -----------------------------------------------------------------------------------


class Nth:
    """A condition for :class:`Rival`: right before the n-th time that the file is opened."""

    def __init__(self, number: int) -> None:
        self._left = number

    def __call__(self, name: str, args: tuple[Any, ...]) -> bool:
        if name not in ("open", "open_here") or args[0] != BIG:
            return False
        self._left -= 1
        return self._left == 0


Act = Callable[[Path, Path], None]


def move_away(path: Path) -> None:
    path.rename(path.parent.parent / "moved")


def another_file(path: Path, outside: Path) -> None:
    move_away(path)
    spotted(path, seed=2)


def small_file(path: Path, outside: Path) -> None:
    move_away(path)
    path.write_bytes(b"small")


def symlink(path: Path, outside: Path) -> None:
    move_away(path)
    path.symlink_to(outside)


def hard_link(path: Path, outside: Path) -> None:
    move_away(path)
    os.link(outside, path)


def fifo(path: Path, outside: Path) -> None:
    move_away(path)
    os.mkfifo(path)


def directory(path: Path, outside: Path) -> None:
    move_away(path)
    path.mkdir()
    (path / "f").touch()


def device(path: Path, outside: Path) -> None:
    """It takes what is written to it."""
    move_away(path)
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))


def vanish(path: Path, outside: Path) -> None:
    path.unlink()


IN_TARGET = [another_file, small_file, symlink, hard_link, fifo, device, directory, vanish]


# --- what there is --------------------------------------------------------------------------------


def content(tree_of: Path) -> dict[bytes, object]:
    """All below the root, without the root itself, whose time others change, and without names."""
    seen = snapshot(str(tree_of))
    return {path: replace(entry, names=frozenset()) for path, entry in seen.items() if path}


def regular_files(top: Path) -> list[Path]:
    return [path for path in top.rglob("*") if path.is_file() and not path.is_symlink()]


def subdirectory(top: Path, name: str) -> Path:
    path = top / name
    path.mkdir()
    return path


def run_bytes(path: Path) -> int:
    """What of a file is data."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return sum(length for _, length in data_extents(SYSTEM, fd, os.fstat(fd).st_size))
    finally:
        os.close(fd)
