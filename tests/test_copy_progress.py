# SPDX-License-Identifier: Apache-2.0
"""What ``manila-backup-copy`` shows while it works and says at the end; no process, no waiting."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manila_backup.cmd.copy_progress import (
    ENTRY_BYTES,
    RECENT_S,
    Display,
    Meter,
    Total,
    duration,
    is_terminal,
    line,
    size,
)
from manila_backup.cmd.copy_report import Failure, Outcome, Result, as_json, reservations, summary
from manila_backup.cmd.copy_survey import Survey
from manila_backup.types import Counters, Remarks

DEADLINE_S = 60.0
MB = 1_000_000
NOTHING = Total(entries=0, bytes=0, is_known=False)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def known(entries: int, count_bytes: int) -> Total:
    return Total(entries=entries, bytes=count_bytes, is_known=True)


# --- percent and time left ------------------------------------------------------------------------


def test_without_a_total_there_is_neither_percent_nor_time_left() -> None:
    clock = Clock()
    meter = Meter(passes=1, clock=clock)
    clock.now_s += 1
    found = Total(entries=70, bytes=0, is_known=False)
    view = meter.view(Counters(files=40, directories=2, bytes=4 * MB), found)
    assert (view.percent, view.left_s, view.entries, view.total) == (None, None, 42, found)
    assert "42/70+ entries" in line(view)
    assert "%" not in line(view)
    assert "left" not in line(view)


def test_half_of_the_work_after_ten_seconds_leaves_ten() -> None:
    clock = Clock()
    meter = Meter(passes=1, clock=clock)
    for _ in range(10):
        clock.now_s += 1
        elapsed_s = clock.now_s - 1000
        counters = Counters(files=int(5 * elapsed_s), bytes=int(MB * elapsed_s))
        view = meter.view(counters, known(100, 20 * MB))
    assert (view.percent, view.left_s) == (50, pytest.approx(10.0))
    assert (view.recent_files_s, view.mean_files_s) == pytest.approx((5.0, 5.0))
    assert (view.recent_bytes_s, view.mean_bytes_s) == pytest.approx((MB, MB))


def test_reading_back_is_half_of_it() -> None:
    clock = Clock()
    meter = Meter(passes=2, clock=clock)
    done = Counters(files=10, bytes=MB)
    clock.now_s += 4
    assert meter.view(done, known(10, MB)).percent == 50
    meter.pass_done(done)
    assert meter.view(done, NOTHING).percent == 50
    meter.next_pass("verifying")
    assert meter.view(Counters(), NOTHING).percent == 50
    clock.now_s += 1
    view = meter.view(Counters(files=5, bytes=MB // 2), NOTHING)
    assert (view.percent, view.left_s) == (75, pytest.approx(1.0))


def test_recent_rates_forget_and_mean_ones_do_not() -> None:
    clock = Clock()
    meter = Meter(passes=1, clock=clock)
    for _ in range(10):
        clock.now_s += 1
        view = meter.view(Counters(files=100, bytes=10 * MB), NOTHING)
    assert (view.recent_files_s, view.recent_bytes_s) == (0, 0)
    assert (view.mean_files_s, view.mean_bytes_s) == pytest.approx((10, MB))
    clock.now_s += RECENT_S
    view = meter.view(Counters(files=150, bytes=10 * MB), NOTHING)
    assert view.recent_files_s == pytest.approx(50 / RECENT_S)


def test_a_standstill_says_nothing_of_the_time_left() -> None:
    clock = Clock()
    meter = Meter(passes=1, clock=clock)
    clock.now_s += 1
    assert meter.view(Counters(), known(10, 10)).left_s is None


@given(
    st.lists(
        st.tuples(
            st.floats(0, 20),
            st.integers(0, 500),
            st.integers(0, 1 << 40),
            st.one_of(st.none(), st.tuples(st.integers(0, 300), st.integers(0, 1 << 39))),
        ),
        max_size=30,
    ),
    st.sampled_from([1, 2]),
)
def test_percent_never_falls_and_is_100_only_at_the_end(
    steps: list[tuple[float, int, int, tuple[int, int] | None]], passes: int
) -> None:
    """Whatever comes: totals that appear late or are too low, counters that fall."""
    clock = Clock()
    meter = Meter(passes=passes, clock=clock)
    shown = [0]
    entries = count_bytes = 0
    counters = Counters()

    def look(total: Total) -> None:
        nonlocal entries, count_bytes
        view = meter.view(counters, total)
        shown.append(shown[-1] if view.percent is None else view.percent)
        assert (view.entries, view.bytes) >= (entries, count_bytes)
        assert view.left_s is None or view.left_s >= 0
        assert len(line(view, 79)) <= 79
        entries, count_bytes = view.entries, view.bytes

    for number in range(passes):
        for passed_s, files, content, total in steps:
            clock.now_s += passed_s
            counters = Counters(files=files, bytes=content)
            look(NOTHING if total is None else known(*total))
        meter.pass_done(counters)
        look(NOTHING)
        if number + 1 < passes:
            meter.next_pass("verifying")
            entries = count_bytes = 0
    assert shown == sorted(shown)
    assert shown[-1] < 100
    meter.finish()
    assert meter.view(counters, NOTHING).percent == 100


def test_a_total_that_is_too_low_does_not_end_it() -> None:
    clock = Clock()
    meter = Meter(passes=1, clock=clock)
    clock.now_s += 1
    view = meter.view(Counters(files=50, bytes=MB), known(10, ENTRY_BYTES))
    assert (view.percent, view.left_s) == (99, None)
    assert "50/50 entries" in line(view)


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.7, "1.00 kB"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_995, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (12_345_678, "12.3 MB"),
        (3.21e15, "3.21 PB"),
        (1 << 64, "18.4 EB"),
        (1e22, "10000 EB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (59.6, "0:01:00"), (3599, "0:59:59"), (90061, "25:01:01")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_line_leaves_out_what_has_no_room_beginning_at_its_end() -> None:
    clock = Clock()
    meter = Meter(passes=1, clock=clock)
    clock.now_s += 2
    counters = Counters(files=2000, directories=10, bytes=3 * MB, deleted=7)
    view = meter.view(counters, known(4020, 6 * MB))
    whole = (
        "copying  50 %  0:00:02 left  2,010/4,020 entries  3.00 MB  1,000 files/s 1.50 MB/s"
        "  (mean 1,000 files/s 1.50 MB/s)  7 deleted"
    )
    assert line(view) == whole
    for width in range(1, len(whole) + 1):
        short = line(view, width)
        assert len(short) <= width
        assert whole.startswith(short)
    assert line(view, 50) == "copying  50 %  0:00:02 left  2,010/4,020 entries"


# --- the display ----------------------------------------------------------------------------------


class Screen(io.StringIO):
    """Tells when something was written; refuses after ``room`` writes."""

    def __init__(self, room: int = 1 << 30) -> None:
        super().__init__()
        self._room = room
        self.seen = threading.Semaphore(0)

    def write(self, text: str) -> int:
        self.seen.release()
        if not self._room:
            raise OSError(5, "the terminal is gone")
        self._room -= 1
        return super().write(text)

    def wait(self) -> None:
        assert self.seen.acquire(timeout=DEADLINE_S)


def display(screen: Screen, *, redraw: bool, passes: int = 1, every_s: float = 0.001) -> Display:
    meter = Meter(passes=passes, clock=Clock())
    return Display(screen, meter, total=lambda: known(20, 20 * MB), redraw=redraw, every_s=every_s)


def test_plain_lines_are_whole_lines() -> None:
    screen = Screen()
    shown = display(screen, redraw=False)
    shown.start()
    shown.report(Counters(files=10, bytes=10 * MB))
    screen.wait()
    screen.wait()
    shown.end(finished=Counters(files=20, bytes=20 * MB))
    lines = screen.getvalue().splitlines()
    assert screen.getvalue().endswith("\n")
    assert "\r" not in screen.getvalue()
    assert "\x1b" not in screen.getvalue()
    assert all(text.startswith("copying  ") for text in lines[:-1])
    assert lines[-1].startswith("done  100 %  20/20 entries  20.0 MB  (mean ")


def test_on_a_terminal_it_is_one_line() -> None:
    screen = Screen()
    shown = display(screen, redraw=True)
    shown.start()
    screen.wait()
    screen.wait()
    shown.end(finished=None)
    text = screen.getvalue()
    assert text.startswith("\r\x1b[Kcopying  0 %")
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert "100 %" not in text


def test_the_phases_are_seen() -> None:
    screen = Screen()
    shown = display(screen, redraw=False, passes=2)
    done = Counters(files=20, bytes=20 * MB)
    shown.start()
    for step in (lambda: None, lambda: shown.syncing(done), shown.verifying):
        step()
        while screen.seen.acquire(blocking=False):
            pass
        screen.wait()
        screen.wait()  # the first one may have been on its way
    shown.end(finished=done)
    phases = [text.split()[0] for text in screen.getvalue().splitlines()]
    assert list(dict.fromkeys(phases)) == ["copying", "syncing", "verifying", "done"]


def test_a_terminal_that_is_gone_ends_the_display_and_nothing_else() -> None:
    screen = Screen(room=1)
    shown = display(screen, redraw=True)
    shown.start()
    screen.wait()
    screen.wait()
    shown.report(Counters(files=1))
    shown.end(finished=Counters(files=2))
    assert "done" not in screen.getvalue()


def test_it_ends_once() -> None:
    screen = Screen()
    shown = display(screen, redraw=False, every_s=DEADLINE_S)
    shown.start()
    shown.end(finished=Counters(files=20))
    shown.end(finished=None)
    assert screen.getvalue().count("\n") == screen.getvalue().count("done") == 1


@pytest.mark.parametrize(("term", "expected"), [("xterm", True), ("dumb", False), (None, False)])
def test_what_a_terminal_is(
    monkeypatch: pytest.MonkeyPatch, term: str | None, expected: bool
) -> None:
    if term is None:
        monkeypatch.delenv("TERM", raising=False)
    else:
        monkeypatch.setenv("TERM", term)
    master, slave = pty.openpty()
    with open(master, "rb"), open(slave, "w", encoding="utf-8") as stream:
        assert is_terminal(stream) is expected
    assert not is_terminal(stream)
    assert not is_terminal(io.StringIO())


# --- the survey -----------------------------------------------------------------------------------


def test_it_finds_all_and_disturbs_nobody(tmp_path: Path) -> None:
    """The copy is in the middle of reading the same directory: two that read one open directory
    would each miss what the other one sees. Long names: the kernel hands out some hundred of them
    at a time.
    """
    expected = [f"{number:0200}" for number in range(600)]
    for name in expected:
        (tmp_path / name).touch()
    (tmp_path / expected[0]).write_bytes(bytes(8192))
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(fd) as reading:
            names = [next(reading).name]
            survey = Survey(fd)
            survey.start()
            survey._thread.join(DEADLINE_S)
            survey.end()
            names += [item.name for item in reading]
    finally:
        os.close(fd)
    assert sorted(names) == expected
    assert (survey.total().entries, survey.total().is_known) == (601, True)
    assert survey.total().bytes >= 8192


def test_it_opens_no_directory_that_is_closed(tmp_path: Path) -> None:
    """Even to its owner: the copy may be in it, and would find it closed when the survey leaves."""
    survey = Survey(-1)
    with pytest.raises(PermissionError):
        survey._files.chmod(os.fsencode(tmp_path), 0o700)


def test_ended_early_it_knows_what_it_has_seen(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        survey = Survey(fd)
        survey.end()
        survey.start()
        survey.end()
        assert survey.total() == NOTHING
    finally:
        os.close(fd)


# --- the end --------------------------------------------------------------------------------------

BASE = Outcome(
    source=b"/from\n",
    target=b"/to",
    result=Result.COMPLETE,
    counters=Counters(files=1500, directories=1, bytes=3 * MB),
    copy_s=1.5,
    sync_s=0.5,
)


@pytest.mark.parametrize(
    ("result", "number", "status"),
    [
        (Result.COMPLETE, None, 0),
        (Result.FAILED, None, 1),
        (Result.INCOMPLETE, None, 3),
        (Result.CANCELLED, 2, 130),
        (Result.CANCELLED, 15, 143),
    ],
)
def test_exit_status(result: Result, number: int | None, status: int) -> None:
    assert replace(BASE, result=result, signal=number).status == status


@pytest.mark.parametrize("kind", ["losses", "changed", "skipped", "warnings"])
def test_what_is_counted_is_not_exact(kind: str) -> None:
    assert BASE.is_exact
    assert not replace(BASE, counters=Counters(**{kind: 1})).is_exact


def test_summaries() -> None:
    assert summary(BASE) == (
        "complete: 1,500 files, 1 directory, 3.00 MB in 2.0 s (750 files/s, 1.50 MB/s)"
    )
    rich = replace(
        BASE,
        counters=Counters(files=1, directories=2, others=1, deleted=1200, bytes=10),
        verified=False,
        problem_count=2,
        verify_s=100.0,
    )
    assert summary(rich) == (
        "complete: 1 file, 2 directories, 1 other, 10 B, 1,200 deleted in 0:01:42"
        " (0 files/s, 5 B/s)\nverified: 2 problems"
    )
    assert summary(Outcome(source=b"", target=b"")) == (
        "failed: 0 files, 0 directories, 0 B in 0.0 s"
    )


def test_remarks_name_up_to_what_is_kept_and_count_the_rest() -> None:
    said = list(
        reservations(
            replace(
                BASE,
                result=Result.INCOMPLETE,
                counters=Counters(losses=1, changed=1002, skipped=1, warnings=3),
                remarks=Remarks(losses=("a: owner",), changed=("b", "c"), skipped=("d",)),
            )
        )
    )
    assert said == [
        "lost (the target does not hold it): 1",
        "  a: owner",
        "changed while it was copied: 1,002",
        "  b",
        "  c",
        "  and 1,000 more",
        "skipped (vanished or replaced meanwhile): 1",
        "  d",
        "left alone: mounts below SRC or DST, or files that are open elsewhere: 3",
    ]


def test_remarks_of_failures() -> None:
    again = "what was copied so far stays; a second run completes it"
    failure = Failure(path="a/b", errno=28, reason="No space left on device")
    failed = replace(BASE, result=Result.FAILED, failure=failure)
    assert list(reservations(failed)) == ["failed: a/b: No space left on device (errno 28)", again]
    failed = replace(failed, failure=Failure(path=None, errno=None, reason="a worker died"))
    assert list(reservations(failed)) == ["failed: a worker died", again]
    cancelled = replace(BASE, result=Result.CANCELLED, signal=15)
    assert list(reservations(cancelled)) == ["cancelled (SIGTERM)", again]
    assert list(reservations(BASE)) == []


def test_json_is_plain_text() -> None:
    found = json.loads(as_json(BASE))
    assert found["source"] == "/from\\x0a"
    assert found["rates"] == {"files_per_second": 750.0, "bytes_per_second": 1_500_000.0}
    assert found["phases"] == {"copy": 1.5, "sync": 0.5, "verify": None}
    assert re.fullmatch(r"[\n -~]+", as_json(replace(BASE, source="ü\x1b".encode())))
