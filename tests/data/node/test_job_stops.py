# SPDX-License-Identifier: Apache-2.0
"""Jobs that must stop on their way: cancelled, shut down, overtaken."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from manila_backup import exception
from manila_backup.data.holder import Stop
from manila_backup.data.manager import DataManager
from manila_backup.db.intents import IntentKind
from manila_backup.db.operations import Operation
from manila_backup.states import BackupStatus, OperationStatus, ShareStatus
from tests.data.node.world import IS_ROOT, World
from tests.db.builders import committed, without

pytestmark = pytest.mark.slow

DONE, QUEUED = OperationStatus.DONE, OperationStatus.QUEUED
CANCELLED, RUNNING = OperationStatus.CANCELLED, OperationStatus.RUNNING

MOUNT_STEPS = ["mount 1", "mount 2"] if IS_ROOT else []
HERE = ["get 1", "mark 1", "get 2", "grant 1", "mounts 1", *MOUNT_STEPS]
WORKER = ["backup", "publish", "done"]


def stopped_at(world: World, at: str, queued: Operation, stop: Callable[[Stop], None]) -> Operation:
    """One attempt that is told to stop at a step."""
    ours = Stop()
    step, _, turn = at.partition(" ")
    if turn:
        world.steps.before(step, lambda: stop(ours), time=int(turn))
        found = world.work(queued, stop=ours)
    else:
        world.workers.lay(step, "pass" if step == "publish" else "wait")
        thread = world.workers.meet_and(step, lambda: stop(ours), go=step == "publish")
        found = world.work(queued, stop=ours)
        thread.join()
    assert world.steps.all_met()
    return found


# --- cancelled ------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [*HERE, *WORKER])
def test_a_create_is_cancelled(world: World, at: str) -> None:
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    ended = stopped_at(world, at, queued, Stop.cancel)
    assert (ended.status, ended.fail_reason) == (CANCELLED, "Cancelled.")
    assert world.backup_status(ended.backup_id) is BackupStatus.ERROR
    assert world.share_status(share_id) is ShareStatus.AVAILABLE
    assert world.epochs(ended.backup_id) == {}
    world.assert_nothing_is_left(share_id)


def test_a_cancel_that_comes_after_the_copy_is_too_late(world: World) -> None:
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    ended = stopped_at(world, "revoke 1", queued, Stop.cancel)
    assert ended.status is DONE
    assert world.backup_status(ended.backup_id) is BackupStatus.AVAILABLE
    world.assert_nothing_is_left(share_id)


@pytest.mark.parametrize(
    ("at", "share"),
    [
        ("restore", ShareStatus.AVAILABLE),
        ("write", ShareStatus.BACKUP_RESTORING_ERROR),
    ],
)
def test_a_restore_is_cancelled(world: World, at: str, share: ShareStatus) -> None:
    share_id = world.small_share()
    backup_id = world.backed_up(share_id)
    ended = stopped_at(world, at, world.queue_restore(backup_id, share_id), Stop.cancel)
    assert ended.status is CANCELLED
    assert world.backup_status(backup_id) is BackupStatus.AVAILABLE
    assert world.share_status(share_id) is share
    world.assert_nothing_is_left(share_id)


def test_a_cancel_beats_what_could_be_tried_again(world: World) -> None:
    """The provider goes away while the operation is being cancelled: no next attempt."""
    share_id = world.small_share()
    stop = Stop()

    def cancel_and_fail() -> None:
        stop.cancel()
        raise exception.TransientError(reason="it may pass")

    world.steps.before("mounts", cancel_and_fail)
    ended = world.work(world.queue_backup(share_id), stop=stop)
    assert ended.status is CANCELLED
    world.assert_nothing_is_left(share_id)


# --- shut down ------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["granted 1", "publish", "done"])
@pytest.mark.slow
def test_a_shut_down_node_gives_the_create_to_another(world: World, at: str) -> None:
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    waiting = stopped_at(world, at, queued, Stop.shut_down)
    # Nobody's fault: the attempt does not count.
    assert (waiting.status, waiting.attempts, waiting.epoch) == (QUEUED, 0, 1)
    assert world.share_status(share_id) is ShareStatus.BACKUP_CREATING
    assert world.mounts() == []
    assert world.rules(share_id) == ()

    done = world.work(queued, world.node("node-b"))
    assert (done.status, done.host, done.epoch) == (DONE, "node-b", 2)
    assert world.epochs(done.backup_id) == {2: True}
    world.assert_nothing_is_left(share_id)


@pytest.mark.slow
def test_a_shut_down_node_gives_the_restore_to_another(world: World) -> None:
    share_id = world.small_share()
    before = world.tree(share_id)
    backup_id = world.backed_up(share_id)
    queued = world.queue_restore(backup_id, share_id)
    waiting = stopped_at(world, "write", queued, Stop.shut_down)
    assert (waiting.status, waiting.share_written) == (QUEUED, True)
    assert world.share_status(share_id) is ShareStatus.BACKUP_RESTORING
    world.assert_nothing_is_left(share_id)
    assert world.work(queued, world.node("node-b")).status is DONE
    assert world.share_status(share_id) is ShareStatus.AVAILABLE
    assert world.tree(share_id) == before
    world.assert_nothing_is_left(share_id)


# --- overtaken ------------------------------------------------------------------------------------

FENCED = ["mark 1", "get 2", "granted 1", "mounts 1", *MOUNT_STEPS[1:], "publish"]


class Rival:
    """Another node that takes the operation over, and what it sees right after that."""

    def __init__(self, world: World, queued: Operation, share_id: str) -> None:
        self._world = world
        self._queued = queued
        self._share_id = share_id
        self.node = world.node("node-b")

    def take_over(self) -> None:
        self._world.claim(self._queued, self.node)
        self.rows = without(committed(self._world.database), "intents")

    def assert_nothing_more_was_changed(self) -> None:
        world = self._world
        assert without(committed(world.database), "intents") == self.rows
        assert world.mounts() == []
        assert [left for left in world.intents() if left.kind is IntentKind.MOUNT] == []
        # What outlives the loser stays written down.
        found = world.store.get(self._share_id)
        kinds = {left.kind for left in world.intents()}
        assert found.mark is None or IntentKind.MARK in kinds
        assert found.access_rules == () or IntentKind.GRANT in kinds

    def complete(self) -> None:
        done = self._world.work(self._queued, self.node)
        assert (done.status, done.fail_reason, done.host) == (DONE, None, "node-b")


@pytest.mark.parametrize(
    ("at", "told"),
    [*((at, False) for at in FENCED), ("granted 1", True), ("publish", True)],
)
@pytest.mark.slow
def test_who_was_overtaken_changes_nothing_more(world: World, at: str, told: bool) -> None:
    """Told by its own heartbeat, or found out at the next write."""
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    rival = Rival(world, queued, share_id)
    stop = Stop()

    def overtake() -> None:
        rival.take_over()
        if told:
            stop.lose()

    step, _, turn = at.partition(" ")
    if turn:
        world.steps.before(step, overtake, time=int(turn))
        world.work(queued, stop=stop)
    else:
        world.workers.lay(step, "pass")
        thread = world.workers.meet_and(step, overtake, go=True)
        world.work(queued, stop=stop)
        thread.join()
    assert world.steps.all_met()
    rival.assert_nothing_more_was_changed()
    assert stop.lost
    assert not any(world.epochs(queued.backup_id).values())


@pytest.mark.root
def test_who_was_overtaken_mounts_nothing_more(world: World) -> None:
    """Overtaken after the last look at the lease and before a mount is written down."""
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    rival = Rival(world, queued, share_id)
    world.steps.before("mounts", rival.take_over)
    world.work(queued)
    rival.assert_nothing_more_was_changed()
    assert "mount" not in world.steps.seen


@pytest.mark.parametrize("at", ["granted 1", "publish"])
@pytest.mark.slow
def test_who_took_over_comes_to_the_end(world: World, at: str) -> None:
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    rival = Rival(world, queued, share_id)
    step, _, turn = at.partition(" ")
    if turn:
        world.steps.before(step, rival.take_over)
        world.work(queued)
    else:
        world.workers.lay(step, "pass")
        thread = world.workers.meet_and(step, rival.take_over, go=True)
        world.work(queued)
        thread.join()
    rival.complete()
    assert world.epochs(queued.backup_id) == {3: True}
    DataManager(rival.node).reap()
    world.assert_nothing_is_left(share_id)


def test_who_is_overtaken_on_the_way_back_leaves_the_rest_to_the_other(world: World) -> None:
    """The copy is done, the lease is lost before the rule is revoked."""
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    rival = Rival(world, queued, share_id)
    world.steps.before("get", rival.take_over, time=3)
    world.work(queued)
    rival.assert_nothing_more_was_changed()
    assert len(world.rules(share_id)) == 1
    rival.complete()
    assert world.epochs(queued.backup_id) == {3: True}
    DataManager(rival.node).reap()
    world.assert_nothing_is_left(share_id)


@pytest.mark.parametrize("at", ["mark", "grant"])
def test_what_a_suspended_node_makes_when_all_is_over_is_found_by_the_reaper(
    world: World, at: str
) -> None:
    """It had written the intent down and slept; the other came to the end and undid the intent
    before there was anything to undo."""
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    rival = Rival(world, queued, share_id)

    def overtake_and_finish() -> None:
        rival.take_over()
        rival.complete()
        DataManager(rival.node).reap()
        world.assert_nothing_is_left(share_id)

    world.steps.before(at, overtake_and_finish)
    ended = world.work(queued)
    assert (ended.status, ended.host) == (DONE, "node-b")
    assert len(world.intents()) == 1
    DataManager(rival.node).reap()
    world.assert_nothing_is_left(share_id)


def test_a_restore_that_was_overtaken_does_not_begin_to_write(world: World) -> None:
    share_id = world.small_share()
    backup_id = world.backed_up(share_id)
    tree = world.store.tree(share_id)
    (tree / "file").write_text("newer")
    before = world.tree(share_id)
    queued = world.queue_restore(backup_id, share_id)
    rival = Rival(world, queued, share_id)
    world.workers.lay("restore", "pass")
    thread = world.workers.meet_and("restore", rival.take_over, go=True)
    assert world.work(queued).status is RUNNING
    thread.join()
    rival.assert_nothing_more_was_changed()
    assert not world.operation(queued).share_written
    assert world.tree(share_id) == before
