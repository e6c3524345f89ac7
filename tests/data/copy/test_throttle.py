# SPDX-License-Identifier: Apache-2.0
"""How many threads a process takes, and how a blocked thread is told from a busy machine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from manila_backup.data.copy.crew import Stopwatch
from manila_backup.data.copy.notes import Notes
from manila_backup.data.copy.processes import Throttle
from manila_backup.data.copy.tasks import Outcome

# --- the number of threads ------------------------------------------------------------------------


class Tasks:
    """Tasks end one after another, so many seconds apart by a clock of our own."""

    def __init__(self, *, processes: int = 2, limit: int = 32) -> None:
        self.now_s = 1000.0
        self.throttle = Throttle(processes, limit, now_s=self.now_s)

    def end(
        self,
        *,
        every_s: float,
        cpu_s: float,
        blocked_s: float,
        queued_s: float = 0.0,
        entries: int = 0,
        times: int = 1,
    ) -> list[int]:
        """The number of threads after each."""
        seen = []
        for _ in range(times):
            self.now_s += every_s
            notes = Notes(files=entries)
            outcome = Outcome(notes=notes, cpu_s=cpu_s, queued_s=queued_s, blocked_s=blocked_s)
            self.throttle.done(outcome, self.now_s)
            seen.append(self.throttle.threads)
        return seen


def test_it_begins_with_one_thread() -> None:
    assert Tasks().throttle.threads == 1


SLOW = {"every_s": 0.11, "cpu_s": 0.005, "blocked_s": 0.1}
"""Tasks that a file server keeps waiting."""


@pytest.mark.parametrize("limit", [1, 2, 3, 8, 12, 32, 100])
def test_it_grows_twofold_or_more_up_to_the_limit_while_tasks_are_blocked(limit: int) -> None:
    tasks = Tasks(limit=limit)
    before = 1
    for threads in tasks.end(**SLOW, times=8):
        assert min(2 * before, limit) <= threads <= limit
        before = threads
    assert before == limit


def test_the_more_idle_the_processes_the_faster_it_grows() -> None:
    busier = Tasks(processes=1).end(every_s=0.11, cpu_s=0.02, blocked_s=0.1)[0]
    idle = Tasks(processes=1).end(every_s=0.11, cpu_s=0.0001, blocked_s=0.1)[0]
    assert 2 <= busier < idle <= 8


def test_it_thinks_once_in_a_tenth_of_a_second_however_many_tasks_end() -> None:
    tasks = Tasks(limit=1000)
    before = [1]
    for _ in range(3):
        quick = tasks.end(every_s=0.01, cpu_s=0.001, blocked_s=0.009, times=9)
        assert quick == before[-1:] * 9
        before = tasks.end(every_s=0.02, cpu_s=0.001, blocked_s=0.009)
        assert before[0] > quick[-1]


def test_what_was_seen_before_does_not_count_twice() -> None:
    tasks = Tasks(limit=1000)
    (grown,) = tasks.end(every_s=0.11, cpu_s=0.01, blocked_s=50.0)
    assert grown > 1
    assert set(tasks.end(every_s=0.11, cpu_s=0.05, blocked_s=0.01, times=5)) == {grown}


def test_threads_that_compute_get_no_company() -> None:
    tasks = Tasks()
    assert set(tasks.end(every_s=0.11, cpu_s=0.1, blocked_s=0.0, times=20)) == {1}
    assert set(tasks.end(every_s=0.11, cpu_s=0.1, blocked_s=0.1, times=20)) == {1}


def test_waiting_for_a_processor_is_no_reason_for_more() -> None:
    """On a busy machine a task takes ten times as long, and was blocked no longer."""
    tasks = Tasks()
    assert set(tasks.end(every_s=1.0, cpu_s=0.1, blocked_s=0.02, times=20)) == {1}


def test_as_much_computing_as_waiting_stays_as_it_is() -> None:
    tasks = Tasks()
    (grown,) = tasks.end(**SLOW)
    assert set(tasks.end(every_s=0.11, cpu_s=0.05, blocked_s=0.1, times=20)) == {grown}


def test_processes_that_compute_most_of_the_time_get_no_more_however_blocked_threads_are() -> None:
    """Each thread is blocked most of the time, but there are enough of them."""
    tasks = Tasks(processes=1, limit=1000)
    grown = tasks.end(**SLOW, times=2)[-1]
    assert set(tasks.end(every_s=0.11, cpu_s=0.07, blocked_s=1.0, times=20)) == {grown}


def test_it_goes_down_to_one_while_threads_wait_for_each_other() -> None:
    tasks = Tasks(processes=1, limit=16)
    before = tasks.end(**SLOW, times=5)[-1]
    assert before == 16
    for threads in tasks.end(every_s=0.11, cpu_s=0.109, blocked_s=0.4, times=12):
        assert before // 2 <= threads < before or threads == before == 1
        before = threads
    assert before == 1


def test_where_the_server_takes_all_of_the_processors_a_few_threads_are_enough() -> None:
    """They wait for a processor far longer than they use it: more would wait longer."""
    tasks = Tasks(limit=32)
    few = tasks.end(**SLOW, queued_s=0.05, times=8)
    assert max(few) == few[-1] == 8
    assert tasks.end(**SLOW, times=4)[-1] == 32
    crowded = tasks.end(**SLOW, queued_s=0.1, times=8)
    assert sorted(crowded, reverse=True) == crowded
    assert crowded[-1] == 8
    some = tasks.end(**SLOW, queued_s=0.05, times=4)
    assert set(some) == {8}


def test_a_server_that_has_become_slow_again_is_seen() -> None:
    tasks = Tasks(processes=1)
    assert tasks.end(**SLOW, times=6)[-1] == 32
    assert tasks.end(every_s=0.11, cpu_s=0.11, blocked_s=0.15, times=15)[-1] == 1
    assert tasks.end(**SLOW, times=6)[-1] == 32


# --- the length of tasks --------------------------------------------------------------------------


def test_tasks_take_about_a_fifth_of_a_second() -> None:
    for entry_s in (0.001, 0.002, 0.005):
        tasks = Tasks()
        tasks.end(every_s=0.11, cpu_s=0.0, blocked_s=entry_s * 50, entries=50)
        assert tasks.throttle.batch * entry_s == pytest.approx(0.2, rel=0.1)


def test_however_slow_or_fast_entries_are_tasks_have_some_and_not_too_many() -> None:
    tasks = Tasks()
    tasks.end(every_s=0.11, cpu_s=0.0, blocked_s=100.0, entries=3)
    least = tasks.throttle.batch
    tasks.end(every_s=0.11, cpu_s=0.0, blocked_s=0.0, entries=10_000)
    most = tasks.throttle.batch
    assert 4 <= least < most <= 1024


def test_until_it_is_known_how_long_entries_take_tasks_have_few() -> None:
    throttle = Tasks().throttle
    assert throttle.batch == throttle.long_batch < 10


def test_tasks_that_can_be_cut_short_are_longer_while_entries_are_slow() -> None:
    tasks = Tasks()
    tasks.end(every_s=0.11, cpu_s=0.0, blocked_s=100.0, entries=3)
    assert tasks.throttle.long_batch > 4 * tasks.throttle.batch
    tasks.end(every_s=0.11, cpu_s=0.0, blocked_s=0.0, entries=10_000)
    assert tasks.throttle.long_batch == tasks.throttle.batch


def test_tasks_without_entries_say_nothing_about_their_length() -> None:
    tasks = Tasks()
    tasks.end(every_s=0.11, cpu_s=0.01, blocked_s=0.2, entries=50)
    before = tasks.throttle.batch
    tasks.end(every_s=0.11, cpu_s=0.5, blocked_s=9.0, times=3)
    assert tasks.throttle.batch == before


# --- what a thread waits for ----------------------------------------------------------------------


@pytest.fixture
def watch() -> Iterator[Stopwatch]:
    """Of the thread that runs the test."""
    made = Stopwatch()
    yield made
    made.close()


def compute(cpu_s: float) -> None:
    until_s = time.thread_time() + cpu_s
    while time.thread_time() < until_s:
        sum(range(500))


def wait_blocked(wall_s: float) -> None:
    """Read a pipe into which nobody writes for so long."""
    readable, writable = os.pipe()
    try:
        answer = threading.Timer(wall_s, os.write, (writable, b"x"))
        answer.start()
        assert os.read(readable, 1) == b"x"
        answer.join()
    finally:
        os.close(readable)
        os.close(writable)


def test_a_thread_that_computes_is_not_blocked(watch: Stopwatch) -> None:
    watch.lap()
    compute(0.3)
    computed_s, _, blocked_s = watch.lap()
    assert 0.29 < computed_s < 0.35
    # Page faults and the like, on a machine where other tests run.
    assert blocked_s < 0.15


def test_a_thread_that_waits_is_blocked(watch: Stopwatch) -> None:
    watch.lap()
    wait_blocked(0.1)
    computed_s, _, blocked_s = watch.lap()
    assert blocked_s > 0.08
    assert computed_s < 0.05


def test_a_lap_counts_from_the_one_before(watch: Stopwatch) -> None:
    wait_blocked(0.1)
    assert watch.lap()[2] > 0.08
    computed_s, _, blocked_s = watch.lap()
    assert (computed_s < 0.05, blocked_s < 0.05) == (True, True)
    assert blocked_s >= 0


_RIVAL = """
import os
parent = os.getppid()
print(flush=True)
while os.getppid() == parent:
    sum(range(9999))
