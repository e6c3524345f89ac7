# SPDX-License-Identifier: Apache-2.0
"""A data node goes silent, and another one takes its operations over."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from manila_backup import exception
from manila_backup.data import jobs
from manila_backup.data.holder import Stop
from manila_backup.data.manager import DataManager
from manila_backup.data.node import Node
from manila_backup.db import operations
from manila_backup.db.operations import Operation
from manila_backup.states import BackupStatus, OperationStatus, ShareStatus
from manila_backup.types import AccessLevel
from tests.data.node.faulty import wait_for
from tests.data.node.killing import END, killed_at
from tests.data.node.world import ADDRESS, World
from tests.db.rivals import execute

pytestmark = pytest.mark.slow

OTHER_ADDRESS = "192.0.2.8"
DONE, FAILED, QUEUED = OperationStatus.DONE, OperationStatus.FAILED, OperationStatus.QUEUED


def other_node(world: World) -> Node:
    return world.node("node-b", address=OTHER_ADDRESS)


def silence(world: World, queued: Operation, *, elsewhere: bool = False) -> None:
    """Its lease ends; ``elsewhere``: what is recorded of its worker is of another machine."""
    execute(world.database, "UPDATE operations SET lease_until_us = 1 WHERE id = :id", id=queued.id)
    if elsewhere:
        execute(
            world.database,
            "UPDATE operations SET worker_started = 'elsewhere/1/1' WHERE id = :id",
            id=queued.id,
        )


def taken_over(world: World, queued: Operation) -> Operation:
    """By node-b, until it ends."""
    manager = DataManager(other_node(world))
    manager.poll()
    wait_for(lambda: world.operation(queued).finished_at_us is not None, "the end")
    manager.stop()
    return world.operation(queued)


def comes_back(world: World) -> None:
    """The node that was silent: it cleans up what only it can, and what nobody else did."""
    manager = DataManager(world.node())
    manager.start()
    manager.reap()
    manager.stop()


@pytest.mark.parametrize("at", ["granted 1", "write", END])
def test_a_restore_is_completed_by_a_node_of_another_machine(world: World, at: str) -> None:
    """Which cannot see whether the silent one's worker lives; those of one machine: the matrix."""
    share_id = world.small_share()
    before = world.tree(share_id)
    backup_id = world.backed_up(share_id)
    (world.store.tree(share_id) / "extra").touch()
    queued = world.queue_restore(backup_id, share_id)
    killed_at(world, at, queued)
    silence(world, queued, elsewhere=True)
    ended = taken_over(world, queued)
    assert (ended.status, ended.fail_reason, ended.host) == (DONE, None, "node-b")
    assert world.tree(share_id) == before
    assert world.share_status(share_id) is ShareStatus.AVAILABLE
    comes_back(world)
    world.assert_nothing_is_left(share_id)


def test_not_before_the_lease_has_ended(world: World) -> None:
    queued = world.queue_backup(world.small_share())
    world.claim(queued, world.node())
    manager = DataManager(other_node(world), run_job=lambda node, held, stop: None)
    manager.poll()
    manager.stop()
    assert world.operation(queued).epoch == 1


def test_not_beyond_the_nodes_capacity(world: World) -> None:
    for _ in range(5):
        queued = world.queue_backup(world.small_share())
        world.claim(queued, world.node())
        silence(world, queued)
    go_on = threading.Event()
    manager = DataManager(other_node(world), run_job=lambda node, held, stop: _wait(go_on))
    manager.poll()
    with world.database.reader() as session:
        assert len(operations.expired(session, "node-b")) == 3
    go_on.set()
    manager.stop()


def _wait(go_on: threading.Event) -> None:
    assert go_on.wait(60)


# --- the fence ------------------------------------------------------------------------------------


class Patient(threading.Event):
    """Of whom is known for how long he waited; ``act`` happens meanwhile."""

    def __init__(self, act: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._act = act
        self.waited: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout)
        self._act()
        return self.is_set()


