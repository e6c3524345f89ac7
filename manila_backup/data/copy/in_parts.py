# SPDX-License-Identifier: Apache-2.0
"""The coordinator's part in a file that several workers do at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import Generic, TypeVar

from manila_backup.data.copy.dispatch import Dispatch
from manila_backup.data.copy.tasks import Outcome, Task

F = TypeVar("F")
T = TypeVar("T", bound=Task)


class InParts(ABC, Generic[F, T]):
    """One file (``F`` says which) in tasks (``T``), each a part of it: :meth:`begin` when it has
    been made in the target; then the parts, some at once; then it is sealed. If a part or the seal
    fails it is discarded, which ends with :meth:`give_up`.
    """

    def __init__(self, desk: Dispatch, *, width: int) -> None:
        """``width``: parts in work at once."""
        self.desk = desk
        self._width = width
        self._parts: Iterator[T] = iter(())
        self._in_work = 0
        self._failed = False
        self.file: F | None = None
        """What lies in the target, unfinished."""

    def begin(self, file: F, parts: Iterator[T]) -> None:
        self.file = file
        self._parts = parts
        for _ in range(self._width):
            self._next_part(file)
        if not self._in_work:
            self._seal(file)

    def _next_part(self, file: F) -> None:
        task = None if self._failed else next(self._parts, None)
        if task is None:
            return
        self._in_work += 1
        self.desk.add(task, partial(self._part_done, file, task))

    def _part_done(self, file: F, task: T, outcome: Outcome) -> None:
        self._in_work -= 1
        if not self.take_part(task, outcome):
            self._failed = True
        self._next_part(file)
        if self._in_work:
            return
        if self._failed:
            self._discard(file)
        else:
            self._seal(file)

    def _seal(self, file: F) -> None:
        self.desk.add(self.seal_task(file), partial(self._sealed, file))

    def _sealed(self, file: F, outcome: Outcome) -> None:
        if self.take_seal(file, outcome):
            self.file = None
        else:
            self._discard(file)

    def _discard(self, file: F) -> None:
        def discarded(outcome: Outcome) -> None:
            self.file = None
            self.give_up()

        self.desk.add(self.discard_task(file), discarded)

    @abstractmethod
    def take_part(self, task: T, outcome: Outcome) -> bool:
        """Whether it succeeded."""

    @abstractmethod
    def take_seal(self, file: F, outcome: Outcome) -> bool:
        """Whether it succeeded: then nothing follows."""

    @abstractmethod
    def give_up(self) -> None:
        """Nothing of the file is left."""

    @abstractmethod
    def seal_task(self, file: F) -> Task: ...

    @abstractmethod
    def discard_task(self, file: F) -> Task: ...
