# SPDX-License-Identifier: Apache-2.0
"""The coordinator's part in a file that several workers do at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Generic, TypeVar

from manila_backup.data.copy.dispatch import Dispatch
from manila_backup.data.copy.tasks import Outcome, Task

T = TypeVar("T", bound=Task)


class InParts(Generic[T]):
    """The parts of one file, some in work at once."""

    def __init__(
        self,
        desk: Dispatch,
        parts: Iterator[T],
        *,
        take: Callable[[T, Outcome], bool],
        done: Callable[[bool], None],
        width: int,
    ) -> None:
        """``take`` hears what came of a part and says whether it succeeded: if not, no further one
        is begun. ``done`` is called once, when none is in work any more: with True if all are
        there. ``width``: parts in work at once."""
        self._desk = desk
        self._parts = parts
        self._take = take
        self._done = done
        self._width = width
        self._in_work = 0
        self._failed = False

    def start(self) -> None:
        for _ in range(self._width):
            self._next()
        if not self._in_work:
            self._done(True)

    def _next(self) -> None:
        task = None if self._failed else next(self._parts, None)
        if task is not None:
            self._in_work += 1
            self._desk.add(task, partial(self._ended, task))

    def _ended(self, task: T, outcome: Outcome) -> None:
        self._in_work -= 1
        if not self._take(task, outcome):
            self._failed = True
        self._next()
        if not self._in_work:
            self._done(not self._failed)
