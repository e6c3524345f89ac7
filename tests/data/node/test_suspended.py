# SPDX-License-Identifier: Apache-2.0
"""A data node is suspended (SIGSTOP) until its lease has ended and another one has done its work.
When it continues it changes nothing: not the rows, not the share, not the backup."""

from __future__ import annotations

import pytest

from manila_backup.db.operations import Operation
from manila_backup.states import BackupStatus, OperationStatus, ShareStatus
from tests.data.node.killing import continued, suspended_at
from tests.data.node.test_takeover import comes_back, silence, taken_over
from tests.data.node.world import IS_ROOT, World
from tests.db.builders import Contents, committed

pytestmark = pytest.mark.slow

DONE = OperationStatus.DONE

MOUNTS = ["mount 1", "mount 2", "umount 1", "umount 2"] if IS_ROOT else []
STEPS = ["mark 1", "marked 1", "grant 1", "granted 1", *MOUNTS, "revoke 1", "unmark 1"]


def rows(world: World) -> Contents:
    """But for the intents: what the node finds that it has made is written down for the reaper."""
    return {name: found for name, found in committed(world.database).items() if name != "intents"}


def overtaken(world: World, at: str, queued: Operation) -> Operation:
    """Suspended there, overtaken, and continued; nothing but intents differs after that."""
    child = suspended_at(world, at, queued)
    silence(world, queued)
    ended = taken_over(world, queued)
    before = rows(world)
    continued(world, child)
    assert rows(world) == before
    comes_back(world)
    return ended


@pytest.mark.parametrize("at", [*STEPS, "done", "publish"])
def test_a_create(world: World, at: str) -> None:
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    ended = overtaken(world, at, queued)
    assert (ended.status, ended.fail_reason, ended.host) == (DONE, None, "node-b")
    assert world.backup_status(queued.backup_id) is BackupStatus.AVAILABLE
    assert world.epochs(queued.backup_id) == {2: True}
    assert world.share_status(share_id) is ShareStatus.AVAILABLE
    world.assert_nothing_is_left(share_id)
    # It is what it should be.
    before = world.tree(share_id)
    (world.store.tree(share_id) / "extra").touch()
    world.work(world.queue_restore(queued.backup_id, share_id))
    assert world.tree(share_id) == before


@pytest.mark.parametrize("at", [*STEPS, "write"])
def test_a_restore(world: World, at: str) -> None:
    share_id = world.small_share()
    before = world.tree(share_id)
    backup_id = world.backed_up(share_id)
    (world.store.tree(share_id) / "extra").touch()
    queued = world.queue_restore(backup_id, share_id)
    ended = overtaken(world, at, queued)
    assert (ended.status, ended.fail_reason, ended.host) == (DONE, None, "node-b")
    assert world.tree(share_id) == before
    assert world.share_status(share_id) is ShareStatus.AVAILABLE
    world.assert_nothing_is_left(share_id)


def test_a_delete(world: World) -> None:
    share_id = world.small_share()
    backup_id = world.backed_up(share_id)
    queued = world.queue_delete(backup_id)
    assert overtaken(world, "delete", queued).status is DONE
    assert world.backup(backup_id) is None
    assert world.epochs(backup_id) == {}
    world.assert_nothing_is_left(share_id)
