# SPDX-License-Identifier: Apache-2.0
"""Stopped in the middle, by request or by SIGKILL: soon, with nothing left behind, and the next run
completes it.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from manila_backup.data.copy.base import CopyOptions, CopyResult
from manila_backup.data.copy.measure import measure_tree
from manila_backup.data.copy.remove import remove_tree
from manila_backup.data.copy.restore import restore_tree
from manila_backup.data.copy.tree import copy_tree
from manila_backup.data.copy.verify import verify_tree
from manila_backup.exception import Cancelled, WorkerDied
from manila_backup.types import Counters
from tests.data.copy.conftest import Opened, Run, no_progress, not_cancelled
from tests.support.children import children
from tests.support.syscalls import open_fds
from tests.support.trees import assert_same

pytestmark = [pytest.mark.root, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[3]
WITHIN_S = 1.0
MANY = 1500
MIB = 1 << 20


@dataclass(frozen=True)
class Way:
    native: bool = True
    processes: int = 1
    threads: int = 1

    def options(self, *, delete: bool = False, plain: bool = False) -> CopyOptions:
        return CopyOptions(
            delete=delete, plain_target=plain, processes=self.processes, threads=self.threads
        )


PARALLEL = Way(processes=2, threads=8)


@pytest.fixture(
    params=[
        pytest.param(Way(), id="native"),
        pytest.param(Way(native=False), id="python"),
        pytest.param(PARALLEL, id="parallel"),
    ]
)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Way:
    chosen: Way = request.param
    monkeypatch.setenv("MANILA_BACKUP_NATIVE", str(int(chosen.native)))
    return chosen


# --- trees ----------------------------------------------------------------------------------------


def many_small(root: Path) -> None:
    """So many in one directory that processes are worth it."""
    for top in ("d0", "d1"):
        (root / top).mkdir()
        for number in range(MANY // 2):
            (root / top / f"f{number}").write_bytes(b"%d" % number * 50)


def one_huge(root: Path) -> None:
    with (root / "huge").open("wb") as file:
        for number in range(256):
            file.write(number.to_bytes(4) * (MIB // 4))
    (root / "other").write_bytes(b"x")


def huge_directory(root: Path) -> None:
    (root / "d").mkdir()
    with Opened(root / "d") as fd:
        for number in range(21_000):
            os.mknod(f"name{number}", stat.S_IFREG | 0o644, dir_fd=fd)


# --- stopping -------------------------------------------------------------------------------------


class Stop:
    """Stops when the progress is such, or at the question number ``asked``."""

    def __init__(
        self, when: Callable[[Counters], bool] = lambda _: False, *, asked: int = 0
    ) -> None:
        self._when = when
        self._asked = asked
        self._since_s: float | None = None
        self.most_children = 0

    def progress(self, counters: Counters) -> None:
        self.most_children = max(self.most_children, len(children()))
        if self._when(counters):
            self._begin()

    def cancelled(self) -> bool:
        self._asked -= 1
        if self._asked == 0:
            self._begin()
        return self._since_s is not None

    def _begin(self) -> None:
        if self._since_s is None:
            self._since_s = time.monotonic()

    def expect(self, work: Callable[[], object]) -> None:
        """It ends in time, and of it nothing goes on."""
        fds, before = open_fds(), children()
        with pytest.raises(Cancelled):
            work()
        assert self._since_s is not None
        assert time.monotonic() - self._since_s < WITHIN_S
        assert open_fds() == fds
        assert children() == before


def paths(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def copy(run: Run, way: Way, stop: Stop | None = None, *, delete: bool = False) -> CopyResult:
    with Opened(run.source) as source, Opened(run.target) as target:
        return copy_tree(
            source,
            target,
            way.options(delete=delete),
            catalog=None,
            progress=stop.progress if stop else no_progress,
            cancelled=stop.cancelled if stop else not_cancelled,
        )


def backup(run: Run, way: Way, stop: Stop | None = None) -> CopyResult:
    return run.backup(
        options=way.options(plain=True),
        progress=stop.progress if stop else no_progress,
        cancelled=stop.cancelled if stop else not_cancelled,
    )


def restore(run: Run, way: Way, stop: Stop | None = None) -> CopyResult:
    with Opened(run.data) as data, Opened(run.target) as target:
        return restore_tree(
            run.entries,
            data,
            target,
            way.options(delete=True),
            progress=stop.progress if stop else no_progress,
            cancelled=stop.cancelled if stop else not_cancelled,
        )


# --- cancelled ------------------------------------------------------------------------------------


@pytest.mark.parametrize("work", [copy, backup])
def test_among_many_small_files(
    run: Run, way: Way, work: Callable[[Run, Way, Stop | None], CopyResult]
) -> None:
    many_small(run.source)
    stop = Stop(lambda counters: counters.files >= 500)
    stop.expect(lambda: work(run, way, stop))
    written = run.target if work is copy else run.data
    assert stop.most_children == (way.processes if way.processes > 1 else 0)
    assert paths(written) < paths(run.source)
    work(run, way, None)
    run.target = written
    assert paths(run.source) == paths(written)
    assert_same(str(run.source), str(written))


@pytest.mark.parametrize("work", [copy, backup])
def test_in_a_huge_file(
    run: Run, way: Way, work: Callable[[Run, Way, Stop | None], CopyResult]
) -> None:
    one_huge(run.source)
    stop = Stop(lambda counters: counters.bytes >= 32 * MIB)
    stop.expect(lambda: work(run, way, stop))
    written = run.target if work is copy else run.data
    assert "huge" not in paths(written)
    work(run, way, None)
    assert_same(str(run.source), str(written))


@pytest.mark.parametrize(
    "way", [Way(), pytest.param(PARALLEL, marks=pytest.mark.full)], ids=["native", "parallel"]
)
def test_in_a_huge_directory(run: Run, way: Way) -> None:
    """While it is listed, before anything of it was copied."""
    huge_directory(run.source)
    stop = Stop(asked=4)
    stop.expect(lambda: backup(run, way, stop))
    assert paths(run.data) <= {"d"}
    backup(run, way)
    assert sorted(os.listdir(run.data / "d")) == sorted(os.listdir(run.source / "d"))


def test_in_a_restore_of_small_files(run: Run, way: Way) -> None:
    many_small(run.source)
    backup(run, way)
    stop = Stop(lambda counters: counters.files >= 500)
    stop.expect(lambda: restore(run, way, stop))
    assert paths(run.target) < paths(run.source)
    restore(run, way)
    assert_same(str(run.source), str(run.target))


def test_in_a_restore_of_a_huge_file(run: Run, way: Way) -> None:
    one_huge(run.source)
    backup(run, way)
    stop = Stop(lambda counters: counters.bytes >= 32 * MIB)
    stop.expect(lambda: restore(run, way, stop))
    assert "huge" not in paths(run.target)
    restore(run, way)
    assert_same(str(run.source), str(run.target))


@pytest.mark.parametrize("work", [copy, restore])
def test_in_a_deletion_pass(run: Run, way: Way, work: Callable[..., CopyResult]) -> None:
    (run.source / "d0").mkdir()
    (run.source / "d0" / "mine").write_bytes(b"mine")
    backup(run, way)
    many_small(run.target)
    extra = paths(run.target)
    more = {"delete": True} if work is copy else {}
    stop = Stop(lambda counters: counters.deleted >= 500)
    stop.expect(lambda: work(run, way, stop, **more))
    assert paths(run.target) - paths(run.source) < extra
    work(run, way, **more)
    assert_same(str(run.source), str(run.target))


def test_in_the_removal_of_a_tree(run: Run) -> None:
    many_small(run.source)
    before = paths(run.source)
    with Opened(run.source.parent) as parent:
        stop = Stop(asked=300)
        stop.expect(lambda: remove_tree(parent, b"source", cancelled=stop.cancelled))
        assert paths(run.source) < before
        remove_tree(parent, b"source", cancelled=not_cancelled)
    assert not run.source.exists()


def test_in_measuring_and_verifying(run: Run) -> None:
    many_small(run.source)
    backup(run, Way())
    with Opened(run.source) as source, Opened(run.data) as data:
        stop = Stop(asked=300)
        stop.expect(lambda: measure_tree(source, cancelled=stop.cancelled))
        again = Stop(asked=300)
        problems = verify_tree(run.entries, data, progress=no_progress, cancelled=again.cancelled)
        again.expect(lambda: list(problems))


# --- killed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("work", [copy, backup])
def test_when_one_of_its_processes_is_killed_the_copy_fails(
    run: Run, work: Callable[[Run, Way, Stop | None], CopyResult]
) -> None:
    many_small(run.source)
    killed: list[int] = []

    class Killing(Stop):
        def progress(self, counters: Counters) -> None:
            mine = children()
            if mine and counters.files >= 300 and not killed:
                killed.append(min(mine))
                os.kill(killed[0], signal.SIGKILL)

    fds, before = open_fds(), children()
    with pytest.raises(WorkerDied) as caught:
        work(run, PARALLEL, Killing())
    assert killed
    assert "process" in str(caught.value)
    assert open_fds() == fds
    assert children() == before
    written = run.target if work is copy else run.data
    assert paths(written) <= paths(run.source)
    work(run, PARALLEL, None)
    assert_same(str(run.source), str(written))


def test_what_stops_a_whole_group_is_left_to_the_caller(run: Run) -> None:
    """Ctrl-C and a supervisor's SIGTERM go to all processes; the first one ends the others."""
    many_small(run.source)
    sent: set[int] = set()

    class Terminating(Stop):
        def progress(self, counters: Counters) -> None:
            for pid in children() - sent:
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGINT)
                sent.add(pid)

    copy(run, PARALLEL, Terminating())
    assert len(sent) == PARALLEL.processes
    assert_same(str(run.source), str(run.target))


