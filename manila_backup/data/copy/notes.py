# SPDX-License-Identifier: Apache-2.0
"""What one task of a copy has done: counters, and the paths behind them, for the tally."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from manila_backup.data.copy.rate import RateLimit
from manila_backup.exception import Cancelled

CANCEL_BYTES = 4 << 20
REPORT_BYTES = 16 << 20
_PACE_S = 0.2
"""How long nobody can cancel while a rate is kept to."""


Path = bytes


@dataclass(slots=True)
class Notes:
    """Mutable and picklable. Paths are raw; a task is bounded, and so are they. ``paced_s``: how
    long it was held back to keep to a rate."""

    files: int = 0
    directories: int = 0
    others: int = 0
    bytes: int = 0
    logical_bytes: int = 0
    warnings: int = 0
    deleted: int = 0
    skipped: list[Path] = field(default_factory=list)
    changed: list[Path] = field(default_factory=list)
    lost: list[tuple[Path, tuple[str, ...]]] = field(default_factory=list)
    paced_s: float = 0.0

    def skip(self, path: Path) -> None:
        """It vanished, or was swapped for something else while it was looked at."""
        self.skipped.append(path)

    def change(self, path: Path) -> None:
        """Somebody else changed it meanwhile."""
        self.changed.append(path)

    def lose(self, path: Path, losses: Iterable[str]) -> None:
        """What the target could not hold of this entry."""
        labels = tuple(losses)
        if labels:
            self.lost.append((path, labels))


class Pulse:
    """How a task in work lets others have a word: between entries, and while a large file passes.

    ``live`` hears the notes so far; ``cancelled`` is asked as often. ``is_asked_to_share`` says
    whether others have nothing to do: what is left of a long task is to be given back.
    """

    def __init__(
        self,
        cancelled: Callable[[], bool],
        live: Callable[[Notes], None],
        rate_path: str | None = None,
        *,
        is_asked_to_share: Callable[[], bool] = lambda: False,
    ) -> None:
        """:raises WorkerDied: the node that sets the rate is gone."""
        self.is_asked_to_share = is_asked_to_share
        self._rate = RateLimit(rate_path) if rate_path is not None else None
        self._cancelled = cancelled
        self._is_cancelled = False
        self._live = live
        self.notes = Notes()
        self._until_asked = CANCEL_BYTES
        self._until_reported = REPORT_BYTES

    def cancelled(self) -> bool:
        """Once it said so it goes on saying so."""
        self._is_cancelled = self._is_cancelled or self._cancelled()
        return self._is_cancelled

    def start(self) -> Notes:
        """Fresh notes for a new task; they become its own."""
        self.notes = Notes()
        return self.notes

    def entry(self) -> None:
        """:raises Cancelled:"""
        self.check()
        self._live(self.notes)

    def content(self, count_bytes: int) -> None:
        """:raises Cancelled:"""
        self.notes.bytes += count_bytes
        self._until_asked -= count_bytes
        self._until_reported -= count_bytes
        if self._until_asked <= 0:
            self._until_asked = CANCEL_BYTES
            self.check()
        if self._until_reported <= 0:
            self._until_reported = REPORT_BYTES
            self._live(self.notes)
        self.pace(count_bytes)

    def pace(self, count_bytes: int) -> None:
        """So much content has passed: wait as long as the rate wants it, or until another is set.

        :raises Cancelled:
        """
        if self._rate is None or not count_bytes:
            return
        begun_s = time.monotonic()
        until_s = begun_s + self._rate.debt_s(count_bytes)
        while (left_s := until_s - time.monotonic()) > 0 and not self._rate.is_forgiven:
            time.sleep(min(left_s, _PACE_S))
            self.check()
        self.notes.paced_s += time.monotonic() - begun_s

    def check(self) -> None:
        """:raises Cancelled:"""
        if self._is_cancelled or self.cancelled():
            raise Cancelled
