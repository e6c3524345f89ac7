# SPDX-License-Identifier: Apache-2.0
"""A process of a parallel copy by itself: what it is told, what it answers, and when it ends."""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest

from manila_backup.data.copy import crew
from manila_backup.data.copy.attributes import Attributes, Xattrs
from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.board import Board
from manila_backup.data.copy.child import Setup, packed
from manila_backup.data.copy.crew import Done, ThreadTeam
from manila_backup.data.copy.notes import Pulse
from manila_backup.data.copy.tasks import (
    CopyDirectory,
    CopyNames,
    Directory,
    Entered,
    FinishDirectory,
    LayEntries,
    Outcome,
)
from manila_backup.exception import Cancelled, CopyFailed
from tests.data.copy.conftest import Run
from tests.support.syscalls import open_fds

WAIT_S = 20


# --- the process ----------------------------------------------------------------------------------


class Child:
    """Started as the crew starts it, for trees of a run."""

    def __init__(self, run: Run, kind: str = "copy", *, parent: int | None = None) -> None:
        self._fds = [os.open(path, os.O_RDONLY) for path in (run.source, run.target)]
        self.board = Board.create(4)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            arguments = [str(theirs.fileno()), str(self.board.fd), str(parent or os.getpid())]
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "manila_backup.data.copy.child", *arguments],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno(), self.board.fd, *self._fds],
            )
            self.connection = Connection(ours.detach())
        self.setup = Setup(
            kind=kind,
            source_fd=self._fds[0],
            target_fd=self._fds[1],
            options=CopyOptions(processes=1, threads=4),
            hashing=True,
            slots=4,
        )

    def send(self, number: int, task: Any) -> None:
        self.connection.send([(number, task)])

    def answer(self) -> Any:
        """To a bundle of one."""
        assert self.connection.poll(WAIT_S), "no answer"
        (done,) = self.connection.recv()
        return done

    def ended(self) -> int:
        return self.process.wait(WAIT_S)

    def close(self) -> str:
        """What it had to complain about."""
        if not self.connection.closed:
            self.connection.close()
        self.ended()
        assert self.process.stderr is not None
        with self.process.stderr:
            said = self.process.stderr.read().decode()
        self.board.close()
        for fd in self._fds:
            os.close(fd)
        return said


@pytest.fixture
def child(run: Run) -> Iterator[Child]:
    """One that has been set up."""
    made = Child(run)
    made.connection.send(made.setup)
    yield made
    assert made.close() == ""


def root_task() -> CopyDirectory:
    return CopyDirectory(path=b"", parent=None, limit=100)


def test_it_does_tasks_until_it_is_told_to_end(run: Run, child: Child) -> None:
    (run.source / "f").write_bytes(b"x" * 1000)
    child.send(7, root_task())
    number, outcome = child.answer()
    assert number == 7
    assert isinstance(outcome.answer, Entered)
    assert outcome.answer.entry.path == b""
    assert [name for name, _ in outcome.records] == [b"f"]
    assert (outcome.notes.files, outcome.notes.bytes) == (1, 1000)
    assert outcome.cpu_s > 0
    assert (run.target / "f").read_bytes() == b"x" * 1000
    child.connection.send(None)
    assert child.ended() == 0


def test_a_failure_is_an_answer(run: Run, child: Child) -> None:
    """A directory of the target that is another one."""
    gone = Directory(path=b"", source=(1, 1), target=(1, 1), fresh=True)
    child.send(1, CopyNames(directory=gone, names=[]))
    assert child.answer()[1].notes.skipped == [b""]
    wanted = Attributes.of_stat(run.source.stat(), Xattrs({}))
    task = FinishDirectory(path=b"no such", target=(1, 1), wanted=wanted)
    child.send(2, task)
    number, failed = child.answer()
    assert number == 2
    assert isinstance(failed, CopyFailed)
    assert (failed.path, failed.errno > 0) == ("no such", True)


def test_a_mistake_is_an_answer_too_that_says_where_it_was_made(child: Child) -> None:
    child.send(1, LayEntries(entries=[]))
    error = child.answer()[1]
    assert isinstance(error, TypeError)
    assert "in _answer" in error.__notes__[0]
    child.send(2, root_task())
    assert isinstance(child.answer()[1].answer, Entered)