def killed_while_it_wrote(world: World, *, elsewhere: bool = True) -> tuple[str, Operation]:
    share_id = world.small_share()
    backup_id = world.backed_up(share_id)
    queued = world.queue_restore(backup_id, share_id)
    killed_at(world, "write", queued)
    silence(world, queued, elsewhere=elsewhere)
    assert world.operation(queued).share_written
    return share_id, queued


def attempt(world: World, queued: Operation, stop: Stop) -> Operation:
    node = other_node(world)
    node = world.node("node-b", address=OTHER_ADDRESS, takeover_grace_s=17.0)
    jobs.run_job(node, world.claim(queued, node), stop)
    return world.operation(queued)


def addresses(world: World, share_id: str) -> set[str]:
    return {rule.access_to for rule in world.rules(share_id) if rule.ours}


def test_the_silent_nodes_access_is_gone_and_a_grace_has_passed_before_the_first_write(
    world: World,
) -> None:
    share_id, queued = killed_while_it_wrote(world)
    assert addresses(world, share_id) == {ADDRESS}
    seen: list[set[str]] = []
    stop = Stop()
    stop.event = patient = Patient(lambda: seen.append(addresses(world, share_id)))
    assert attempt(world, queued, stop).status is DONE
    assert patient.waited[0] == 17.0
    assert seen[0] == set(), "nobody has access while it waits"


def test_of_a_worker_that_is_seen_dead_no_grace_is_needed(world: World) -> None:
    _, queued = killed_while_it_wrote(world, elsewhere=False)
    stop = Stop()
    stop.event = patient = Patient()
    assert attempt(world, queued, stop).status is DONE
    assert 17.0 not in patient.waited


def test_who_is_stopped_while_it_waits_leaves_the_fence_to_the_next(world: World) -> None:
    share_id, queued = killed_while_it_wrote(world)
    stop = Stop()
    stop.event = Patient(stop.shut_down)
    waiting = attempt(world, queued, stop)
    assert (waiting.status, waiting.share_written) == (QUEUED, True)
    again = Stop()
    again.event = patient = Patient()
    assert attempt(world, queued, again).status is DONE
    assert patient.waited[0] == 17.0
    assert addresses(world, share_id) == set()


def test_access_that_cannot_be_taken_away_keeps_everybody_from_the_share(world: World) -> None:
    share_id, queued = killed_while_it_wrote(world)
    before = world.tree(share_id)

    def refuse() -> None:
        raise exception.GrantFailed(share_id=share_id, what="revoked", reason="Manila is away")

    world.steps.before("revoke", refuse)
    waiting = attempt(world, queued, Stop())
    assert waiting.status is QUEUED
    assert "Manila is away" in (waiting.fail_reason or "")
    assert world.tree(share_id) == before
    assert addresses(world, share_id) == {ADDRESS}
    stop = Stop()
    stop.event = Patient()
    assert attempt(world, queued, stop).status is DONE


def test_access_by_the_tenants_rule_cannot_be_taken_away(world: World) -> None:
    """So nobody can be sure that the silent node writes no more: the restore ends, and says why."""
    share_id = world.small_share()
    backup_id = world.backed_up(share_id)
    world.add_rule(share_id, ADDRESS, AccessLevel.RW)
    queued = world.queue_restore(backup_id, share_id)
    killed_at(world, "write", queued)
    silence(world, queued, elsewhere=True)
    ended = taken_over(world, queued)
    assert ended.status is FAILED
    assert "node-a" in (ended.fail_reason or "")
    assert ADDRESS in (ended.fail_reason or "")
    assert world.share_status(share_id) is ShareStatus.BACKUP_RESTORING_ERROR
    assert world.backup_status(backup_id) is BackupStatus.AVAILABLE
    assert [rule.access_to for rule in world.rules(share_id)] == [ADDRESS]


def test_what_had_not_begun_to_write_needs_no_fence(world: World) -> None:
    share_id = world.small_share()
    backup_id = world.backed_up(share_id)
    queued = world.queue_restore(backup_id, share_id)
    killed_at(world, "granted 1", queued)
    silence(world, queued, elsewhere=True)
    stop = Stop()
    stop.event = patient = Patient()
    assert attempt(world, queued, stop).status is DONE
    assert 17.0 not in patient.waited
