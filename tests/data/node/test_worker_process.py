# SPDX-License-Identifier: Apache-2.0
"""Workers: real processes, started, followed, stopped and outlived by nobody."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from manila_backup import exception
from manila_backup.data import worker_process
from manila_backup.data.drivers.base import Progress
from manila_backup.data.task import Task
from manila_backup.data.worker_process import Hooks, ProcessId, kill_group
from manila_backup.types import BackupRef, Parallelism
from tests.data.drivers.trees import mounted
from tests.data.node.faulty import LIMIT_S, WorkerFaults, wait_for
from tests.data.node.faulty_driver import DRIVER, REPORTS
from tests.data.node.processes import ends, is_alive, session_members

pytestmark = pytest.mark.slow

REF = BackupRef(project_id="p-1", backup_id="b-1", epoch=1)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    return path


class Watch:
    """Hooks that note what they are told."""

    def __init__(self) -> None:
        self.started: list[ProcessId] = []
        self.progress: list[Progress] = []

    @property
    def hooks(self) -> Hooks:
        return Hooks(started=self.started.append, progress=self.progress.append)

    def assert_nobody_is_left(self) -> None:
        (worker,) = self.started
        wait_for(lambda: session_members(worker.pid) == [], "the end of the worker's session")


def task(store: Path, method: str, *arguments: Any, driver: str = DRIVER) -> Task:
    controlled = method not in ("scan", "inspect", "orphans")
    return Task(
        parallelism=Parallelism(),
        driver=driver,
        root=mounted(store),
        method=method,
        arguments=arguments,
        controlled=controlled,
    )


def run(what: Task, watch: Watch, stop: threading.Event | None = None, **options: Any) -> Any:
    return worker_process.run(what, stop or threading.Event(), watch.hooks, **options)


def test_the_result_comes_back(store: Path) -> None:
    watch = Watch()
    assert run(task(store, "scan", driver="nfs"), watch) == []
    watch.assert_nobody_is_left()


def test_the_drivers_error_comes_back_with_its_fields(store: Path) -> None:
    watch = Watch()
    with pytest.raises(exception.BackupNotStored) as raised:
        run(task(store, "inspect", REF, driver="nfs"), watch)
    assert raised.value.backup_id == "b-1"
    watch.assert_nobody_is_left()


def test_a_crash_is_logged_here_and_reads_as_a_dead_worker(
    store: Path, worker_faults: WorkerFaults, caplog: pytest.LogCaptureFixture
) -> None:
    worker_faults.lay("discard", "crash")
    watch = Watch()
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(exception.WorkerDied, match="internal error"),
    ):
        run(task(store, "discard", REF), watch)
    assert "RuntimeError: a bug in the driver" in caplog.text
    watch.assert_nobody_is_left()


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(lambda store: task(store, "discard", driver="nfs"), id="arguments"),
        pytest.param(lambda store: task(store, "scan", driver="unheard-of"), id="driver"),
        pytest.param(lambda store: task(store, "__init__", driver="nfs"), id="method"),
    ],
)
def test_a_bad_task_reads_as_a_dead_worker(
    store: Path, caplog: pytest.LogCaptureFixture, what: Any
) -> None:
    watch = Watch()
    with caplog.at_level(logging.ERROR), pytest.raises(exception.WorkerDied):
        run(what(store), watch)
    assert "Traceback" in caplog.text
    watch.assert_nobody_is_left()


def test_a_killed_worker_is_named_with_its_signal(store: Path, worker_faults: WorkerFaults) -> None:
    worker_faults.lay("discard", "die")
    watch = Watch()
    with pytest.raises(exception.WorkerDied, match="signal 9"):
        run(task(store, "discard", REF), watch)
    watch.assert_nobody_is_left()


def test_what_a_dead_worker_has_started_is_killed(store: Path, worker_faults: WorkerFaults) -> None:
    worker_faults.lay("discard", "leave a child")
    watch = Watch()
    with pytest.raises(exception.WorkerDied):
        run(task(store, "discard", REF), watch)
    watch.assert_nobody_is_left()


def _set_when_met(worker_faults: WorkerFaults, stop: threading.Event) -> None:
    worker_faults.meet("discard")
    stop.set()


def test_cancel_is_honoured(store: Path, worker_faults: WorkerFaults) -> None:
    worker_faults.lay("discard", "wait")
    stop = threading.Event()
    canceller = threading.Thread(target=_set_when_met, args=(worker_faults, stop))
    canceller.start()
    watch = Watch()
    with pytest.raises(exception.Cancelled):
        # The worker stops by itself, or this would take an hour.
        run(task(store, "discard", REF), watch, stop, grace_s=lambda: 3600.0)
    canceller.join()
    watch.assert_nobody_is_left()


def test_a_worker_that_ignores_cancel_is_killed(store: Path, worker_faults: WorkerFaults) -> None:
    worker_faults.lay("discard", "hang")
    stop = threading.Event()
    canceller = threading.Thread(target=_set_when_met, args=(worker_faults, stop))
    canceller.start()
    watch = Watch()
    with pytest.raises(exception.Cancelled):
        run(task(store, "discard", REF), watch, stop, grace_s=lambda: 0.2)
    canceller.join()
    watch.assert_nobody_is_left()


def test_a_worker_is_killed_at_once_when_the_patience_ends(
    store: Path, worker_faults: WorkerFaults
) -> None:
    """The lease is about to go while the worker is given time to end in order."""
    worker_faults.lay("discard", "hang")
    stop = threading.Event()
    canceller = threading.Thread(target=_set_when_met, args=(worker_faults, stop))
    canceller.start()
    watch, patience_s = Watch(), [3600.0]
    threading.Timer(1.0, lambda: patience_s.__setitem__(0, 0.0)).start()
    with pytest.raises(exception.Cancelled):
        run(task(store, "discard", REF), watch, stop, grace_s=lambda: patience_s[0])
    canceller.join()
    watch.assert_nobody_is_left()


def test_an_error_in_a_hook_ends_the_worker(store: Path) -> None:
    seen: list[ProcessId] = []

    def started(process: ProcessId) -> None:
        seen.append(process)
        raise exception.LeaseLost(operation_id="o-1")

    with pytest.raises(exception.LeaseLost):
        worker_process.run(
            task(store, "scan", driver="nfs"), threading.Event(), Hooks(started=started)
        )
    assert not is_alive(seen[0].pid)


@pytest.mark.parametrize("refused", [False, True])
def test_consent_is_asked_and_its_refusal_is_raised_in_the_driver(
    store: Path, worker_faults: WorkerFaults, refused: bool
) -> None:
    worker_faults.lay("discard", "ask")
    asked = []

    def consent(question: str) -> None:
        asked.append(question)
        if refused:
            raise exception.LeaseLost(operation_id="o-1")

    error = exception.LeaseLost if refused else exception.PermanentError
    with pytest.raises(error) as raised:
        worker_process.run(task(store, "discard", REF), threading.Event(), Hooks(consent=consent))
    assert asked == ["about_to_publish"]
    assert refused == (raised.value.fields == {"operation_id": "o-1"})


def test_progress_is_thinned_out_but_every_percent_comes(
    store: Path, worker_faults: WorkerFaults
) -> None:
    worker_faults.lay("discard", "report")
    watch = Watch()
    with pytest.raises(exception.PermanentError, match="all reported"):
        run(task(store, "discard", REF), watch)
    assert {report.done * 100 // REPORTS for report in watch.progress} == set(range(101))
    assert len(watch.progress) < 1000


# --- the parent dies ------------------------------------------------------------------------------

PARENT = """
import pickle, sys, threading
from manila_backup.data import worker_process
worker_process.run(pickle.load(sys.stdin.buffer), threading.Event())
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_a_worker_dies_with_its_parent(
    store: Path, worker_faults: WorkerFaults, stopped: bool
) -> None:
    """Stopped, it cannot read from its socket: then the kernel alone must do it."""
    worker_faults.lay("discard", "hang")
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE)
    assert parent.stdin is not None
    with parent.stdin as stdin:
        stdin.write(pickle.dumps(task(store, "discard", REF)))
    try:
        worker = os.pidfd_open(worker_faults.meet("discard"))
        if stopped:
            signal.pidfd_send_signal(worker, signal.SIGSTOP)
    finally:
        parent.kill()
        parent.wait()
    try:
        assert ends(worker)
    finally:
        os.close(worker)