def test_when_it_is_stopped_tasks_end_as_cancelled(child: Child) -> None:
    child.board.stop()
    child.send(1, root_task())
    assert isinstance(child.answer()[1], Cancelled)


def test_roots_that_cannot_be_looked_at_fail_the_first_task(run: Run) -> None:
    child = Child(run)
    child.connection.send(
        Setup(
            kind="copy",
            source_fd=999,
            target_fd=999,
            options=CopyOptions(),
            hashing=False,
            slots=4,
        )
    )
    child.send(1, root_task())
    failed = child.answer()[1]
    assert isinstance(failed, CopyFailed)
    assert (failed.path, failed.errno > 0) == (".", True)
    assert child.close() == ""


def test_it_ends_when_the_other_end_is_closed(child: Child) -> None:
    child.send(1, root_task())
    child.answer()
    child.connection.close()
    assert child.ended() == 1


def test_it_ends_when_nobody_sets_it_up(run: Run) -> None:
    child = Child(run)
    assert child.close() == ""
    assert child.process.returncode == 1


def test_it_ends_at_once_when_its_parent_is_gone_already(run: Run) -> None:
    """The parent died between the fork and the request to die with it."""
    child = Child(run, parent=1)
    assert child.ended() == 1
    child.close()


def test_it_dies_with_the_thread_that_started_it(run: Run) -> None:
    made: list[Child] = []

    def start() -> None:
        child = Child(run)
        made.append(child)
        child.connection.send(child.setup)
        child.send(1, root_task())
        child.answer()  # from here on it has asked for its death

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    child = made[0]
    assert child.ended() == -signal.SIGKILL
    child.close()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
def test_what_stops_the_parent_and_its_group_does_not_stop_it(
    child: Child, number: signal.Signals
) -> None:
    child.send(1, root_task())
    child.answer()
    child.process.send_signal(number)
    child.send(2, root_task())
    assert child.answer()[0] == 2
    child.connection.send(None)
    assert child.ended() == 0


