# SPDX-License-Identifier: Apache-2.0
"""A fault at every step of a job: what it becomes, and that nothing of it stays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from oslo_db import exception as db_exc
from sqlalchemy import event

from manila_backup import exception
from manila_backup.data.manager import GONE_SHARES_EVERY_S, DataManager
from manila_backup.db.intents import IntentKind
from manila_backup.states import BackupEvent, BackupStatus, OperationStatus, ShareStatus
from tests.data.node.world import IS_ROOT, World
from tests.db.rivals import execute

pytestmark = pytest.mark.slow

DONE, FAILED, QUEUED = OperationStatus.DONE, OperationStatus.FAILED, OperationStatus.QUEUED
RUNNING = OperationStatus.RUNNING

ERRORS: dict[str, Callable[[], exception.OperationError]] = {
    "transient": lambda: exception.TransientError(reason="it may pass"),
    "permanent": lambda: exception.PermanentError(reason="it stays"),
}

MOUNT_STEPS = ["mount 1", "mount 2"] if IS_ROOT else []
"""Without root nothing is mounted."""

HERE = ["get 1", "mark 1", "marked 1", "get 2", "grant 1", "granted 1", "mounts 1", *MOUNT_STEPS]
"""Steps in the data node's own process before the worker, with their turn."""

WORKER = ["backup", "publish", "done"]
"""Steps in the worker; after the last the manifest is published."""


def lay(world: World, fail_at: str, what: str) -> None:
    step, _, turn = fail_at.partition(" ")
    if turn:
        world.steps.fail(step, ERRORS[what](), time=int(turn))
    else:
        world.workers.lay(step, what)


def reap(world: World) -> None:
    DataManager(world.node()).reap()


# --- create ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fail_at", [*HERE, "get 3", *WORKER])
def test_a_create_fails_for_good(world: World, fail_at: str) -> None:
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    lay(world, fail_at, "permanent")
    failed = world.work(queued)
    assert world.steps.all_met()
    assert (failed.status, failed.fail_reason) == (FAILED, "it stays")
    assert world.backup_status(failed.backup_id) is BackupStatus.ERROR
    assert world.share_status(share_id) is ShareStatus.AVAILABLE
    assert world.epochs(failed.backup_id) == {}
    world.assert_nothing_is_left(share_id)


@pytest.mark.parametrize("fail_at", ["granted 1", "publish", "done"])
@pytest.mark.slow
def test_a_create_that_failed_for_now_succeeds_the_next_time(world: World, fail_at: str) -> None:
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    lay(world, fail_at, "transient")
    waiting = world.work(queued)
    assert world.steps.all_met()
    assert (waiting.status, waiting.attempts) == (QUEUED, 1)
    assert waiting.fail_reason == "it may pass"
    assert world.backup_status(waiting.backup_id) is BackupStatus.CREATING
    # Nobody else gets the share meanwhile.
    assert world.share_status(share_id) is ShareStatus.BACKUP_CREATING
    world.assert_nothing_is_left(share_id)

    done = world.work(queued)
    assert (done.status, done.fail_reason, done.attempts) == (DONE, None, 2)
    assert world.backup_status(done.backup_id) is BackupStatus.AVAILABLE
    assert world.epochs(done.backup_id) == {2: True}
    world.assert_nothing_is_left(share_id)


@pytest.mark.parametrize("what", ["crash", "die"])
def test_a_create_whose_worker_died_succeeds_the_next_time(world: World, what: str) -> None:
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    world.workers.lay("publish", what)
    waiting = world.work(queued)
    assert (waiting.status, waiting.worker_pid) == (QUEUED, None)
    world.assert_nothing_is_left(share_id)
    assert world.work(queued).status is DONE
    assert world.epochs(queued.backup_id) == {2: True}


def test_an_unexpected_error_fails_the_operation_and_tells_nothing_of_the_inside(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    share_id = world.small_share()
    world.steps.fail("mounts", KeyError("a bug"))
    failed = world.work(world.queue_backup(share_id))
    assert failed.status is FAILED
    assert failed.fail_reason == "an internal error; the log of the data node tells more"
    assert "KeyError: 'a bug'" in caplog.text
    world.assert_nothing_is_left(share_id)


def test_attempts_come_later_and_later_and_have_an_end(world: World) -> None:
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    node = world.node(retry_delay_s=10.0)
    world.steps.fail("mark", ERRORS["transient"](), times=3)
    delays_s = []
    for _ in range(2):
        waiting = world.work(queued, node)
        assert waiting.status is QUEUED
        assert waiting.updated_at_us is not None
        delays_s.append(round((waiting.not_before_us - waiting.updated_at_us) / 1e6))
    assert delays_s == [10, 20]
    failed = world.work(queued, node)
    assert (failed.status, failed.attempts) == (FAILED, 3)
    assert world.backup_status(failed.backup_id) is BackupStatus.ERROR
    world.assert_nothing_is_left(share_id)


# --- on the way back ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "kind", "what"),
    [("revoke", IntentKind.GRANT, "transient"), ("unmark", IntentKind.MARK, "permanent")],
)
def test_what_could_not_be_given_back_is_given_back_by_the_reaper(
    world: World, step: str, kind: IntentKind, what: str
) -> None:
    """The backup is good all the same."""
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    world.steps.fail(step, ERRORS[what](), times=3)
    assert world.work(queued).status is DONE
    assert world.share_status(share_id) is ShareStatus.AVAILABLE
    for attempts in (1, 2):
        (left,) = world.intents()
        assert (left.kind, left.attempts) == (kind, attempts)
        assert left.last_error == str(ERRORS[what]())
        reap(world)
    reap(world)
    assert world.steps.all_met()
    world.assert_nothing_is_left(share_id)
    assert world.epochs(queued.backup_id) == {1: True}


