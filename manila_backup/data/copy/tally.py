# SPDX-License-Identifier: Apache-2.0
"""What has been done so far: the counters, and the names of what did not go smoothly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from manila_backup.data.copy.base import CopyResult
from manila_backup.data.copy.notes import Notes
from manila_backup.names import printable
from manila_backup.types import Counters, Remarks

NAMES_KEPT = 100
_PATHS_REMEMBERED = 10_000
"""Beyond these a path that changes twice is counted twice; memory stays bounded."""


class Tally:
    """Mutable; one per operation. ``report`` hands the counters to the caller's ``progress``."""

    def __init__(self, progress: Callable[[Counters], None]) -> None:
        self._progress = progress
        self._changed: list[str] = []
        self._skipped: list[str] = []
        self._losses: list[str] = []
        self._noted: set[bytes] = set()
        self.files = 0
        self.directories = 0
        self.others = 0
        self.bytes = 0
        self.logical_bytes = 0
        self.warnings = 0
        self.deleted = 0
        self.skipped = 0
        self.changed = 0
        self.losses = 0
        self.times_lost = False
        self._shown_bytes = 0

    def report(self) -> None:
        self._show(self.counters())

    def _show(self, counters: Counters) -> None:
        """Never backwards: what is copied again, since it changed, was seen passing already."""
        self._shown_bytes = max(self._shown_bytes, counters.bytes)
        if counters.bytes < self._shown_bytes:
            counters = replace(counters, bytes=self._shown_bytes)
        self._progress(counters)

    def live(self, notes: Notes) -> None:
        """Report with what a task under way has done so far."""
        now = self.counters()
        self._show(
            replace(
                now,
                files=now.files + notes.files,
                directories=now.directories + notes.directories,
                others=now.others + notes.others,
                bytes=now.bytes + notes.bytes,
                deleted=now.deleted + notes.deleted,
            )
        )

    def take(self, notes: Notes) -> None:
        """Add what a task has done."""
        self.files += notes.files
        self.directories += notes.directories
        self.others += notes.others
        self.bytes += notes.bytes
        self.logical_bytes += notes.logical_bytes
        self.warnings += notes.warnings
        self.deleted += notes.deleted
        for path in notes.skipped:
            self.skip(path)
        for path in notes.changed:
            self.change(path)
        for path, losses in notes.lost:
            self.lose(path, losses)

    def counters(self) -> Counters:
        return Counters(
            files=self.files,
            directories=self.directories,
            others=self.others,
            bytes=self.bytes,
            skipped=self.skipped,
            changed=self.changed,
            losses=self.losses,
            warnings=self.warnings,
            deleted=self.deleted,
        )

    def result(self) -> CopyResult:
        return CopyResult(
            counters=self.counters(),
            logical_bytes=self.logical_bytes,
            remarks=Remarks(
                changed=tuple(self._changed),
                skipped=tuple(self._skipped),
                losses=tuple(self._losses),
            ),
        )

    def skip(self, path: bytes) -> None:
        """It vanished, or was swapped for something else while it was looked at."""
        self.skipped += 1
        self._remember(path)
        if len(self._skipped) < NAMES_KEPT:
            self._skipped.append(printable(path))

    def change(self, path: bytes) -> None:
        """Somebody else changed it meanwhile. A path counts once, however often it is seen."""
        if path in self._noted:
            return
        self._remember(path)
        self.changed += 1
        if len(self._changed) < NAMES_KEPT:
            self._changed.append(printable(path))

    def lose(self, path: bytes, losses: Iterable[str]) -> None:
        """What the target could not hold of this entry."""
        for loss in losses:
            self.losses += 1
            self.times_lost = self.times_lost or loss == "time"
            if loss == "special":
                self._remember(path)
            if len(self._losses) < NAMES_KEPT:
                self._losses.append(f"{printable(path)}: {loss}")

    def _remember(self, path: bytes) -> None:
        if len(self._noted) < _PATHS_REMEMBERED:
            self._noted.add(path)
