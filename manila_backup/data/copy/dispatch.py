# SPDX-License-Identifier: Apache-2.0
"""The coordinator's desk: tasks out to the crew, outcomes back to whoever waits for them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from manila_backup.data.copy.crew import Bundle, Crew, Done, InlineCrew
from manila_backup.data.copy.notes import Notes
from manila_backup.data.copy.tally import Tally
from manila_backup.data.copy.tasks import Outcome, Task, weight_of
from manila_backup.exception import Cancelled

_WAIT_S = 0.2
"""How long nobody asks whether to cancel, at most."""

_FIRST_BATCH = 16

_LONG_S = 0.1

Handler = Callable[[Outcome], None]


class _Queued(NamedTuple):
    task: Task
    handler: Handler
    weight: int


class Dispatch:
    """Begins with one worker in the caller's thread; :meth:`spread` starts a larger crew.

    Handlers are called in :meth:`collect`, in the coordinator's thread; they may add tasks.
    """

    def __init__(
        self,
        inline: InlineCrew[Task],
        start: Callable[[], Crew[Task]] | None,
        tally: Tally,
        cancelled: Callable[[], bool],
    ) -> None:
        """``start`` None: there is to be no larger crew. The inline one stays the caller's."""
        self._inline = inline
        self._crew: Crew[Task] = inline
        self._start = start
        self._tally = tally
        self._cancelled = cancelled
        self._queue: deque[_Queued] = deque()
        self._weight = 0  # of what is queued, in entries
        self._handed_out: dict[int, _Queued] = {}
        self._done: deque[Done] = deque()
        self._number = 0
        self._since_s = time.monotonic()

    @property
    def batch(self) -> int:
        """How many entries a bundle should have: few, until it is known how long they take."""
        return _FIRST_BATCH if self._start is not None else self._crew.batch

    @property
    def long_batch(self) -> int:
        """How many entries a task may have if what is left of it can be given back."""
        return _FIRST_BATCH if self._start is not None else self._crew.long_batch

    @property
    def is_inline(self) -> bool:
        """Whether tasks are done while :meth:`collect` waits for them."""
        return self._crew is self._inline

    @property
    def in_work(self) -> int:
        """Tasks."""
        return len(self._handed_out)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def room(self) -> int:
        """How many more entries than those queued can be in work."""
        if self.is_inline:
            return self._crew.room * self.batch if not self._queue else 0
        return self._crew.room * self.batch - self._weight

    @property
    def is_bundle(self) -> bool:
        """Whether what is queued is worth handing out."""
        return self._weight >= self.batch or (self.is_inline and bool(self._queue))

    def add(self, task: Task, handler: Handler) -> None:
        queued = _Queued(task, handler, weight_of(task, self.batch))
        self._queue.append(queued)
        self._weight += queued.weight

    def spread(self, *, is_much: bool) -> None:
        """There is more to do. If that is much, or if it has taken some time already, it is worth
        the larger crew. To be called when nothing is in work; does nothing once it is there.
        """
        if self._start is None or self._handed_out:
            return
        if is_much or time.monotonic() - self._since_s > _LONG_S:
            self._crew, self._start = self._start(), None

    def submit(self, *, is_all: bool = False) -> None:
        """Hand out what there is room for. ``is_all``: nothing more can be added before something
        in work has ended."""
        while self._queue and self._crew.room:
            self._crew.submit(self._next_bundle())
        self._crew.share(is_all_given_out=is_all and not self._queue)

    def _next_bundle(self) -> Bundle[Task]:
        """As many as one worker should do: not so many that others have none."""
        left = 1 if self.is_inline else min(self.batch, self._weight // self._crew.room)
        bundle: list[tuple[int, Task]] = []
        while self._queue and (left > 0 or not bundle):
            queued = self._queue.popleft()
            left -= queued.weight
            self._weight -= queued.weight
            self._number += 1
            self._handed_out[self._number] = queued
            bundle.append((self._number, queued.task))
        return bundle

    def _give_back(self, queued: list[_Queued]) -> None:
        """They were not begun, and come first again."""
        self._queue.extendleft(reversed(queued))
        self._weight += sum(item.weight for item in queued)

    def collect(self) -> None:
        """Wait for outcomes, and call their handlers.

        :raises CopyFailed: and whatever else a task has raised.
        :raises Cancelled:
        """
        self._done.extend(self._crew.wait(_WAIT_S))
        not_begun: list[_Queued] = []
        while self._done:
            number, result = self._done.popleft()
            queued = self._handed_out.pop(number)
            if isinstance(result, BaseException):
                raise result
            if result is None:
                not_begun.append(queued)
                continue
            self._tally.take(result.notes)
            queued.handler(result)
        self._give_back(not_begun)
        if self._crew is self._inline:
            self._tally.report()
            return
        self._tally.live(Notes(bytes=self._crew.live_bytes()))
        if self._cancelled():
            raise Cancelled

    def close(self) -> list[Outcome]:
        """Stops what is in work and waits for its end. Answers what had been done all the same."""
        if self._crew is not self._inline:
            self._done.extend(self._crew.close())
        return [result for _, result in self._done if isinstance(result, Outcome)]
