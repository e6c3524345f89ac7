# SPDX-License-Identifier: Apache-2.0
"""A rival commits between our look and our change.

``unlocked`` is a database that lets it happen; ``database`` is the rival's connection to the same
file. Each condition of each UPDATE has a test in which the rival changes only what this condition
names, so that without it we would overwrite the rival's work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
from oslo_db import exception as db_exc

from manila_backup import exception
from manila_backup.db import backups, busy_shares, operations, services
from manila_backup.db.engine import Database
from manila_backup.db.operations import Operation
from manila_backup.states import BackupEvent, OperationEvent, ShareEvent
from manila_backup.types import BackupRef
from tests.db.builders import (
    PROJECT,
    Contents,
    committed,
    new_id,
    new_operation,
    put_backup,
    put_busy_share,
    put_operation,
    stored_backup,
)
from tests.db.rivals import execute, rival_before

pytestmark = pytest.mark.every_database

# --- the stage itself -----------------------------------------------------------------------------


def test_the_rivals_commit_is_seen_between_two_statements(
    database: Database, unlocked: Database
) -> None:
    """If it were not, every test below would pass without any condition in any UPDATE."""
    backup_id = new_id()
    with unlocked.writer() as session:
        assert not backups.exists(session, backup_id)
        with database.writer() as rival:
            put_backup(rival, id=backup_id)
        assert backups.exists(session, backup_id)


def test_a_rival_that_never_acts_fails_the_test(database: Database, unlocked: Database) -> None:
    with pytest.raises(AssertionError), rival_before(unlocked, "UPDATE nothing", lambda: None):
        pass


# --- backups --------------------------------------------------------------------------------------


def test_backup_transition_needs_the_status(database: Database, unlocked: Database) -> None:
    """A tenant restores and deletes at once: the two requests saw the same available backup."""
    with database.writer() as session:
        backup_id = put_backup(session, status="available")
    after_rival: Contents = {}

    def delete() -> None:
        nonlocal after_rival
        with database.writer() as session:
            backups.transition(session, backup_id, BackupEvent.DELETE)
        after_rival = committed(database)

    with (
        rival_before(unlocked, "UPDATE backups", delete),
        pytest.raises(exception.StaleRow),
        unlocked.writer() as session,
    ):
        backups.transition(session, backup_id, BackupEvent.RESTORE)
    assert committed(database) == after_rival


def test_describing_needs_the_backup_to_be_undeleted(
    database: Database, unlocked: Database
) -> None:
    with database.writer() as session:
        backup_id = put_backup(session, status="deleting", name="before")

    def finish_deletion() -> None:
        with database.writer() as session:
            backups.transition(session, backup_id, BackupEvent.DELETED)

    with (
        rival_before(unlocked, "UPDATE backups", finish_deletion),
        pytest.raises(exception.BackupNotFound),
        unlocked.writer() as session,
    ):
        backups.describe(session, backup_id, {"name": "after"})


def test_two_imports_of_one_backup(database: Database, unlocked: Database) -> None:
    found = stored_backup(ref=BackupRef(project_id=PROJECT, backup_id=new_id(), epoch=1))
    after_rival: Contents = {}

    def adopt() -> None:
        nonlocal after_rival
        with database.writer() as session:
            backups.adopt(session, found, topic="t", host=None)
        after_rival = committed(database)

    with (
        rival_before(unlocked, "INSERT INTO backups", adopt),
        pytest.raises(db_exc.DBDuplicateEntry),
        unlocked.writer() as session,
    ):
        backups.adopt(session, found, topic="t", host="node-2")
    assert committed(database) == after_rival


# --- operations -----------------------------------------------------------------------------------


def seen_then(
    database: Database, operation_id: str, rival: Callable[[], object]
) -> tuple[Operation, Contents]:
    """An operation as it was before the rival acted, and all rows as the rival left them."""
    with database.reader() as session:
        seen = operations.get(session, operation_id)
    rival()
    return seen, committed(database)


def take(database: Database, operation_id: str, event: OperationEvent, host: str) -> Operation:
    with database.writer() as session:
        seen = operations.get(session, operation_id)
        return operations.take(session, seen, event, host=host, lease_s=0)


def fire(database: Database, operation_id: str, event: OperationEvent) -> None:
    with database.writer() as session:
        operations.transition(session, operations.get(session, operation_id), event)


def test_claim_needs_the_status(database: Database) -> None:
    """The API cancels the queued operation that a node is about to claim; the epoch stays 0."""
    with database.writer() as session:
        operation_id = put_operation(session)
    seen, after_rival = seen_then(
        database, operation_id, lambda: fire(database, operation_id, OperationEvent.CANCEL)
    )
    with pytest.raises(exception.StaleRow), database.writer() as session:
        operations.take(session, seen, OperationEvent.CLAIM, host="slow", lease_s=0)
    assert committed(database) == after_rival


def test_claim_needs_the_epoch(database: Database) -> None:
    """A rival claimed it and gave it back to wait: queued again, and not to be had before then."""
    with database.writer() as session:
        operation_id = put_operation(session)

    def claim_and_retry() -> None:
        take(database, operation_id, OperationEvent.CLAIM, "quick")
        fire(database, operation_id, OperationEvent.RETRY)

    seen, after_rival = seen_then(database, operation_id, claim_and_retry)
    with pytest.raises(exception.StaleRow), database.writer() as session:
        operations.take(session, seen, OperationEvent.CLAIM, host="slow", lease_s=0)
    assert committed(database) == after_rival


def test_take_over_needs_the_epoch(database: Database) -> None:
    """Two nodes find the same leftover: one has it, the other has to know."""
    with database.writer() as session:
        operation_id = put_operation(session, status="running", epoch=1, host="dead")
    seen, after_rival = seen_then(
        database, operation_id, lambda: take(database, operation_id, OperationEvent.TAKE_OVER, "a")
    )
    with pytest.raises(exception.StaleRow), database.writer() as session:
        operations.take(session, seen, OperationEvent.TAKE_OVER, host="b", lease_s=0)
    assert committed(database) == after_rival


def test_take_over_needs_the_status(database: Database) -> None:
    """The holder, thought dead, ends its operation just in time."""
    with database.writer() as session:
        operation_id = put_operation(session, status="running", epoch=1, host="slow")
    seen, after_rival = seen_then(
        database, operation_id, lambda: fire(database, operation_id, OperationEvent.FINISH)
    )
    with pytest.raises(exception.StaleRow), database.writer() as session:
        operations.take(session, seen, OperationEvent.TAKE_OVER, host="b", lease_s=0)
    assert committed(database) == after_rival


@pytest.mark.parametrize("event", ["retry", "finish", "fail", "cancel"])
def test_ending_needs_the_epoch(database: Database, event: str) -> None:
    """Another node took over while this one was suspended, which now wants to end it."""
    with database.writer() as session:
        operation_id = put_operation(session, status="running", epoch=1, host="zombie")
    seen, after_rival = seen_then(
        database, operation_id, lambda: take(database, operation_id, OperationEvent.TAKE_OVER, "b")
    )
    with pytest.raises(exception.StaleRow), database.writer() as session:
        operations.transition(session, seen, OperationEvent(event), fail_reason="late")
    assert committed(database) == after_rival


@pytest.mark.parametrize("event", ["retry", "finish", "fail", "cancel"])
@pytest.mark.parametrize("rivals_event", ["retry", "finish", "fail", "cancel"])
def test_ending_needs_the_status(database: Database, event: str, rivals_event: str) -> None:
    """Two threads of one node end the same operation; the epoch is the same."""
    with database.writer() as session:
        operation_id = put_operation(session, status="running", epoch=1, host="node")
    seen, after_rival = seen_then(
        database,
        operation_id,
        lambda: fire(database, operation_id, OperationEvent(rivals_event)),
    )
    with pytest.raises(exception.StaleRow), database.writer() as session:
        operations.transition(session, seen, OperationEvent(event))
    assert committed(database) == after_rival


def test_cancel_of_a_queued_operation_needs_the_status(database: Database) -> None:
    """Only the status is changed here, so that it alone can tell; a real claim raises both."""
    with database.writer() as session:
        operation_id = put_operation(session)
    seen, after_rival = seen_then(
        database,
        operation_id,
        lambda: execute(
            database, "UPDATE operations SET status = 'running' WHERE id = :id", id=operation_id
        ),
    )
    with pytest.raises(exception.StaleRow), database.writer() as session:
        operations.transition(session, seen, OperationEvent.CANCEL)
    assert committed(database) == after_rival


@pytest.mark.parametrize("how", ["renew", "note"])
@pytest.mark.parametrize("what", ["epoch", "status"])
def test_the_holders_writes_need_epoch_and_status(database: Database, how: str, what: str) -> None:
    with database.writer() as session:
        operation_id = put_operation(session, status="running", epoch=1, host="zombie")

    def rival() -> None:
        if what == "epoch":
            take(database, operation_id, OperationEvent.TAKE_OVER, "b")
        else:
            fire(database, operation_id, OperationEvent.FAIL)

    held, after_rival = seen_then(database, operation_id, rival)
    write = {
        "renew": partial(operations.renew, held=held, lease_s=0),
        "note": partial(operations.note, held=held, progress=50),
    }[how]
    with pytest.raises(exception.LeaseLost) as lost:
        database.write(write)
    assert lost.value.operation_id == operation_id
    assert committed(database) == after_rival


def test_a_holder_that_claims_its_own_operation_again_is_fenced_from_its_former_self(
    database: Database,
) -> None:
    """Same host, new process: the host's name must not be enough to write."""
    with database.writer() as session:
        operation_id = put_operation(session)
    first = take(database, operation_id, OperationEvent.CLAIM, "node")
    second = take(database, operation_id, OperationEvent.TAKE_OVER, "node")
    with database.writer() as session:
        operations.note(session, second, progress=2)
    with pytest.raises(exception.LeaseLost), database.writer() as session:
        operations.note(session, first, progress=1)
    with database.reader() as session:
        assert operations.get(session, operation_id).progress == 2