@pytest.mark.root
@pytest.mark.parametrize("times", [2, 4])
def test_a_mount_that_stays_is_unmounted_later(world: World, times: int) -> None:
    """Each time plainly and lazily: at the mount's own end, for its intent, then by the reaper."""
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    world.steps.fail("umount", exception.MountFailed(export="x", reason="injected"), times=times)
    assert world.work(queued).status is DONE
    assert world.steps.all_met()
    if times == 4:
        (left,) = world.intents()
        assert left.kind is IntentKind.MOUNT
        assert world.mounts() == [left.detail["path"]]
        reap(world)
    world.assert_nothing_is_left(share_id)


def test_what_an_ended_operation_left_is_cleared_before_the_next_one_uses_it(
    world: World,
) -> None:
    """Otherwise the reaper would revoke the rule under the second operation's mounts."""
    share_id = world.small_share()
    for step in ("revoke", "unmark"):
        world.steps.fail(step, ERRORS["permanent"]())
    assert world.work(world.queue_backup(share_id)).status is DONE
    assert {left.kind for left in world.intents()} == {IntentKind.GRANT, IntentKind.MARK}
    during: list[int] = []

    def look() -> None:
        reap(world)
        during.append(len([rule for rule in world.rules(share_id) if rule.ours]))

    second = world.queue_backup(share_id)
    world.steps.before("mounts", look)
    assert world.work(second).status is DONE
    assert during == [1]
    world.assert_nothing_is_left(share_id)


def test_the_reaper_leaves_alone_what_was_undone_since_it_looked(world: World) -> None:
    """Its list is old: the next operation on the share has undone the intent and been granted
    access anew."""
    share_id, other = world.small_share(), world.small_share()
    world.steps.fail("revoke", ERRORS["permanent"]())
    assert world.work(world.queue_backup(share_id)).status is DONE
    world.steps.fail("unmark", ERRORS["permanent"]())
    assert world.work(world.queue_backup(other)).status is DONE
    second = world.queue_backup(share_id)
    # The reaper has its list of both and is at the newer one.
    world.steps.before("unmark", lambda: world.work(second))
    revokes = world.steps.seen.count("revoke")
    reap(world)
    assert world.steps.all_met()
    assert world.operation(second).status is DONE
    # One for what was left, one for its own; none by the reaper.
    assert world.steps.seen.count("revoke") == revokes + 2
    world.assert_nothing_is_left(share_id)


# --- the last commit ------------------------------------------------------------------------------


@contextmanager
def failing_end(world: World, error: Callable[[], Exception]) -> Iterator[None]:
    """The first transaction that ends an operation fails."""
    failed: list[str] = []

    def listener(connection: Any, cursor: Any, sql: str, *_: Any) -> None:
        if not failed and sql.startswith("UPDATE operations") and "finished_at_us=" in sql:
            failed.append(sql)
            raise error()

    engine = world.database.writer_engine
    event.listen(engine, "before_cursor_execute", listener)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", listener)
    assert failed


@pytest.mark.parametrize(
    "error",
    [db_exc.DBConnectionError, pytest.param(db_exc.DBError, marks=pytest.mark.slow)],
)
def test_an_end_that_could_not_be_written_is_reached_by_the_next_epoch(
    world: World, error: Callable[[], Exception]
) -> None:
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    with failing_end(world, error):
        assert world.work(queued).status is RUNNING
    # All is given back but the data, which may only go when it is certain that it is litter.
    (left,) = world.intents()
    assert left.kind is IntentKind.DATA_DIRECTORY
    assert world.mounts() == []
    assert world.rules(share_id) == ()
    assert world.work(queued).status is DONE
    assert world.epochs(queued.backup_id) == {2: True}
    world.assert_nothing_is_left(share_id)


def test_a_backup_that_was_reset_meanwhile_is_not_kept(world: World) -> None:
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    world.steps.before(
        "unmark",
        lambda: execute(
            world.database,
            "UPDATE backups SET status = 'error' WHERE id = :id",
            id=queued.backup_id,
        ),
    )
    failed = world.work(queued)
    assert failed.status is FAILED
    assert BackupEvent.CREATED in (failed.fail_reason or "")
    assert world.share_status(share_id) is ShareStatus.AVAILABLE
    reap(world)
    assert world.epochs(queued.backup_id) == {}
    world.assert_nothing_is_left(share_id)


