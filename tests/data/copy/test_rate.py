# SPDX-License-Identifier: Apache-2.0
"""The rate that all processes of a node keep to together."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.rate import BURST_S, RateLimit, SharedRate
from manila_backup.data.copy.tree import copy_tree
from manila_backup.exception import Cancelled, WorkerDied
from manila_backup.types import Counters
from tests.data.copy.conftest import Opened, no_progress, not_cancelled

MB = 1_000_000


@pytest.fixture
def shared() -> Iterator[SharedRate]:
    found = SharedRate(10 * MB)
    yield found
    found.close()


def near(seconds: float) -> object:
    return pytest.approx(seconds, abs=0.05)


def test_what_is_moved_is_paid_for_by_waiting(shared: SharedRate) -> None:
    limit = RateLimit(shared.path)
    assert limit.debt_s(5 * MB) == near(0.5)
    assert limit.debt_s(10 * MB) == near(1.5)
    assert limit.debt_s(0) == near(1.5)


def test_what_was_not_used_lately_may_be_made_up_for(shared: SharedRate) -> None:
    limit = RateLimit(shared.path)
    time.sleep(2 * BURST_S)
    assert limit.debt_s(10 * MB) == near(1 - BURST_S)


def test_all_share_one_rate(shared: SharedRate) -> None:
    limits = [RateLimit(shared.path) for _ in range(3)]
    assert [limit.debt_s(10 * MB) for limit in limits] == [near(1), near(2), near(3)]


def test_no_rate_no_debt(shared: SharedRate) -> None:
    limit = RateLimit(shared.path)
    shared.set(0)
    assert limit.debt_s(1000 * MB) == 0


def test_a_new_rate_is_for_what_is_in_work_and_forgives(shared: SharedRate) -> None:
    limit = RateLimit(shared.path)
    assert limit.debt_s(1000 * MB) > 90
    shared.set(1 * MB)
    assert limit.debt_s(1 * MB) == near(1)


def test_nothing_is_lost_between_threads_and_processes(shared: SharedRate) -> None:
    """Each adds its share; an update that got lost would be missing in the end."""
    program = f"""
from manila_backup.data.copy.rate import RateLimit
limit = RateLimit({shared.path!r})
for _ in range(2000):
    limit.debt_s(10_000)
"""
    others = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    limit = RateLimit(shared.path)

    def move() -> None:
        mine = RateLimit(shared.path)
        for _ in range(2000):
            mine.debt_s(10_000)

    threads = [threading.Thread(target=move) for _ in range(2)]
    # So much that it is not paid for until the end: then the burst does not count.
    begun_s = time.monotonic()
    first = limit.debt_s(1000 * MB)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in others] == [0, 0]
    passed_s = time.monotonic() - begun_s
    assert limit.debt_s(0) == near(first + 4 * 2000 * 10_000 / (10 * MB) - passed_s)


def test_a_node_that_is_gone_is_named(shared: SharedRate) -> None:
    other = SharedRate(0)
    path = other.path
    other.close()
    with pytest.raises(WorkerDied, match="its node has ended"):
        RateLimit(path)


# --- copies ---------------------------------------------------------------------------------------


def fill(source: Path, kind: str, total: int) -> None:
    count = total // {"small": 16_000, "large": 4 * MB}[kind]
    source.mkdir()
    for number in range(count):
        (source / f"f{number}").write_bytes(os.urandom(total // count))


class Samples:
    """What several copies have moved together, over time."""

    def __init__(self) -> None:
        self._bytes: dict[int, int] = {}
        self.seen: list[tuple[float, int]] = []
        self._lock = threading.Lock()

    def progress(self, number: int) -> Callable[[Counters], None]:
        def note(counters: Counters) -> None:
            with self._lock:
                self._bytes[number] = counters.bytes
                self.seen.append((time.monotonic(), sum(self._bytes.values())))

        return note

    def rate(self) -> float:
        """Bytes per second, less the start of processes and what comes before the first report."""
        whole = self.seen[-1][1]
        begun_s, begun = next(seen for seen in self.seen if seen[1] > whole * 0.1)
        ended_s, ended = self.seen[-1]
        return (ended - begun) / (ended_s - begun_s)


def copied(
    source: Path, target: Path, options: CopyOptions, progress: Callable[[Counters], None]
) -> None:
    target.mkdir()
    with Opened(source) as source_fd, Opened(target) as target_fd:
        copy_tree(
            source_fd,
            target_fd,
            options,
            catalog=None,
            progress=progress,
            cancelled=not_cancelled,
        )


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["small", "large"])
@pytest.mark.parametrize("processes", [1, 2])
def test_two_copies_together_keep_to_the_rate(
    shared: SharedRate, tmp_path: Path, kind: str, processes: int
) -> None:
    """Within a tenth."""
    fill(tmp_path / "source", kind, 32 * MB)
    options = CopyOptions(processes=processes, threads=2 * processes, rate_path=shared.path)
    samples = Samples()
    threads = [
        threading.Thread(
            target=copied,
            args=(tmp_path / "source", tmp_path / f"{number}", options, samples.progress(number)),
        )
        for number in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.9 * 10 * MB < samples.rate() < 1.1 * 10 * MB


def test_a_copy_that_waits_is_cancelled_at_once(tmp_path: Path) -> None:
    shared = SharedRate(1000)
    fill(tmp_path / "source", "large", 4 * MB)
    (tmp_path / "target").mkdir()
    begun_s = time.monotonic()
    with (
        Opened(tmp_path / "source") as source_fd,
        Opened(tmp_path / "target") as target_fd,
        pytest.raises(Cancelled),
    ):
        copy_tree(
            source_fd,
            target_fd,
            CopyOptions(rate_path=shared.path),
            catalog=None,
            progress=no_progress,
            cancelled=lambda: time.monotonic() - begun_s > 0.5,
        )
    assert time.monotonic() - begun_s < 5  # it would wait for an hour
    assert os.listdir(tmp_path / "target") == []
    shared.close()


def test_a_copy_that_waits_hears_of_a_new_rate(tmp_path: Path) -> None:
    """It would wait for an hour at the rate that it began with."""
    shared = SharedRate(1000)
    fill(tmp_path / "source", "large", 4 * MB)
    waits = threading.Event()
    limit = RateLimit(shared.path)

    def set_another() -> None:
        while limit.debt_s(0) < 100:
            time.sleep(0.01)
        waits.set()
        shared.set(0)

    other = threading.Thread(target=set_another)
    other.start()
    begun_s = time.monotonic()
    options = CopyOptions(rate_path=shared.path)
    copied(tmp_path / "source", tmp_path / "target", options, no_progress)
    other.join()
    assert waits.is_set()
    assert time.monotonic() - begun_s < 10
    shared.close()
