# SPDX-License-Identifier: Apache-2.0
"""Which directories are still open at a point of a sequence of paths in raw byte order.

Everything below ``a`` comes in one run, but not right after ``a``: ``a-b`` stands between ``a``
and ``a/x``. So a directory is done when a path at or above ``a0`` arrives (``0`` follows ``/``).
The directories not yet done form a chain in which each path is a prefix (as a string) of the next.
So one path, the longest, and the lengths of the others in it are all there is to keep: a tree of
100,000 levels costs one path and not 100,000.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Generic, TypeVar, overload

T = TypeVar("T")

_SLASH = ord("/")


class _Done(Sequence[tuple[bytes, T]]):
    """Directories that were taken out, deepest first; a path is made when it is asked for."""

    __slots__ = ("_ends", "_longest", "_values")

    def __init__(self, longest: bytes, ends: list[int], values: list[T]) -> None:
        self._longest = longest
        self._ends = ends
        self._values = values

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> tuple[bytes, T]: ...

    @overload
    def __getitem__(self, index: slice) -> _Done[T]: ...

    def __getitem__(self, index: int | slice) -> tuple[bytes, T] | _Done[T]:
        if isinstance(index, slice):
            return _Done(self._longest, self._ends[index], self._values[index])
        return self._longest[: self._ends[index]], self._values[index]


class Chain(Generic[T]):
    """A value per directory whose contents may still come. Length: at most 256 times the depth."""

    __slots__ = ("_ends", "_longest", "_values")

    def __init__(self) -> None:
        self._longest = b""
        self._ends: list[int] = []  # lengths of the paths, in ascending order
        self._values: list[T] = []

    def push(self, path: bytes, value: T) -> None:
        """A directory; ``done_before(path)`` must have been called.

        :raises ValueError: it does not come after all that are in the chain.
        """
        end = len(path)
        ends = self._ends
        if ends and (end <= ends[-1] or not path.startswith(memoryview(self._longest)[: ends[-1]])):
            raise ValueError("directories are not in the order of their paths")
        self._longest = path
        ends.append(end)
        self._values.append(value)

    def done_before(self, path: bytes) -> Sequence[tuple[bytes, T]]:
        """Take out the directories that nothing from ``path`` on can lie in, deepest first.

        They are out when this returns, whether or not the answer is looked at. Cost: per directory
        taken out, and one more, as long as what it has in common with ``path``.
        """
        ends = self._ends
        keep = len(ends)
        while keep and self._is_done(ends[keep - 1], path):
            keep -= 1
        return self._take(keep) if keep < len(ends) else ()

    def _is_done(self, end: int, path: bytes) -> bool:
        """``path >= directory + b"0"``, without making that; the empty path is never done."""
        if path.startswith(memoryview(self._longest)[:end]):
            return 0 < end < len(path) and path[end] > _SLASH
        # They differ, or the path ends, within the directory: the longest one tells the same.
        return path > self._longest

    def rest(self) -> Sequence[tuple[bytes, T]]:
        """Take out all of them at the end, deepest first."""
        return self._take(0)

    def _take(self, keep: int) -> _Done[T]:
        ends, values = self._ends[keep:], self._values[keep:]
        del self._ends[keep:], self._values[keep:]
        ends.reverse()
        values.reverse()
        return _Done(self._longest, ends, values)

    def get(self, path: bytes) -> T | None:
        return self._find(path, len(path))

    def parent_of(self, path: bytes) -> T | None:
        """The value of the directory that ``path`` lies in, None if it is not in the chain."""
        return self._find(path, max(path.rfind(b"/"), 0))

    def _find(self, path: bytes, end: int) -> T | None:
        """The value of the directory whose path is that beginning of ``path``."""
        index = bisect_left(self._ends, end)
        if index == len(self._ends) or self._ends[index] != end:
            return None
        if not self._longest.startswith(memoryview(path)[:end]):
            return None
        return self._values[index]