def test_when_a_process_of_a_restore_is_killed_it_fails(run: Run) -> None:
    many_small(run.source)
    backup(run, PARALLEL)

    class Killing(Stop):
        def progress(self, counters: Counters) -> None:
            for pid in children():
                os.kill(pid, signal.SIGKILL)

    before = children()
    with pytest.raises(WorkerDied):
        restore(run, PARALLEL, Killing())
    assert children() == before
    restore(run, PARALLEL)
    assert_same(str(run.source), str(run.target))


def stand_still(top: str) -> None:
    """For a process of its own: copy in parallel, and in the middle wait to be killed."""
    run = Run(Path(top), make=False)

    class Waiting(Stop):
        def progress(self, counters: Counters) -> None:
            if children() and counters.files >= 300:
                sys.stdout.write(" ".join(map(str, children())) + "\n")
                sys.stdout.flush()
                sys.stdin.read()

    copy(run, PARALLEL, Waiting())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_when_the_copy_is_killed_no_process_remains(run: Run, number: signal.Signals) -> None:
    many_small(run.source)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.data.copy.test_cancel", run.source.parent],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == PARALLEL.processes
        ends = [os.pidfd_open(pid) for pid in pids]
        process.send_signal(number)
        for end in ends:
            assert select.select([end], [], [], 10)[0], "it outlives the copy"
            os.close(end)
        assert process.wait(10) == -number
    assert paths(run.target) <= paths(run.source)
    copy(run, PARALLEL)
    assert_same(str(run.source), str(run.target))


if __name__ == "__main__":
    stand_still(sys.argv[1])
