# SPDX-License-Identifier: Apache-2.0
"""Progress of a driver's work, out of the copy engine's counters."""

from __future__ import annotations

from manila_backup.data.drivers.base import Control, Progress
from manila_backup.types import Counters

ENTRY_BYTES = 4096
"""What an entry weighs besides its content, so that a tree of empty files progresses, too."""


class Meter:
    """Reports in bytes, never backwards, and complete only when :meth:`finish` is called.

    Call it with the counters as they grow. A tree that is larger than it was measured raises the
    total.
    """

    def __init__(self, control: Control, *, content_bytes: int, entries: int) -> None:
        self._report = control.progress
        self._done = 0
        self._total = content_bytes + ENTRY_BYTES * entries
        self.counters = Counters()
        self(self.counters)

    def __call__(self, counters: Counters) -> None:
        seen = counters.files + counters.directories + counters.others + counters.skipped
        self.counters = counters
        self._done = max(self._done, counters.bytes + ENTRY_BYTES * seen)
        if self._done >= self._total:
            self._total = self._done + ENTRY_BYTES
        self._tell()

    def finish(self, counters: Counters) -> None:
        """All is done: what was expected and did not come will not come."""
        self.counters = counters
        self._done = self._total
        self._tell()

    def _tell(self) -> None:
        self._report(
            Progress(done=self._done, total=self._total, unit="bytes", counters=self.counters)
        )