def test_a_backup_has_one_active_operation(database: Database, unlocked: Database) -> None:
    """A restore and a delete of one backup are accepted by two API processes at once."""
    backup_id = new_id()
    after_rival: Contents = {}

    def queue() -> None:
        nonlocal after_rival
        with database.writer() as session:
            operations.create(session, new_operation(backup_id=backup_id))
        after_rival = committed(database)

    with unlocked.writer() as session:
        assert operations.active_of_backup(session, backup_id) is None
    with (
        rival_before(unlocked, "INSERT INTO operations", queue),
        pytest.raises(db_exc.DBDuplicateEntry),
        unlocked.writer() as session,
    ):
        operations.create(session, new_operation(backup_id=backup_id))
    assert committed(database) == after_rival


# --- busy shares ----------------------------------------------------------------------------------


def fire_share(database: Database, share_id: str, event: ShareEvent, operation_id: str) -> None:
    with database.writer() as session:
        busy_shares.transition(
            session, share_id, event, operation_id=operation_id, project_id=PROJECT
        )


def lose_share(
    database: Database,
    unlocked: Database,
    *,
    statement: str,
    rival: Callable[[], object],
    ours: Callable[[Database], object],
    refusal: type[Exception],
) -> None:
    """Our event is overtaken just before its statement: refused, and the rival's work stands."""
    after_rival: Contents = {}

    def act() -> None:
        nonlocal after_rival
        rival()
        after_rival = committed(database)

    with rival_before(unlocked, statement, act), pytest.raises(refusal):
        ours(unlocked)
    assert after_rival
    assert committed(database) == after_rival


