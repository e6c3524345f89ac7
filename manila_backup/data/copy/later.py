# SPDX-License-Identifier: Apache-2.0
"""What the coordinator of a copy will do, in the order of the paths that it is about."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable

from manila_backup.data.copy.node import Below


class _Act:
    """Something at a name of a directory. Its path is made when it is asked for: of a tree of
    100,000 levels with two directories in each, all that wait would name gigabytes."""

    __slots__ = ("act", "name", "place")

    def __init__(self, place: Below, name: bytes, act: Callable[[], None]) -> None:
        self.place = place
        self.name = name
        self.act = act

    def __lt__(self, other: _Act) -> bool:
        """Whether it is to come later: the list ends with what is next."""
        if self.place is other.place:
            return self.name > other.name
        return self.place.path_of(self.name) > other.place.path_of(other.name)


class Later:
    """Most of what comes is next, as the way leads down: then it costs one comparison."""

    def __init__(self) -> None:
        self._acts: list[_Act] = []

    def __len__(self) -> int:
        return len(self._acts)

    def add(self, place: Below, name: bytes, act: Callable[[], None]) -> None:
        """``act`` is about ``name`` in the directory ``place``."""
        new = _Act(place, name, act)
        if not self._acts or self._acts[-1] < new:
            self._acts.append(new)
        else:
            insort(self._acts, new)

    def next(self) -> Callable[[], None]:
        """Take out what comes first."""
        return self._acts.pop().act
