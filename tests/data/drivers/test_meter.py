# SPDX-License-Identifier: Apache-2.0
"""Progress out of counters: never backwards, complete only at the end."""

from __future__ import annotations

from manila_backup.data.drivers.meter import ENTRY_BYTES, Meter
from manila_backup.types import Counters
from tests.data.drivers.operations import Watch


def reported(*steps: Counters, content_bytes: int, entries: int) -> list[tuple[int, int]]:
    watch = Watch()
    meter = Meter(watch.control, content_bytes=content_bytes, entries=entries)
    for step in steps:
        meter(step)
    meter.finish(Counters(files=1))
    assert watch.progress[-1].counters == meter.counters == Counters(files=1)
    return [(progress.done, progress.total) for progress in watch.progress]


def test_content_and_entries_count() -> None:
    steps = reported(
        Counters(directories=1),
        Counters(directories=1, files=1, bytes=500),
        Counters(directories=1, files=1, others=1, skipped=1, bytes=1000),
        content_bytes=2000,
        entries=8,
    )
    total = 2000 + 8 * ENTRY_BYTES
    done = [0, ENTRY_BYTES, 500 + 2 * ENTRY_BYTES, 1000 + 4 * ENTRY_BYTES, total]
    assert steps == [(step, total) for step in done]


def test_a_file_that_is_copied_again_does_not_turn_it_back() -> None:
    steps = reported(Counters(bytes=900), Counters(bytes=100), content_bytes=2000, entries=0)
    assert steps == [(0, 2000), (900, 2000), (900, 2000), (2000, 2000)]


def test_a_tree_that_grows_raises_the_total_before_it_is_reached() -> None:
    steps = reported(Counters(bytes=100), Counters(bytes=5000), content_bytes=100, entries=0)
    assert steps[:3] == [(0, 100), (100, 100 + ENTRY_BYTES), (5000, 5000 + ENTRY_BYTES)]
    assert steps[3] == (5000 + ENTRY_BYTES, 5000 + ENTRY_BYTES)


def test_an_empty_tree_is_complete_at_the_end_only() -> None:
    steps = reported(content_bytes=0, entries=0)
    assert steps == [(0, ENTRY_BYTES), (ENTRY_BYTES, ENTRY_BYTES)]
