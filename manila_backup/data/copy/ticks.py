# SPDX-License-Identifier: Apache-2.0
"""How often a large file lets others have a word."""

from __future__ import annotations

from collections.abc import Callable

from manila_backup.data.copy.tally import Tally
from manila_backup.exception import Cancelled

CANCEL_BYTES = 4 << 20
REPORT_BYTES = 16 << 20


class Ticks:
    """Counts content into the tally; asks ``cancelled`` and reports while it passes."""

    def __init__(self, tally: Tally, cancelled: Callable[[], bool]) -> None:
        self._tally = tally
        self._cancelled = cancelled
        self._until_asked = CANCEL_BYTES
        self._until_reported = REPORT_BYTES

    def content(self, count_bytes: int) -> None:
        """:raises Cancelled:"""
        self._tally.bytes += count_bytes
        self._until_asked -= count_bytes
        self._until_reported -= count_bytes
        if self._until_asked <= 0:
            self._until_asked = CANCEL_BYTES
            self.check()
        if self._until_reported <= 0:
            self._until_reported = REPORT_BYTES
            self._tally.report()

    def check(self) -> None:
        """:raises Cancelled:"""
        if self._cancelled():
            raise Cancelled
