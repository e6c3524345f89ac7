# SPDX-License-Identifier: Apache-2.0
"""Waiting for what other processes do: always with a deadline, never for a fixed time."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import TypeVar

from tests.support.waiting import looks

T = TypeVar("T")

DEADLINE_S = 120.0
"""Far beyond what anything takes on an idle machine; whoever waits for it has failed."""

_LOOK_EVERY_S = 0.02


def until(
    look: Callable[[], T | None],
    what: str,
    *,
    deadline_s: float = DEADLINE_S,
    every_s: float = _LOOK_EVERY_S,
) -> T:
    """Look until there is something to be seen, and return it. False and None are nothing.

    :param every_s: in the beginning; the longer it takes, the seldomer.
    """
    for _ in looks(deadline_s, first_s=every_s):
        found = look()
        if found:
            return found
    raise AssertionError(f"within {deadline_s:g} s not seen: {what}")


class Watched:
    """Processes that are recognised even when their pids are used again."""

    def __init__(self, pids: list[int]) -> None:
        self._fds: dict[int, int] = {}
        for pid in pids:
            try:
                self._fds[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                continue

    def __len__(self) -> int:
        return len(self._fds)

    def living(self, *, deadline_s: float) -> list[int]:
        """Those that have not ended by the deadline. To be called once."""
        end_s = time.monotonic() + deadline_s
        left = []
        for pid, fd in self._fds.items():
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            if not poll.poll(max(0.0, end_s - time.monotonic()) * 1000):
                left.append(pid)
            os.close(fd)
        self._fds.clear()
        return left
