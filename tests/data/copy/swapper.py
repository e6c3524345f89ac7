# SPDX-License-Identifier: Apache-2.0
"""The rival: a tenant's process that swaps entries of a tree for something else, again and again.

Each swap is one atomic ``renameat2(RENAME_EXCHANGE)`` with an entry of a parking directory, and is
held for milliseconds, or flickers; several are under way at once. What it puts there: symlinks to
outside; for files also fifos, directories, and a device that can be read for ever; for directories
also files and fifos. It never follows a link itself, so whatever happens outside, somebody else did
it.

``python -m tests.data.copy.swapper CONFIG`` works until its stdin ends, then puts everything back
and prints how often it has swapped.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import heapq
import json
import os
import random
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_EXCHANGE = 2
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HOLD_S = (0.0005, 0.004)
_REST_S = (0.0005, 0.008)
_FLICKER_S = (0.00005, 0.0004)
"""Now and then: so that what is looked at twice is something else each time."""
_libc = ctypes.CDLL(None, use_errno=True)

DECOY = b"decoy " * 50
"""Content of what is put there and is not a secret."""

LINKS = ("link",)
ANYTHING = ("link", "link", "relative", "other", "fifo", "device")


@dataclass(frozen=True, kw_only=True)
class Config:
    """``outside`` mirrors the names below ``root``; ``park`` is on the same file system. What is
    swapped are the paths ``directories`` and ``regular`` below ``root``."""

    root: str
    park: str
    outside: str
    directories: Sequence[str]
    regular: Sequence[str]
    decoys: Sequence[str] = ANYTHING
    seed: int = 0


# --- the test's side ------------------------------------------------------------------------------


class Swapper:
    """The rival at work for the time of a block; ``swaps`` afterwards."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.swaps = 0

    def __enter__(self) -> Swapper:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.data.copy.swapper", json.dumps(asdict(self._config))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """It stands still, some things swapped, so that somebody can look around."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def __exit__(self, *_: object) -> None:
        told = self._process.communicate(timeout=30)[0]
        assert self._process.returncode == 0
        self.swaps = int(told)


# --- the rival's side -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Held:
    """A swap to be undone: what was at ``name`` in ``parent_fd`` is now in the park."""

    parent_fd: int
    name: bytes
    parked: bytes


class Rival:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._random = random.Random(config.seed)
        self._root_fd = os.open(config.root, _DIRECTORY)
        self._park_fd = os.open(config.park, _DIRECTORY)
        self._made = 0
        self._held: dict[str, _Held] = {}
        self.swaps = 0

    def run(self, is_over: Callable[[float], bool]) -> None:
        """``is_over`` waits so many seconds and answers whether to stop."""
        victims = [*self._config.directories, *self._config.regular]
        due = [(time.monotonic() + self._between(_REST_S), victim) for victim in victims]
        heapq.heapify(due)
        while True:
            when, victim = due[0]
            if is_over(max(0.0, when - time.monotonic())):
                break
            pause = _REST_S
            if victim in self._held:
                self._undo(self._held.pop(victim))
            elif self._swap(victim):
                pause = _HOLD_S
            heapq.heapreplace(due, (time.monotonic() + self._between(pause), victim))
        # The latest first: a directory is put back before what is below it is looked for.
        for held in reversed(self._held.values()):
            self._undo(held)

    def _between(self, bounds: tuple[float, float]) -> float:
        return self._random.uniform(*(_FLICKER_S if self._random.random() < 0.5 else bounds))

    # --- swaps ------------------------------------------------------------------------------------

    def _swap(self, victim: str) -> bool:
        parent, _, name = os.fsencode(victim).rpartition(b"/")
        parent_fd = self._open(parent)
        if parent_fd < 0:
            return False
        parked = self._make_decoy(victim)
        if not self._exchange(parent_fd, name, parked):
            self._discard(parked)
            os.close(parent_fd)
            return False
        self._held[victim] = _Held(parent_fd, name, parked)
        self.swaps += 1
        return True

    def _undo(self, held: _Held) -> None:
        # What is not there any more was removed by the engine: then it stays removed.
        self._exchange(held.parent_fd, held.name, held.parked)
        self._discard(held.parked)
        os.close(held.parent_fd)

    def _open(self, path: bytes) -> int:
        """The directory's fd; negative if there is none, or something else in its way."""
        fd = os.dup(self._root_fd)
        for name in path.split(b"/") if path else []:
            try:
                below = os.open(name, _DIRECTORY, dir_fd=fd)
            except OSError:
                return -1
            finally:
                os.close(fd)
            fd = below
        return fd

    def _exchange(self, parent_fd: int, name: bytes, parked: bytes) -> bool:
        if not _libc.renameat2(parent_fd, name, self._park_fd, parked, _EXCHANGE):
            return True
        number = ctypes.get_errno()
        if number in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise OSError(number, os.strerror(number))

    # --- decoys -----------------------------------------------------------------------------------

    def _make_decoy(self, victim: str) -> bytes:
        self._made += 1
        name = b"decoy-%d" % self._made
        kind = self._random.choice(self._config.decoys)
        is_directory = victim in self._config.directories
        target = f"{self._config.outside}/{victim}"
        if kind == "relative":
            start = os.path.dirname(f"{self._config.root}/{victim}")
            target = os.path.relpath(target, start)
        if kind in ("link", "relative"):
            os.symlink(target, name, dir_fd=self._park_fd)
        elif kind == "fifo":
            os.mkfifo(name, 0o644, dir_fd=self._park_fd)
        elif kind == "device" and not is_directory:
            os.mknod(name, stat.S_IFCHR | 0o644, os.makedev(1, 5), dir_fd=self._park_fd)
        elif is_directory:
            self._make_file(name, self._park_fd)
        else:
            os.mkdir(name, 0o755, dir_fd=self._park_fd)
            fd = os.open(name, _DIRECTORY, dir_fd=self._park_fd)
            self._make_file(b"decoy", fd)
            os.close(fd)
        return name

    def _make_file(self, name: bytes, dir_fd: int) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=dir_fd)
        os.write(fd, DECOY)
        os.close(fd)

    def _discard(self, parked: bytes) -> None:
        try:
            os.unlink(parked, dir_fd=self._park_fd)
        except IsADirectoryError:
            # The engine may still be making entries in it: what stays, stays in the park.
            shutil.rmtree(parked, ignore_errors=True, dir_fd=self._park_fd)
        except FileNotFoundError:
            pass


def main(config: Config) -> None:
    os.umask(0o022)
    rival = Rival(config)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    rival.run(lambda wait_s: bool(select.select([0], [], [], wait_s)[0]))
    sys.stdout.write(str(rival.swaps))


if __name__ == "__main__":
    main(Config(**json.loads(sys.argv[1])))