# --- restore --------------------------------------------------------------------------------------

UNTOUCHED = ["granted 1", "restore"]
TOUCHED = ["write"]


@pytest.mark.parametrize("fail_at", [*UNTOUCHED, *TOUCHED])
@pytest.mark.slow
def test_a_restore_fails_for_good(world: World, fail_at: str) -> None:
    share_id = world.small_share()
    backup_id = world.backed_up(share_id)
    before = world.tree(share_id)
    queued = world.queue_restore(backup_id, share_id)
    lay(world, fail_at, "permanent")
    failed = world.work(queued)
    assert world.steps.all_met()
    assert (failed.status, failed.fail_reason) == (FAILED, "it stays")
    assert world.backup_status(backup_id) is BackupStatus.AVAILABLE
    assert world.epochs(backup_id) == {1: True}
    if fail_at in UNTOUCHED:
        assert world.share_status(share_id) is ShareStatus.AVAILABLE
        assert world.tree(share_id) == before
    else:
        assert world.share_status(share_id) is ShareStatus.BACKUP_RESTORING_ERROR
    world.assert_nothing_is_left(share_id)


def test_that_a_restore_has_failed_is_forgotten_with_the_share(world: World) -> None:
    share_id, kept = world.small_share(), world.small_share()
    for each in (share_id, kept):
        backup_id = world.backed_up(each)
        lay(world, "write", "permanent")
        world.work(world.queue_restore(backup_id, each))
    now_s = [0.0]
    manager = DataManager(world.node(), clock=lambda: now_s[0])
    manager.reap()
    assert world.share_status(share_id) is ShareStatus.BACKUP_RESTORING_ERROR
    world.store.begin_delete(share_id)
    world.store.finish_delete(share_id)
    manager.reap()  # it has just looked
    assert world.share_status(share_id) is ShareStatus.BACKUP_RESTORING_ERROR
    now_s[0] += GONE_SHARES_EVERY_S
    world.steps.fail("get", ERRORS["transient"](), times=2)
    manager.reap()  # the provider is away
    assert world.steps.all_met()
    assert world.share_status(share_id) is ShareStatus.BACKUP_RESTORING_ERROR
    now_s[0] += GONE_SHARES_EVERY_S
    manager.reap()
    assert world.share_status(share_id) is ShareStatus.AVAILABLE
    assert world.share_status(kept) is ShareStatus.BACKUP_RESTORING_ERROR


def test_a_restore_that_failed_for_now_succeeds_the_next_time(world: World) -> None:
    share_id = world.small_share()
    backup_id = world.backed_up(share_id)
    before = world.tree(share_id)
    queued = world.queue_restore(backup_id, share_id)
    lay(world, "write", "transient")
    waiting = world.work(queued)
    assert (waiting.status, waiting.share_written) == (QUEUED, True)
    assert world.backup_status(backup_id) is BackupStatus.RESTORING
    assert world.share_status(share_id) is ShareStatus.BACKUP_RESTORING
    world.assert_nothing_is_left(share_id)
    assert world.work(queued).status is DONE
    assert world.share_status(share_id) is ShareStatus.AVAILABLE
    assert world.tree(share_id) == before
    world.assert_nothing_is_left(share_id)


# --- delete ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fail_at", [*MOUNT_STEPS[:1], "delete"])
def test_a_delete_fails_for_good(world: World, fail_at: str) -> None:
    share_id = world.small_share()
    backup_id = world.backed_up(share_id)
    queued = world.queue_delete(backup_id)
    lay(world, fail_at, "permanent")
    assert world.work(queued).status is FAILED
    assert world.backup_status(backup_id) is BackupStatus.ERROR_DELETING
    world.assert_nothing_is_left(share_id)


def test_a_delete_that_failed_for_now_succeeds_the_next_time(world: World) -> None:
    share_id = world.small_share()
    backup_id = world.backed_up(share_id)
    queued = world.queue_delete(backup_id)
    lay(world, "delete", "transient")
    assert world.work(queued).status is QUEUED
    assert world.backup_status(backup_id) is BackupStatus.DELETING
    assert world.work(queued).status is DONE
    assert world.epochs(backup_id) == {}
    world.assert_nothing_is_left(share_id)


def test_a_delete_goes_through_although_the_share_is_gone(world: World) -> None:
    share_id = world.small_share()
    backup_id = world.backed_up(share_id)
    world.store.begin_delete(share_id)
    world.store.finish_delete(share_id)
    assert world.work(world.queue_delete(backup_id)).status is DONE
    assert world.epochs(backup_id) == {}
    assert json.dumps([left.kind for left in world.intents()]) == "[]"
