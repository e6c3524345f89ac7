# SPDX-License-Identifier: Apache-2.0
"""A backup share that is a share of the provider's: this node has access to it while it is needed,
and not longer, whoever else comes and goes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from manila_backup.data.backup_share import ManagedShare
from manila_backup.data.holder import Stop
from manila_backup.data.manager import DataManager
from manila_backup.data.node import Node
from manila_backup.db import intents, services
from manila_backup.exception import GrantFailed
from manila_backup.states import BackupStatus, OperationStatus
from manila_backup.types import AccessLevel
from tests.data.node.world import ADDRESS, World

pytestmark = pytest.mark.slow

DONE, FAILED = OperationStatus.DONE, OperationStatus.FAILED


@pytest.fixture
def backups_id(world: World) -> Iterator[str]:
    """The share that holds the backups."""
    share_id = world.share(filled=False)
    world.store.tree(share_id).chmod(0o700)
    world.backup_share = world.store.tree(share_id)
    yield share_id
    assert world.mounts() == []


@pytest.fixture
def node(world: World, backups_id: str) -> Node:
    return world.node(backup_mount=ManagedShare(share_id=backups_id))


def granted(world: World, share_id: str) -> set[tuple[str, str]]:
    return {(rule.access_to, rule.access_level.value) for rule in world.rules(share_id)}


OURS = {(ADDRESS, "rw")}


def test_access_is_there_for_each_operation_and_gone_after_it(
    world: World, node: Node, backups_id: str
) -> None:
    share_id = world.share()
    before = world.tree(share_id)
    done = world.work(world.queue_backup(share_id), node)
    assert (done.status, done.fail_reason) == (DONE, None)
    world.assert_nothing_is_left(share_id)
    world.assert_nothing_is_left(backups_id)
    (world.store.tree(share_id) / "a" / "x.txt").unlink()
    done = world.work(world.queue_restore(done.backup_id, share_id), node)
    assert (done.status, done.fail_reason) == (DONE, None)
    assert world.tree(share_id) == before
    world.assert_nothing_is_left(backups_id)
    done = world.work(world.queue_delete(done.backup_id), node)
    assert done.status is DONE
    world.assert_nothing_is_left(backups_id)
    assert world.backup_status(done.backup_id) in (None, BackupStatus.DELETED)


def test_it_is_ours_while_the_driver_works(world: World, node: Node, backups_id: str) -> None:
    queued = world.queue_backup(world.small_share())
    seen: list[set[tuple[str, str]]] = []
    world.workers.lay("publish", "pass")
    meeting = world.workers.meet_and(
        "publish", lambda: seen.append(granted(world, backups_id)), go=True
    )
    done = world.work(queued, node)
    meeting.join()
    assert done.status is DONE
    assert seen == [OURS]
    assert granted(world, backups_id) == set()


def test_the_last_one_takes_it_away(world: World, node: Node, backups_id: str) -> None:
    with node.backup_share.mounted(read_only=True):
        with node.backup_share.mounted(read_only=False):
            assert granted(world, backups_id) == OURS
        assert granted(world, backups_id) == OURS
    assert granted(world, backups_id) == set()


USER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_SH)
print("has it", flush=True)
sys.stdin.read()
"""


def test_another_process_of_the_node_counts_until_it_dies(
    world: World, node: Node, backups_id: str
) -> None:
    """The manage command beside the data node."""
    lock = f"{node.mounts.directory}.lock"
    with node.backup_share.mounted(read_only=True):
        other = subprocess.Popen(
            [sys.executable, "-c", USER, lock],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert other.stdout is not None
        assert other.stdout.readline() == "has it\n"
    assert granted(world, backups_id) == OURS
    other.kill()
    other.communicate()
    node.backup_share.release()
    assert granted(world, backups_id) == set()


def test_a_revocation_that_fails_is_tried_again(world: World, node: Node, backups_id: str) -> None:
    share_id = world.small_share()
    failing = GrantFailed(share_id=backups_id, what="revoked", reason="injected")
    world.steps.fail("revoke", failing)
    done = world.work(world.queue_backup(share_id), node)
    assert done.status is DONE
    assert granted(world, backups_id) == OURS
    assert [intent.detail["share_id"] for intent in world.intents()] == [backups_id]
    DataManager(node).reap()
    assert granted(world, backups_id) == set()
    world.assert_nothing_is_left(share_id)


def left_by(world: World, host: str, backups_id: str) -> str:
    """What an operation of ``host`` has left that was killed; another node cleans up."""
    share_id = world.small_share()
    dead = world.node(host, backup_mount=ManagedShare(share_id=backups_id), address="192.0.2.99")
    queued = world.queue_backup(share_id)
    world.steps.fail("revoke", GrantFailed(share_id=share_id, what="revoked", reason="x"), times=2)
    assert world.work(queued, dead).status is DONE
    assert granted(world, backups_id) == {("192.0.2.99", "rw")}
    return share_id


def test_that_of_a_node_that_is_gone_is_taken_away_by_another(
    world: World, node: Node, backups_id: str
) -> None:
    share_id = left_by(world, "node-z", backups_id)
    DataManager(node).reap()
    assert granted(world, backups_id) == set()
    world.assert_nothing_is_left(share_id)


def test_that_of_a_node_that_reports_in_is_left_to_it(
    world: World, node: Node, backups_id: str
) -> None:
    """Other operations of it may need it."""
    left_by(world, "node-z", backups_id)
    world.database.write(
        lambda session: services.report(
            session,
            host="node-z",
            binary="manila-backup-data",
            topic="manila-backup-data",
            availability_zone="nova",
            address="192.0.2.99",
            starting=True,
        )
    )
    DataManager(node).reap()
    assert granted(world, backups_id) == {("192.0.2.99", "rw")}


def test_a_rule_of_its_owner_is_used_and_kept(world: World, node: Node, backups_id: str) -> None:
    world.add_rule(backups_id, ADDRESS, AccessLevel.RW)
    assert world.work(world.queue_backup(world.small_share()), node).status is DONE
    assert granted(world, backups_id) == OURS


def test_it_is_not_backed_up_into_itself(world: World, node: Node, backups_id: str) -> None:
    queued = world.queue_backup(backups_id)
    ended = world.work(queued, node)
    assert ended.status is FAILED
    assert ended.fail_reason is not None
    assert "is the backup share" in ended.fail_reason
    assert granted(world, backups_id) == set()


def test_a_backup_share_that_is_gone_is_a_clear_failure(world: World, node: Node) -> None:
    gone = replace(
        node, settings=replace(node.settings, backup_mount=ManagedShare(share_id="gone"))
    )
    ended = world.work(world.queue_backup(world.small_share()), gone)
    assert ended.status is FAILED
    assert ended.fail_reason is not None
    assert "gone" in ended.fail_reason


def test_nothing_is_locked_for_a_fixed_export(world: World) -> None:
    node = world.node()
    world.work(world.queue_backup(world.small_share()), node)
    assert not os.path.lexists(f"{node.mounts.directory}.lock")


def test_who_lost_the_operation_gives_its_own_access_back(
    world: World, node: Node, backups_id: str
) -> None:
    """Another node has taken over and forgotten the intent, since this one reports in."""
    queued = world.queue_backup(world.small_share())
    stop = Stop()

    def overtaken() -> None:
        for intent in world.intents():
            world.database.write(lambda session, id_=intent.id: intents.undone(session, id_))
        stop.lose()

    world.workers.lay("publish", "pass")
    meeting = world.workers.meet_and("publish", overtaken, go=True)
    world.work(queued, node, stop)
    meeting.join()
    assert granted(world, backups_id) == set()