def test_a_worker_ends_when_its_parent_gives_it_up(
    store: Path, worker_faults: WorkerFaults
) -> None:
    """The parent lives, but its end of the socket is closed."""
    worker_faults.lay("discard", "hang")
    ours, theirs = socket.socketpair()
    with theirs:
        worker = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "manila_backup.data.worker",
                str(theirs.fileno()),
                str(os.getpid()),
            ],
            pass_fds=[theirs.fileno()],
        )
    with Connection(ours.detach()) as connection:
        connection.send(task(store, "discard", REF))
        worker_faults.meet("discard")
    assert worker.wait(LIMIT_S) == 1


def test_a_worker_that_is_not_its_parents_child_any_more_does_nothing(store: Path) -> None:
    """The parent died before the worker could ask the kernel to follow it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        argv = [sys.executable, "-m", "manila_backup.data.worker", str(theirs.fileno()), "1"]
        worker = subprocess.Popen(argv, pass_fds=[theirs.fileno()])
        assert worker.wait(LIMIT_S) == 1


# --- whom a pid belongs to ------------------------------------------------------------------------


@pytest.fixture
def group() -> Any:
    """A process that leads a group of two."""
    found = subprocess.Popen(
        ["sh", "-c", "sleep 600 & echo; wait"], start_new_session=True, stdout=subprocess.PIPE
    )
    assert found.stdout is not None
    found.stdout.readline()
    yield found
    with contextlib.suppress(ProcessLookupError):
        os.killpg(found.pid, signal.SIGKILL)
    found.wait()
    found.stdout.close()


def test_the_whole_group_is_killed(group: subprocess.Popen[bytes]) -> None:
    identity = ProcessId.of(group.pid)
    assert identity is not None
    assert len(session_members(group.pid)) == 2
    assert kill_group(identity)
    wait_for(lambda: session_members(group.pid) == [], "the end of the group")
    # A zombie, and then nothing at all, is as dead.
    assert kill_group(identity)
    group.wait()
    assert kill_group(identity)
    assert ProcessId.of(group.pid) is None


@pytest.mark.parametrize("reused", ["in this boot", "after another"])
def test_a_reused_pid_is_left_alone(group: subprocess.Popen[bytes], reused: str) -> None:
    identity = ProcessId.of(group.pid)
    assert identity is not None
    here, _, started = identity.started.rpartition("/")
    other = f"{here}/{int(started) - 1}" if reused == "in this boot" else f"another/1/{started}"
    assert kill_group(ProcessId(pid=group.pid, started=other))
    assert len(session_members(group.pid)) == 2


def test_who_would_be_seen_here(group: subprocess.Popen[bytes]) -> None:
    """Not a process of another machine, of a former boot, or of another container."""
    identity = ProcessId.of(group.pid)
    assert identity is not None
    assert identity.is_within_sight
    boot, namespace, started = identity.started.split("/")
    for elsewhere in (f"another/{namespace}/{started}", f"{boot}/1/{started}"):
        assert not ProcessId(pid=group.pid, started=elsewhere).is_within_sight


def test_a_process_is_recognised_by_its_start(group: subprocess.Popen[bytes]) -> None:
    assert ProcessId.of(group.pid) == ProcessId.of(group.pid)
    assert ProcessId.of(group.pid) != ProcessId.of(os.getpid())


# --- what a worker is made of ---------------------------------------------------------------------


def test_workers_do_not_import_eventlet_databases_or_the_bus(
    store: Path, worker_faults: WorkerFaults
) -> None:
    worker_faults.lay("discard", "tell modules")
    with pytest.raises(exception.PermanentError) as raised:
        run(task(store, "discard", REF), Watch())
    loaded = set(raised.value.reason.split())
    assert "manila_backup.data.drivers.tree" in loaded
    assert not loaded & {"eventlet", "sqlalchemy", "oslo_messaging", "oslo_service", "werkzeug"}


def test_workers_import_nothing_from_the_working_directory(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "msgpack.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(trap)
    assert run(task(store, "scan", driver="nfs"), Watch()) == []
