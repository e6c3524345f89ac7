# SPDX-License-Identifier: Apache-2.0
"""Which directories are still open at a point of a sequence of paths in raw byte order.

Everything below ``a`` comes in one run, but not right after ``a``: ``a-b`` stands between ``a``
and ``a/x``. So a directory is done when a path at or above ``a0`` arrives (``0`` follows ``/``).
The directories not yet done form a chain in which each path is a prefix of the next.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Chain(Generic[T]):
    """A value per directory whose contents may still come. Length: at most 256 times the depth."""

    def __init__(self) -> None:
        self._stack: list[tuple[bytes, bytes | None]] = []  # path, bound
        self._values: dict[bytes, T] = {}

    def push(self, path: bytes, value: T) -> None:
        """A directory; ``done_before(path)`` must have been called."""
        self._stack.append((path, path + b"0" if path else None))
        self._values[path] = value

    def done_before(self, path: bytes) -> list[tuple[bytes, T]]:
        """Take out the directories that nothing from ``path`` on can lie in, deepest first."""
        done: list[tuple[bytes, T]] = []
        stack = self._stack
        while stack and (bound := stack[-1][1]) is not None and path >= bound:
            directory = stack.pop()[0]
            done.append((directory, self._values.pop(directory)))
        return done

    def rest(self) -> list[tuple[bytes, T]]:
        """Take out all of them at the end, deepest first."""
        done = [(path, self._values.pop(path)) for path, _ in reversed(self._stack)]
        self._stack.clear()
        return done

    def get(self, path: bytes) -> T | None:
        return self._values.get(path)

    def parent_of(self, path: bytes) -> T | None:
        """The value of the directory that ``path`` lies in, None if it is not in the chain."""
        return self._values.get(path.rpartition(b"/")[0])