def test_how_it_lives(child: Child) -> None:
    """Nothing keeps file systems busy, modes are as asked for, and fds are enough for threads."""
    child.send(1, root_task())
    child.answer()
    place = Path(f"/proc/{child.process.pid}")
    assert place.joinpath("cwd").readlink() == Path("/")
    assert "Umask:\t0000" in place.joinpath("status").read_text()
    hard = resource.prlimit(child.process.pid, resource.RLIMIT_NOFILE)[1]
    assert resource.prlimit(child.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    assert place.joinpath("fd", "0").readlink() == Path("/dev/null")
    names = {thread.id for thread in psutil.Process(child.process.pid).threads()}
    assert len(names) == 2, "its own, and one that works"


def test_it_takes_as_many_threads_as_there_are_tasks_up_to_the_limit(child: Child) -> None:
    for number in range(30):
        child.send(number, root_task())
    answered = {child.answer()[0] for _ in range(30)}
    assert answered == set(range(30))
    assert 2 <= len(psutil.Process(child.process.pid).threads()) <= 5


# --- answers --------------------------------------------------------------------------------------


class Unhandy(Exception):
    def __init__(self) -> None:
        super().__init__("unhandy")
        self.lock = threading.Lock()


class Bad:
    def __reduce__(self) -> Any:
        raise KeyError("cannot")


@pytest.mark.parametrize("result", [Unhandy(), Bad(), [threading.Lock()]])
def test_what_cannot_be_handed_over_is_told_by_name(result: object) -> None:
    ((number, told),) = pickle.loads(packed([(5, result)]))  # noqa: S301
    assert (number, type(told)) == (5, RuntimeError)
    assert f"a {type(result).__name__} cannot be handed over" in str(told)


def test_errors_of_operations_are_handed_over_as_they_are() -> None:
    failed = CopyFailed(path="a\\x0a", reason="Input/output error", errno=5)
    ((number, told),) = pickle.loads(packed([(5, failed)]))  # noqa: S301
    assert (number, type(told), told.fields) == (5, CopyFailed, failed.fields)


# --- threads --------------------------------------------------------------------------------------


class Ask:
    """A task that waits until it is told what to do."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.fails: BaseException | None = None


class Obeys:
    """A worker; which thread made and used and closed it is seen."""

    made: list[Obeys]

    def __init__(self, pulse: Pulse) -> None:
        self.pulse = pulse
        self.threads = {threading.get_ident()}
        self.closed = False
        self.made.append(self)

    def do(self, task: Ask) -> Outcome:
        self.threads.add(threading.get_ident())
        notes = self.pulse.start()
        task.begun.set()
        while not task.go_on.wait(0.01):
            self.pulse.check()
        self.pulse.content(20 << 20)
        if task.fails is not None:
            raise task.fails
        return Outcome(notes=notes, answer=task)

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed = True


class Team:
    def __init__(self, threads: int) -> None:
        class Mine(Obeys):
            made: list[Obeys] = []  # noqa: RUF012

        self.workers = Mine.made
        self.stop = False
        self.results: dict[int, Any] = {}
        self.together: list[list[int]] = []
        self.live: list[tuple[int, int]] = []
        self._heard = threading.Condition()
        self.team: ThreadTeam[Ask] = ThreadTeam(
            Mine,
            threads,
            cancelled=lambda: self.stop,
            live=lambda index, figure: self.live.append((index, figure)),
            done=self._done,
        )

    def submit(self, number: int, task: Ask) -> None:
        self.team.submit([(number, task)])

    def _done(self, done: list[Done]) -> None:
        with self._heard:
            self.results.update(done)
            self.together.append([number for number, _ in done])
            self._heard.notify_all()

    def wait_for(self, *numbers: int) -> None:
        with self._heard:
            assert self._heard.wait_for(lambda: self.results.keys() >= set(numbers), WAIT_S)

    def close(self) -> None:
        self.stop = True
        self.team.close()
        for worker in self.workers:
            assert worker.closed
            assert len(worker.threads) == 1


def test_threads_are_started_as_tasks_come_and_used_again() -> None:
    team = Team(3)
    tasks = [Ask() for _ in range(5)]
    for number, task in enumerate(tasks[:2]):
        team.submit(number, task)
        assert task.begun.wait(WAIT_S)
        assert len(team.workers) == number + 1
    for number, task in enumerate(tasks[2:], 2):
        team.submit(number, task)
    assert tasks[2].begun.wait(WAIT_S)
    assert not tasks[3].begun.is_set()
    assert len(team.workers) == 3
    for task in tasks:
        task.go_on.set()
    team.wait_for(*range(5))
    assert [team.results[number].answer for number in range(5)] == tasks
    assert len(team.workers) == 3
    team.close()


def test_one_after_another_takes_one_thread() -> None:
    team = Team(8)
    for number in range(6):
        task = Ask()
        task.go_on.set()
        team.submit(number, task)
        team.wait_for(number)
    assert len(team.workers) == 1
    team.close()


def test_an_error_is_a_result_and_the_thread_goes_on() -> None:
    team = Team(1)
    for number, error in enumerate([CopyFailed(path="a", reason="b", errno=5), KeyError("x")]):
        task = Ask()
        task.fails = error
        task.go_on.set()
        team.submit(number, task)
        team.wait_for(number)
        assert team.results[number] is error
    assert not hasattr(team.results[0], "__notes__")
    assert "in do" in team.results[1].__notes__[0]
    task = Ask()
    task.go_on.set()
    team.submit(2, task)
    team.wait_for(2)
    assert team.results[2].answer is task
    assert len(team.workers) == 1
    team.close()


def test_stopped_all_tasks_end() -> None:
    team = Team(2)
    tasks = [Ask() for _ in range(4)]
    for number, task in enumerate(tasks):
        team.submit(number, task)
    assert tasks[0].begun.wait(WAIT_S)
    team.close()
    assert {type(team.results[number]) for number in range(4)} == {Cancelled}


def test_what_a_task_has_moved_is_told_and_taken_back_at_its_end() -> None:
    team = Team(1)
    task = Ask()
    task.go_on.set()
    team.submit(0, task)
    team.wait_for(0)
    assert team.live == [(0, 20 << 20), (0, 0)]
    team.close()


def ready(count: int) -> list[Ask]:
    tasks = [Ask() for _ in range(count)]
    for task in tasks:
        task.go_on.set()
    return tasks


def test_a_bundle_is_done_in_order_by_one_thread_and_handed_over_together() -> None:
    team = Team(4)
    tasks = ready(3)
    team.team.submit(list(enumerate(tasks)))
    team.wait_for(0, 1, 2)
    assert team.together == [[0, 1, 2]]
    assert [team.results[number].answer for number in range(3)] == tasks
    assert len(team.workers) == 1
    moved = 20 << 20
    assert team.live == [(0, moved), (0, 2 * moved), (0, 3 * moved), (0, 0)], "never backwards"
    team.close()


def test_after_a_failure_the_rest_of_a_bundle_is_not_begun() -> None:
    team = Team(1)
    tasks = ready(4)
    tasks[1].fails = KeyError("x")
    team.team.submit(list(enumerate(tasks)))
    team.wait_for(*range(4))
    assert team.results[0].answer is tasks[0]
    assert team.results[1] is tasks[1].fails
    assert (team.results[2], team.results[3]) == (None, None)
    assert not tasks[2].begun.is_set()
    team.close()


def test_what_a_bundle_has_not_begun_for_long_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crew, "_BUNDLE_S", 0.0)
    team = Team(1)
    tasks = ready(3)
    team.team.submit(list(enumerate(tasks)))
    team.wait_for(*range(3))
    assert team.results[0].answer is tasks[0], "the first is always done"
    assert (team.results[1], team.results[2]) == (None, None)
    team.close()


def test_a_worker_that_cannot_be_made_fails_each_task() -> None:
    results: list[Any] = []
    heard = threading.Semaphore(0)

    def make(pulse: Pulse) -> Obeys:
        raise CopyFailed(path=".", reason="no", errno=5)

    def done(done: list[Done]) -> None:
        results.extend(result for _, result in done)
        heard.release()

    team: ThreadTeam[Ask] = ThreadTeam(
        make, 1, cancelled=lambda: False, live=lambda index, figure: None, done=done
    )
    for number in range(2):
        team.submit([(number, Ask())])
        assert heard.acquire(timeout=WAIT_S)
    team.close()
    assert [type(result) for result in results] == [CopyFailed, CopyFailed]


def test_when_there_can_be_no_more_threads_those_there_are_do_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    team = Team(8)
    tasks = [Ask() for _ in range(4)]
    team.submit(0, tasks[0])
    assert tasks[0].begun.wait(WAIT_S)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for number, task in enumerate(tasks[1:], 1):
        team.submit(number, task)
    for task in tasks:
        task.go_on.set()
    team.wait_for(*range(4))
    assert len(team.workers) == 1
    team.close()


def test_without_any_thread_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    team = Team(8)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError):
        team.submit(0, Ask())
    team.close()


def test_no_fd_is_left_of_a_team() -> None:
    before = open_fds()
    team = Team(4)
    tasks = [Ask() for _ in range(4)]
    for number, task in enumerate(tasks):
        team.submit(number, task)
    assert all(task.begun.wait(WAIT_S) for task in tasks)
    team.close()
    assert open_fds() == before


# --- the board ------------------------------------------------------------------------------------


def test_figures_are_seen_by_whoever_has_the_board() -> None:
    fds = open_fds()
    board = Board.create(3)
    other = Board(os.dup(board.fd), 3)
    assert (board.total(), other.is_stopped()) == (0, False)
    for slot, figure in enumerate([5, 1 << 40, -3]):
        other.put(slot, figure)
    assert board.total() == 5 + (1 << 40)
    other.put(1, 0)
    assert board.total() == 5
    board.ask_to_share(is_asked=True)
    assert other.is_asked_to_share()
    assert not other.is_stopped()
    board.ask_to_share(is_asked=False)
    assert not other.is_asked_to_share()
    board.stop()
    assert other.is_stopped()
    assert other.total() == 5
    for one in (board, other):
        one.close()
    assert open_fds() == fds


def test_the_board_is_not_inherited_unasked() -> None:
    board = Board.create(1)
    assert not os.get_inheritable(board.fd)
    board.close()


def test_nobody_listens_any_more(child: Child) -> None:
    """The coordinator has given up, and closed its end while a task was in work."""
    for number in range(50):
        child.send(number, root_task())
    child.connection.close()
    assert child.ended() == 1
    assert select.select([child.process.stderr], [], [], 0)[0]  # its end, and nothing else
