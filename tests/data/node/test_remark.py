# SPDX-License-Identifier: Apache-2.0
"""A mark that somebody takes off while an operation runs is set again by the reaper."""

from __future__ import annotations

from dataclasses import replace

import pytest

from manila_backup.data.holder import Holder, Stop
from manila_backup.data.manager import DataManager
from manila_backup.data.remark import mark_again
from manila_backup.db.operations import Operation
from manila_backup.share.local.records import ShareMark
from manila_backup.states import OperationStatus
from tests.data.node.faulty import wait_for
from tests.data.node.test_job_faults import ERRORS
from tests.data.node.world import World

pytestmark = pytest.mark.slow


def take_mark_off(world: World, share_id: str) -> None:
    world.store.update(share_id, lambda share: replace(share, mark=None))


def mark_of(world: World, share_id: str) -> ShareMark | None:
    return world.store.get(share_id).mark


@pytest.mark.parametrize("kind", ["create", "restore"])
def test_a_mark_that_was_taken_off_is_set_again(world: World, kind: str) -> None:
    share_id = world.small_share()
    step, status = ("backup", "backup_creating")
    if kind == "restore":
        queued = world.queue_restore(world.backed_up(share_id), share_id)
        step, status = ("restore", "backup_restoring")
    else:
        queued = world.queue_backup(share_id)
    world.workers.lay(step, "pass")
    manager = DataManager(world.node())
    manager.start()
    try:

        def disturb() -> None:
            wanted = ShareMark(operation_id=queued.id, status=status)
            assert mark_of(world, share_id) == wanted
            take_mark_off(world, share_id)
            manager.reap()
            assert mark_of(world, share_id) == wanted

        world.workers.meet_and(step, disturb, go=True).join()
        wait_for(lambda: world.operation(queued).status is OperationStatus.DONE, "the end")
        manager.reap()
    finally:
        manager.stop()
    world.assert_nothing_is_left(share_id)


@pytest.mark.parametrize(("step", "cancelled"), [("get", False), ("mounts", True)])
def test_a_share_that_is_not_to_be_marked_is_not(world: World, step: str, cancelled: bool) -> None:
    """Before the job has written down that it will, and when it was told to stop."""
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    node, stop = world.node(), Stop()

    def look_after() -> None:
        if cancelled:
            stop.cancel()
        mark_again(Holder(node, world.operation(queued), stop))

    world.steps.before(step, look_after)
    world.work(queued, node, stop)
    assert world.steps.all_met()
    assert world.steps.seen.count("mark") == 1  # the job's own
    world.assert_nothing_is_left(share_id)


def test_after_the_end_nothing_is_marked(world: World) -> None:
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    held: list[Operation] = []
    world.steps.before("mounts", lambda: held.append(world.operation(queued)))
    world.work(queued)
    mark_again(Holder(world.node(), held[0], Stop()))
    world.assert_nothing_is_left(share_id)


def test_a_provider_that_is_away_does_not_end_the_job(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    world.steps.before("mounts", lambda: world.steps.fail("mark", ERRORS["transient"](), time=1))
    world.workers.lay("backup", "pass")
    node, stop = world.node(), Stop()
    thread = world.workers.meet_and(
        "backup", lambda: mark_again(Holder(node, world.operation(queued), stop)), go=True
    )
    assert world.work(queued, node, stop).status is OperationStatus.DONE
    thread.join()
    assert world.steps.all_met()
    assert "could not be looked after" in caplog.text
    world.assert_nothing_is_left(share_id)


def test_a_mark_that_a_suspended_node_sets_again_too_late_is_found_by_the_reaper(
    world: World,
) -> None:
    """Between its look at the lease and the mark another has taken over and come to the end."""
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    rival = world.node("node-b")
    node, stop = world.node(), Stop()

    def finish() -> None:
        world.claim(queued, rival)
        assert world.work(queued, rival).status is OperationStatus.DONE
        DataManager(rival).reap()
        assert mark_of(world, share_id) is None

    def look_after() -> None:
        held = world.operation(queued)
        world.steps.before("mark", finish)
        mark_again(Holder(node, held, stop))
        assert mark_of(world, share_id) is not None

    world.workers.lay("backup", "pass")
    thread = world.workers.meet_and("backup", look_after, go=True)
    assert world.work(queued, node, stop).host == "node-b"
    thread.join()
    assert world.steps.all_met()
    DataManager(rival).reap()
    world.assert_nothing_is_left(share_id)
