# SPDX-License-Identifier: Apache-2.0
"""How far a copy is, for people who wait: rates, percent, time left, on one line.

Of a tree that is being measured while it is copied nobody knows the end. So percent and time left
appear when the measuring walk is through; percent never falls, and is 100 only when all is done.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from manila_backup.types import Counters

ENTRY_BYTES = 32 << 10
"""What one entry costs beside its content, in bytes that could be copied in the same time."""

RECENT_S = 5.0
TERMINAL_EVERY_S = 0.25
PLAIN_EVERY_S = 5.0
_JOIN_S = 1.0
_CLEAR = "\r\x1b[K"
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """What there is to do. ``is_known`` False: so much was found so far, ``bytes`` mean nothing."""

    entries: int
    bytes: int
    is_known: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a line shows; None is not known."""

    phase: str
    percent: int | None
    left_s: float | None
    entries: int
    total: Total
    deleted: int
    bytes: int
    recent_files_s: float
    recent_bytes_s: float
    mean_files_s: float
    mean_bytes_s: float


@dataclass(frozen=True, slots=True)
class _Sample:
    at_s: float
    files: int
    bytes: int
    work: float


def entries_of(counters: Counters) -> int:
    """Entries dealt with, the skipped ones included."""
    return counters.files + counters.directories + counters.others + counters.skipped


class Meter:
    """Turns counters into a view. ``passes`` is how often all the content is gone through."""

    def __init__(self, *, passes: int, clock: Callable[[], float]) -> None:
        self._passes = passes
        self._clock = clock
        self._total = Total(entries=0, bytes=0, is_known=False)
        self._passes_done = 0
        self._percent = 0
        self._is_between = False  # a pass is done and the next one, if any, not begun
        self._is_finished = False
        self._started_s = clock()
        self._restart("copying", self._started_s)

    def _restart(self, phase: str, since_s: float) -> None:
        self.phase = phase
        self._entries = self._bytes = self._deleted = self._files = 0
        self._first = _Sample(since_s, 0, 0, 0.0)
        self._samples = deque([self._first])

    def pass_done(self, counters: Counters) -> None:
        """All has been gone through once; what the counters say is the total from now on."""
        self._total = Total(entries=entries_of(counters), bytes=counters.bytes, is_known=True)
        self._passes_done += 1
        self._is_between = True

    def next_pass(self, phase: str) -> None:
        """Counters begin at zero again, and rates with them."""
        self._restart(phase, self._clock())
        self._is_between = False

    def finish(self) -> None:
        """All is done: what is seen from now on is about all the time since the beginning."""
        self._is_finished = True
        self._restart("done", self._started_s)

    def view(self, counters: Counters, total: Total) -> View:
        """Counters that fall (a file is copied a second time) stand still here."""
        self._see(counters)
        if not self._passes_done:
            self._total = total
        first, last = self._samples[0], self._samples[-1]
        recent_s = last.at_s - first.at_s
        mean_s = last.at_s - self._first.at_s
        return View(
            phase=self.phase,
            percent=self._percent_now(),
            left_s=self._left_s(last.work - first.work, recent_s, last.work, mean_s),
            entries=self._entries,
            total=self._total,
            deleted=self._deleted,
            bytes=self._bytes,
            recent_files_s=_per(last.files - first.files, recent_s),
            recent_bytes_s=_per(last.bytes - first.bytes, recent_s),
            mean_files_s=_per(last.files, mean_s),
            mean_bytes_s=_per(last.bytes, mean_s),
        )

    def _see(self, counters: Counters) -> None:
        self._entries = max(self._entries, entries_of(counters))
        self._files = max(self._files, counters.files)
        self._bytes = max(self._bytes, counters.bytes)
        self._deleted = max(self._deleted, counters.deleted)
        now_s = self._clock()
        self._samples.append(_Sample(now_s, self._files, self._bytes, self._work_of_pass()))
        while len(self._samples) > 2 and self._samples[1].at_s <= now_s - RECENT_S:
            self._samples.popleft()

    def _work_of_pass(self) -> float:
        return self._entries * ENTRY_BYTES + self._bytes

    def _share_done(self) -> float | None:
        """Of all passes, 0 to 1."""
        if self._is_finished:
            return 1.0
        if not self._total.is_known:
            return None
        all_work = self._total.entries * ENTRY_BYTES + self._total.bytes
        is_under_way = all_work and not self._is_between
        of_pass = min(1.0, self._work_of_pass() / all_work) if is_under_way else 0.0
        return min(1.0, (self._passes_done + of_pass) / self._passes)

    def _percent_now(self) -> int | None:
        if self._is_finished:
            return 100
        share = self._share_done()
        if share is None:
            return None
        self._percent = max(self._percent, min(99, int(100 * share)))
        return self._percent

    def _left_s(self, recent: float, recent_s: float, whole: float, whole_s: float) -> float | None:
        """From the mean of the rates of now and of all the time: one jumps, one is slow to see."""
        share = self._share_done()
        rate = (_per(recent, recent_s) + _per(whole, whole_s)) / 2
        if share is None or share >= 1.0 or not rate:
            return None
        all_work = self._passes * (self._total.entries * ENTRY_BYTES + self._total.bytes)
        return (1.0 - share) * all_work / rate