"""


def test_waiting_for_a_processor_is_not_being_blocked(watch: Stopwatch) -> None:
    """Another process computes on the only processor that this thread may use."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        with subprocess.Popen([sys.executable, "-c", _RIVAL], stdout=subprocess.PIPE) as rival:
            assert rival.stdout is not None
            rival.stdout.readline()
            watch.lap()
            start_s = time.perf_counter()
            compute(0.3)
            computed_s, _, blocked_s = watch.lap()
            took_s = time.perf_counter() - start_s
            rival.kill()
    finally:
        os.sched_setaffinity(0, allowed)
    assert took_s > 1.3 * computed_s, "there was no rival"
    assert blocked_s < 0.5 * (took_s - computed_s)


def test_it_is_of_its_thread(watch: Stopwatch) -> None:
    """Others that compute meanwhile do not count."""
    other = threading.Thread(target=compute, args=(0.1,))
    watch.lap()
    other.start()
    other.join()
    computed_s, _, blocked_s = watch.lap()
    assert computed_s < 0.07
    assert blocked_s > 0.02


def test_a_kernel_without_the_figure_counts_all_waiting(
    watch: Stopwatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*args: object) -> int:
        raise FileNotFoundError

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", missing)
        plain = Stopwatch()
    wait_blocked(0.05)
    assert plain.lap()[2] > 0.04
    plain.close()
