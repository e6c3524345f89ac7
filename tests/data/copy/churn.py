# SPDX-License-Identifier: Apache-2.0
"""A tree that is never left alone, and what must be true of every copy of it all the same.

As a program it works on the tree that it is given until it is killed. Whatever it does, each file
holds at any moment what :func:`complaint` says it may.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

FILES = 12
"""In each directory."""

GROWN_BYTES = 1 << 20
_PATTERN = b"".join(b"%07d\n" % number for number in range(GROWN_BYTES // 8))
_VERSION_BYTES = 40_000


def populate(root: Path) -> None:
    for name in ("still", "grow", "replaced", "comes", "moved", "moved2", "whole", "still/deep"):
        (root / name).mkdir()
    for number in range(FILES):
        (root / "still" / f"{number}").write_bytes(_PATTERN[: 1000 * number])
        (root / "grow" / f"{number}").write_bytes(b"")
        (root / "replaced" / f"{number}").write_bytes(_version(0))
        (root / "moved" / f"{number}").write_bytes(_version(number))
        (root / "whole" / f"{number}").write_bytes(_version(number))
        os.link(root / "still" / f"{number}", root / "still" / "deep" / f"{number}")


def _version(number: int) -> bytes:
    return (b"%07d\n" % number) * (_VERSION_BYTES // 8)


def complaint(path: str, content: bytes) -> str | None:
    """What is wrong with a copy's file, if anything is."""
    directory = path.partition("/")[0]
    if directory in ("grow", "still"):
        return None if _PATTERN.startswith(content) else "its bytes were never there together"
    if directory == "comes" and _version(int(content[:7] or 0)).startswith(content):
        return None  # it is written after it has been made
    if content and content == _version(int(content[:7])):
        return None
    return "it is no whole version"


class _Churn:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._draw = random.Random(7)
        self._number = 0

    def act(self) -> None:
        self._number += 1
        name = f"{self._draw.randrange(FILES)}"
        acts = (self._grow, self._grow, self._replace, self._come_and_go, self._move)
        self._draw.choice(acts)(name)
        if self._number % 50 == 0:
            self._move_whole()

    def _grow(self, name: str) -> None:
        """And shrink, now and then to nothing."""
        with (self._root / "grow" / name).open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size > GROWN_BYTES - 70_000 or self._draw.random() < 0.05:
                file.truncate(self._draw.choice([0, size // 2, size - size // 7]))
            else:
                file.write(_PATTERN[size : size + self._draw.randrange(1, 70_000)])

    def _replace(self, name: str) -> None:
        new = self._root / "new"
        new.write_bytes(_version(self._number))
        new.rename(self._root / "replaced" / name)

    def _come_and_go(self, name: str) -> None:
        path = self._root / "comes" / name
        if path.exists():
            path.unlink()
        else:
            path.write_bytes(_version(self._number))

    def _move(self, name: str) -> None:
        here, there = self._root / "moved" / name, self._root / "moved2" / name
        here.rename(there) if here.exists() else there.rename(here)

    def _move_whole(self) -> None:
        here, there = self._root / "whole", self._root / "whole2"
        here.rename(there) if here.exists() else there.rename(here)


def _main() -> None:
    churn = _Churn(Path(sys.argv[1]))
    print("churning", flush=True)
    while True:
        churn.act()


if __name__ == "__main__":
    _main()