def _per(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


# --- text -----------------------------------------------------------------------------------------


def size(count_bytes: float) -> str:
    """In decimal units, three digits."""
    unit = 0
    while count_bytes >= 999.5 and unit < len(_UNITS) - 1:
        count_bytes /= 1000
        unit += 1
    digits = 0 if unit == 0 or count_bytes >= 99.95 else 1 if count_bytes >= 9.995 else 2
    return f"{count_bytes:.{digits}f} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def line(view: View, width: int | None = None) -> str:
    """What matters most comes first; what has no room in ``width`` characters is left out."""
    total = view.total
    known = "" if total.is_known else "+"
    parts = [view.phase]
    if view.percent is not None:
        parts.append(f"{view.percent} %")
    if view.left_s is not None:
        parts.append(f"{duration(view.left_s)} left")
    of_total = f"/{max(total.entries, view.entries):,}{known}" if total.entries else ""
    parts.append(f"{view.entries:,}{of_total} entries")
    parts.append(size(view.bytes))
    if view.percent != 100:
        parts.append(f"{view.recent_files_s:,.0f} files/s {size(view.recent_bytes_s)}/s")
    parts.append(f"(mean {view.mean_files_s:,.0f} files/s {size(view.mean_bytes_s)}/s)")
    if view.deleted:
        parts.append(f"{view.deleted:,} deleted")
    text = parts[0]
    for part in parts[1:]:
        if width is not None and len(text) + 2 + len(part) > width:
            break
        text += "  " + part
    return text if width is None else text[:width]


# --- the display ----------------------------------------------------------------------------------


def is_terminal(stream: TextIO) -> bool:
    """Whether a line can be redrawn in place there."""
    try:
        return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    except ValueError:  # closed
        return False


class Display:
    """Draws in a thread of its own, so that it goes on while the copy waits for a server.

    ``report`` is for the engine: cheap, from any thread. A stream that cannot be written to any
    more (the terminal is gone) ends the display and nothing else.
    """

    def __init__(
        self,
        stream: TextIO,
        meter: Meter,
        *,
        total: Callable[[], Total],
        redraw: bool,
        every_s: float | None = None,
    ) -> None:
        self._stream = stream
        self._meter = meter
        self._total = total
        self._redraw = redraw
        self._every_s = every_s or (TERMINAL_EVERY_S if redraw else PLAIN_EVERY_S)
        self._counters = Counters()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def report(self, counters: Counters) -> None:
        self._counters = counters

    def syncing(self, copied: Counters) -> None:
        """The copy is through; these are its final counters, and stay to be seen."""
        with self._lock:
            self._counters = copied
            self._meter.pass_done(copied)
            self._meter.phase = "syncing"

    def verifying(self) -> None:
        with self._lock:
            self._counters = Counters()
            self._meter.next_pass("verifying")

    def end(self, *, finished: Counters | None) -> None:
        """Idempotent. ``finished``: all is done, and these are shown with 100 percent."""
        if self._ended.is_set():
            return
        self._ended.set()
        # A terminal that was stopped (Ctrl-S) holds the thread: what has to be said is said anyway.
        self._thread.join(_JOIN_S)
        if self._thread.is_alive():
            return
        if finished is not None:
            self._meter.finish()
            self._counters = finished
        with contextlib.suppress(OSError, ValueError):
            self._draw(last=True)

    def _run(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while not self._ended.wait(self._every_s):
                self._draw(last=False)

    def _draw(self, *, last: bool) -> None:
        with self._lock:
            view = self._meter.view(self._counters, self._total())
        if self._redraw:
            text = _CLEAR + line(view, _width(self._stream)) + ("\n" if last else "")
        else:
            text = line(view) + "\n"
        self._stream.write(text)
        self._stream.flush()


def _width(stream: TextIO) -> int:
    """One less than the terminal's: a full line would wrap."""
    try:
        return max(1, os.get_terminal_size(stream.fileno()).columns - 1)
    except (OSError, ValueError):
        return 79
