# SPDX-License-Identifier: Apache-2.0
"""After the dead: a data node is killed at a step, another process of the same node comes up."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from manila_backup.data.holder import Stop
from manila_backup.data.manager import DataManager
from manila_backup.data.node import Node
from manila_backup.data.undo import undo
from manila_backup.data.worker_process import ProcessId
from manila_backup.db import intents, operations
from manila_backup.db.intents import IntentKind
from manila_backup.db.operations import Operation
from manila_backup.states import BackupStatus, OperationStatus, ShareStatus
from tests.data.node.faulty import wait_for
from tests.data.node.killing import killed_at
from tests.data.node.processes import is_alive
from tests.data.node.world import World
from tests.db.rivals import execute

pytestmark = pytest.mark.slow

DONE, FAILED, RUNNING = OperationStatus.DONE, OperationStatus.FAILED, OperationStatus.RUNNING


@contextmanager
def started(node: Node) -> Iterator[DataManager]:
    manager = DataManager(node)
    manager.start()
    try:
        yield manager
    finally:
        manager.stop()


def recover(world: World, queued: Operation) -> Operation:
    """A new process of the same node; the operation when it has ended."""
    with started(world.node()) as manager:
        wait_for(lambda: world.operation(queued).status is not RUNNING, "the end")
        # Marks of former epochs go with the reaper.
        manager.reap()
    return world.operation(queued)


def test_a_restore_that_was_killed_while_it_wrote_and_is_then_cancelled(world: World) -> None:
    share_id = world.small_share()
    backup_id = world.backed_up(share_id)
    queued = world.queue_restore(backup_id, share_id)
    killed_at(world, "write", queued)
    world.database.write(lambda session: operations.request_cancel(session, queued.id))
    assert recover(world, queued).status is OperationStatus.CANCELLED
    assert world.share_status(share_id) is ShareStatus.BACKUP_RESTORING_ERROR
    assert world.backup_status(backup_id) is BackupStatus.AVAILABLE
    world.assert_nothing_is_left(share_id)


@pytest.mark.parametrize("at", ["granted 1", "publish"])
def test_an_operation_that_kills_its_nodes_is_given_up(world: World, at: str) -> None:
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    killed_at(world, at, queued)
    execute(world.database, "UPDATE operations SET attempts = 3 WHERE id = :id", id=queued.id)
    ended = recover(world, queued)
    assert ended.status is FAILED
    assert "given up after 3 attempts" in (ended.fail_reason or "")
    assert world.backup_status(queued.backup_id) is BackupStatus.ERROR
    assert world.share_status(share_id) is ShareStatus.AVAILABLE
    assert world.epochs(queued.backup_id) == {}
    world.assert_nothing_is_left(share_id)


def test_the_owner_may_delete_the_share_of_a_given_up_operation(world: World) -> None:
    """The share is gone when the reaper comes: then so are its rules and its mark."""
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    killed_at(world, "granted 1", queued)
    execute(world.database, "UPDATE operations SET attempts = 3 WHERE id = :id", id=queued.id)
    world.change_share(share_id, mark=None)
    world.store.begin_delete(share_id)
    world.store.finish_delete(share_id)
    assert recover(world, queued).status is FAILED
    assert world.intents() == []


# --- the former worker ----------------------------------------------------------------------------


@pytest.fixture
def former_worker() -> Iterator[subprocess.Popen[bytes]]:
    """A process that outlived its node."""
    found = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield found
    found.kill()
    found.wait()


def _left_running(world: World, worker: ProcessId) -> Operation:
    queued = world.queue_backup(world.small_share())
    held = world.claim(queued, world.node())
    world.database.write(
        lambda session: operations.note(
            session, held, worker_pid=worker.pid, worker_started=worker.started
        )
    )
    return queued


def test_a_former_worker_that_still_lives_is_killed_before_its_operation_is_taken_over(
    world: World, former_worker: subprocess.Popen[bytes]
) -> None:
    identity = ProcessId.of(former_worker.pid)
    assert identity is not None
    queued = _left_running(world, identity)
    alive: list[bool] = []

    def run_job(node: Node, held: Operation, stop: Stop) -> None:
        alive.append(is_alive(former_worker.pid))

    manager = DataManager(world.node(), run_job=run_job)
    manager.poll()
    wait_for(lambda: alive == [False], "the job")
    manager.stop()
    assert world.operation(queued).epoch == 2


def test_a_process_that_has_the_former_workers_pid_by_chance_lives_on(
    world: World, former_worker: subprocess.Popen[bytes]
) -> None:
    queued = _left_running(world, ProcessId(pid=former_worker.pid, started="another boot/1"))
    manager = DataManager(world.node(), run_job=lambda node, held, stop: None)
    manager.poll()
    manager.stop()
    assert world.operation(queued).epoch == 2
    assert is_alive(former_worker.pid)


def test_other_nodes_operations_are_left_to_them(world: World) -> None:
    queued = world.queue_backup(world.small_share())
    world.claim(queued, world.node("node-b"))
    manager = DataManager(world.node(), run_job=lambda node, held, stop: None)
    manager.poll()
    manager.stop()
    held = world.operation(queued)
    assert (held.host, held.epoch) == ("node-b", 1)


def test_a_row_that_cannot_be_recovered_does_not_keep_the_node_from_the_others(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has edited tables: the operation's backup is not there."""
    broken = world.queue_backup(world.small_share())
    world.claim(broken, world.node())
    execute(world.database, "UPDATE operations SET attempts = 9 WHERE id = :id", id=broken.id)
    execute(world.database, "DELETE FROM backups WHERE id = :id", id=broken.backup_id)
    good = world.queue_backup(world.small_share())
    begun: list[str] = []
    manager = DataManager(world.node(), run_job=lambda node, held, stop: begun.append(held.id))
    with caplog.at_level(logging.ERROR):
        manager.poll()
    wait_for(lambda: begun == [good.id], "the other job")
    manager.stop()
    assert f"Operation {broken.id} could not be recovered" in caplog.text


