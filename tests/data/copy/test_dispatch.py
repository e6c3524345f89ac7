# SPDX-License-Identifier: Apache-2.0
"""The coordinator's desk: what goes to the crew in one bundle, and what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from manila_backup.data.copy.crew import Done, InlineCrew
from manila_backup.data.copy.dispatch import Dispatch
from manila_backup.data.copy.notes import Notes
from manila_backup.data.copy.sysio import Kind
from manila_backup.data.copy.tally import Tally
from manila_backup.data.copy.tasks import (
    DIRECTORY_WEIGHT,
    BeginFile,
    CopyDirectory,
    CopyNames,
    Directory,
    Outcome,
    Task,
)
from manila_backup.exception import Cancelled, CopyFailed

BATCH = 4 * DIRECTORY_WEIGHT
HERE = Directory(path=b"", source=(1, 1), target=(2, 2), fresh=True)


def directory(number: int) -> CopyDirectory:
    return CopyDirectory(path=b"%d" % number, parent=None, limit=100)


def names(count: int) -> CopyNames:
    return CopyNames(directory=HERE, names=[(b"f", Kind.FILE)] * count)


class Hands:
    """A crew that does what the test says."""

    def __init__(self, room: int) -> None:
        self.batch = self.long_batch = BATCH
        self.slots = room
        self.told: list[bool] = []
        self.bundles: list[list[tuple[int, Task]]] = []
        self.done: list[Done] = []

    @property
    def room(self) -> int:
        return self.slots - len(self.bundles)

    def submit(self, bundle: Sequence[tuple[int, Task]]) -> None:
        assert self.room > 0
        self.bundles.append(list(bundle))

    def share(self, *, is_all_given_out: bool) -> None:
        self.told.append(is_all_given_out)

    def finish(self, *results: Any) -> None:
        """The first bundle."""
        for (number, _), result in zip(self.bundles.pop(0), results, strict=True):
            self.done.append((number, Outcome(notes=Notes()) if result is True else result))

    def wait(self, timeout_s: float) -> list[Done]:
        done, self.done = self.done, []
        return done

    def live_bytes(self) -> int:
        return 0

    def close(self) -> list[Done]:
        return self.wait(0)


class NoWorker:
    def do(self, task: Task) -> Outcome:
        raise AssertionError("nothing is to be done inline")

    def close(self) -> None:
        pass


class Desk(Dispatch):
    """With a crew from the start; ``heard`` is the paths of the directories that are done."""

    def __init__(self, room: int, *, cancelled: bool = False) -> None:
        self.hands = Hands(room)
        self.heard: list[bytes] = []
        super().__init__(
            InlineCrew[Task](NoWorker()),
            lambda: self.hands,
            Tally(lambda counters: None),
            lambda: cancelled,
        )
        self.spread(is_much=True)

    def put(self, *numbers: int) -> None:
        for number in numbers:
            path = b"%d" % number
            self.add(directory(number), lambda outcome, path=path: self.heard.append(path))

    def handed_out(self) -> list[list[bytes]]:
        return [
            [task.path for _, task in bundle if isinstance(task, CopyDirectory)]
            for bundle in self.hands.bundles
        ]


def test_small_tasks_go_together_up_to_a_batch() -> None:
    desk = Desk(2)
    desk.put(*range(10))
    assert desk.room < 0
    desk.submit()
    assert desk.handed_out() == [[b"0", b"1", b"2", b"3"], [b"4", b"5", b"6", b"7"]]
    assert (desk.in_work, desk.queued) == (8, 2)


def test_what_there_is_little_of_is_shared_evenly() -> None:
    desk = Desk(3)
    desk.put(*range(6))
    desk.submit()
    assert desk.handed_out() == [[b"0", b"1"], [b"2", b"3"], [b"4", b"5"]]
    desk = Desk(3)
    desk.put(0, 1)
    desk.submit()
    assert desk.handed_out() == [[b"0"], [b"1"]]


def test_a_task_that_is_a_batch_goes_alone() -> None:
    desk = Desk(3)
    for task in (names(BATCH), BeginFile(directory=HERE, name=b"f"), names(1)):
        desk.add(task, lambda outcome: None)
    desk.submit()
    assert [len(bundle) for bundle in desk.hands.bundles] == [1, 1, 1]


def test_there_is_room_for_a_batch_for_each_that_is_free() -> None:
    desk = Desk(2)
    assert desk.room == 2 * BATCH
    desk.put(0)
    assert desk.room == 2 * BATCH - DIRECTORY_WEIGHT
    desk.submit()
    assert desk.room == BATCH


def test_what_was_not_begun_comes_first_again_in_its_order() -> None:
    desk = Desk(1)
    desk.put(*range(6))
    desk.submit()
    desk.hands.finish(True, None, None, None)
    desk.collect()
    assert desk.heard == [b"0"]
    assert (desk.in_work, desk.queued) == (0, 5)
    desk.submit()
    assert desk.handed_out() == [[b"1", b"2", b"3", b"4"]]
    desk.hands.finish(True, True, True, True)
    desk.collect()
    desk.submit()
    desk.hands.finish(True)
    desk.collect()
    assert desk.heard == [b"%d" % number for number in range(6)]
    assert desk.room == BATCH, "nothing is thought to be queued"


def test_a_failure_is_raised_when_what_came_before_it_was_heard() -> None:
    desk = Desk(1)
    desk.put(0, 1, 2)
    desk.submit()
    desk.hands.finish(True, CopyFailed(path="1", reason="no", errno=5), None)
    with pytest.raises(CopyFailed):
        desk.collect()
    assert desk.heard == [b"0"]


def test_after_a_failure_outcomes_can_still_be_had() -> None:
    """Of what was made, to be taken back."""
    desk = Desk(2)
    desk.put(0, 1, 2, 3)
    desk.submit()
    desk.hands.finish(CopyFailed(path="0", reason="no", errno=5), None)
    desk.hands.finish(True, True)
    with pytest.raises(CopyFailed):
        desk.collect()
    assert len(desk.close()) == 2


def test_it_is_asked_whether_to_cancel() -> None:
    desk = Desk(1, cancelled=True)
    desk.put(0)
    desk.submit()
    with pytest.raises(Cancelled):
        desk.collect()


def test_inline_one_task_is_done_at_a_time() -> None:
    done: list[bytes] = []

    class Worker:
        def do(self, task: Any) -> Outcome:
            done.append(task.path)
            return Outcome(notes=Notes())

        def close(self) -> None:
            pass

    inline = InlineCrew[Task](Worker())
    desk = Dispatch(inline, None, Tally(lambda counters: None), lambda: False)
    for number in range(3):
        desk.add(directory(number), lambda outcome: None)
    for number in range(3):
        desk.submit()
        assert desk.in_work == 1
        desk.collect()
        assert done == [b"%d" % one for one in range(number + 1)]


def test_the_crew_is_told_whether_anything_is_left_to_give_out() -> None:
    desk = Desk(1)
    desk.put(0, 1, 2, 3)
    desk.submit(is_all=False)
    desk.submit(is_all=True)
    desk.put(4)
    desk.submit(is_all=True)
    assert desk.hands.told == [False, True, False]