@pytest.mark.parametrize("event", [ShareEvent.BACKUP, ShareEvent.RESTORE])
@pytest.mark.parametrize("rivals_event", [ShareEvent.BACKUP, ShareEvent.RESTORE])
def test_a_free_share_is_taken_once(
    database: Database, unlocked: Database, event: ShareEvent, rivals_event: ShareEvent
) -> None:
    share_id = new_id()
    lose_share(
        database,
        unlocked,
        statement="INSERT INTO busy_shares",
        rival=lambda: fire_share(database, share_id, rivals_event, new_id()),
        ours=lambda mine: fire_share(mine, share_id, event, new_id()),
        refusal=exception.ShareBusy,
    )


def test_a_failed_restore_is_healed_once(database: Database, unlocked: Database) -> None:
    """Two restores are accepted over the same failed one: the status is no longer the same."""
    with database.writer() as session:
        share_id = put_busy_share(session, status="backup_restoring_error")
    lose_share(
        database,
        unlocked,
        statement="UPDATE busy_shares",
        rival=lambda: fire_share(database, share_id, ShareEvent.RESTORE, new_id()),
        ours=lambda mine: fire_share(mine, share_id, ShareEvent.RESTORE, new_id()),
        refusal=exception.ShareBusy,
    )


def test_healing_a_failed_restore_needs_the_status(database: Database, unlocked: Database) -> None:
    """Only the status is changed here; a real restore changes the operation too."""
    with database.writer() as session:
        share_id = put_busy_share(session, status="backup_restoring_error")
    lose_share(
        database,
        unlocked,
        statement="UPDATE busy_shares",
        rival=lambda: execute(
            database,
            "UPDATE busy_shares SET status = 'backup_restoring' WHERE share_id = :id",
            id=share_id,
        ),
        ours=lambda mine: fire_share(mine, share_id, ShareEvent.RESTORE, new_id()),
        refusal=exception.ShareBusy,
    )