# --- mounts ---------------------------------------------------------------------------------------


@pytest.mark.root
def test_leftover_mounts_are_gone_before_anything_is_claimed(world: World) -> None:
    queued = world.queue_backup(world.small_share())
    killed_at(world, "backup", queued)
    assert len(world.mounts()) == 2
    seen: list[list[str]] = []

    def run_job(node: Node, held: Operation, stop: Stop) -> None:
        seen.append(world.mounts())

    manager = DataManager(world.node(), run_job=run_job)
    manager.start()
    wait_for(lambda: seen, "the job")
    manager.stop()
    assert seen[0] == []


def test_a_leftover_that_cannot_go_does_not_keep_the_node_from_starting(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    stray = world.mounts_of("node-a") / "stray"
    stray.mkdir(parents=True)
    (stray / "file").touch()
    with started(world.node()):
        pass
    assert "A leftover mount stays" in caplog.text
    assert (stray / "file").exists()


def test_mounts_of_another_node_are_left_to_its_own_reaper(world: World) -> None:
    queued = world.queue_backup(world.small_share())
    held = world.claim(queued, world.node())
    path = str(world.mounts_of("node-b") / "x")
    intent = world.database.write(
        lambda session: intents.create(
            session,
            operation_id=held.id,
            epoch=held.epoch,
            host="node-b",
            kind=IntentKind.MOUNT,
            detail={"path": path},
        )
    )
    Path(path).mkdir(parents=True)
    execute(world.database, "UPDATE operations SET status = 'failed' WHERE id = :id", id=held.id)
    DataManager(world.node()).reap()
    assert [left.attempts for left in world.intents()] == [0]
    assert not undo(world.node(), intent)
    (left,) = world.intents()
    assert "node-b" in (left.last_error or "")
    DataManager(world.node("node-b")).reap()
    assert world.intents() == []
    assert not Path(path).exists()