def test_healing_a_failed_restore_needs_its_operation(
    database: Database, unlocked: Database
) -> None:
    """A rival's restore began and failed meanwhile: the same status, but another's leftovers."""
    with database.writer() as session:
        share_id = put_busy_share(session, status="backup_restoring_error")

    def begin_and_fail() -> None:
        rival_id = new_id()
        fire_share(database, share_id, ShareEvent.RESTORE, rival_id)
        fire_share(database, share_id, ShareEvent.RESTORE_FAILED, rival_id)

    lose_share(
        database,
        unlocked,
        statement="UPDATE busy_shares",
        rival=begin_and_fail,
        ours=lambda mine: fire_share(mine, share_id, ShareEvent.RESTORE, new_id()),
        refusal=exception.ShareBusy,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """An event by which the holder gives up a share, and how it shows that it came too late."""

    event: ShareEvent
    status: str
    statement: str = "DELETE FROM busy_shares"
    refusal: type[Exception] = exception.StaleRow


ENDINGS = [
    Ending(event=ShareEvent.BACKUP_ENDED, status="backup_creating"),
    Ending(event=ShareEvent.RESTORED, status="backup_restoring"),
    Ending(event=ShareEvent.RESTORE_UNTOUCHED, status="backup_restoring"),
    Ending(
        event=ShareEvent.RESTORE_FAILED,
        status="backup_restoring",
        statement="UPDATE busy_shares",
        refusal=exception.ShareBusy,
    ),
]


@pytest.mark.parametrize("ending", ENDINGS, ids=[ending.event.value for ending in ENDINGS])
def test_ending_the_hold_needs_the_operation(
    database: Database, unlocked: Database, ending: Ending
) -> None:
    """A zombie's hold was ended by the node that took over, and another operation has begun."""
    zombie_id, rival_id = new_id(), new_id()
    with database.writer() as session:
        share_id = put_busy_share(session, status=ending.status, operation_id=zombie_id)

    def end_and_begin_anew() -> None:
        if ending.status == "backup_creating":
            fire_share(database, share_id, ShareEvent.BACKUP_ENDED, zombie_id)
            fire_share(database, share_id, ShareEvent.BACKUP, rival_id)
        else:
            fire_share(database, share_id, ShareEvent.RESTORE_FAILED, zombie_id)
            fire_share(database, share_id, ShareEvent.RESTORE, rival_id)

    lose_share(
        database,
        unlocked,
        statement=ending.statement,
        rival=end_and_begin_anew,
        ours=lambda mine: fire_share(mine, share_id, ending.event, zombie_id),
        refusal=ending.refusal,
    )


@pytest.mark.parametrize("ending", ENDINGS, ids=[ending.event.value for ending in ENDINGS])
def test_ending_the_hold_needs_the_status(
    database: Database, unlocked: Database, ending: Ending
) -> None:
    """A restore that failed half done must not be forgotten by a second word on the same one."""
    operation_id = new_id()
    with database.writer() as session:
        share_id = put_busy_share(session, status=ending.status, operation_id=operation_id)
    lose_share(
        database,
        unlocked,
        statement=ending.statement,
        rival=lambda: execute(
            database,
            "UPDATE busy_shares SET status = 'backup_restoring_error' WHERE share_id = :id",
            id=share_id,
        ),
        ours=lambda mine: fire_share(mine, share_id, ending.event, operation_id),
        refusal=ending.refusal,
    )


def test_forgetting_a_failed_restore_needs_the_status(
    database: Database, unlocked: Database
) -> None:
    """An administrator resets the share in the moment in which a new restore takes it."""
    with database.writer() as session:
        share_id = put_busy_share(session, status="backup_restoring_error")
    lose_share(
        database,
        unlocked,
        statement="DELETE FROM busy_shares",
        rival=lambda: fire_share(database, share_id, ShareEvent.RESTORE, new_id()),
        ours=lambda mine: fire_share(mine, share_id, ShareEvent.RESET, new_id()),
        refusal=exception.StaleRow,
    )


def test_reset_leaves_a_share_alone_that_a_restore_has_just_taken(
    database: Database, unlocked: Database
) -> None:
    with database.writer() as session:
        share_id = put_busy_share(session, status="backup_restoring_error")
    with (
        rival_before(
            unlocked,
            "DELETE FROM busy_shares",
            lambda: fire_share(database, share_id, ShareEvent.RESTORE, new_id()),
        ),
        unlocked.writer() as session,
    ):
        assert not busy_shares.reset(session, share_id)
    with database.reader() as session:
        assert busy_shares.statuses(session, [share_id]) == {share_id: "backup_restoring"}


# --- services -------------------------------------------------------------------------------------


def test_two_processes_of_one_name_do_not_make_two_rows(
    database: Database, unlocked: Database
) -> None:
    def report(to: Database, address: str) -> None:
        with to.writer() as session:
            services.report(
                session,
                host="node-1",
                binary="manila-backup-data",
                topic="t",
                availability_zone="az",
                address=address,
                starting=True,
            )

    with (
        rival_before(unlocked, "INSERT INTO services", lambda: report(database, "192.0.2.1")),
        pytest.raises(db_exc.DBDuplicateEntry),
    ):
        report(unlocked, "192.0.2.2")
    report(unlocked, "192.0.2.3")
    with database.reader() as session:
        (only,) = services.find(session)
        assert only.address == "192.0.2.3"
