# SPDX-License-Identifier: Apache-2.0
"""How operations end: every cell of kind, outcome, share written, share in error before."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy.orm import Session

from manila_backup import exception
from manila_backup.data import endings
from manila_backup.data.endings import Outcome
from manila_backup.db import backups, busy_shares, messages, operations
from manila_backup.db.engine import Database
from manila_backup.db.operations import Operation
from manila_backup.quota import ledger
from manila_backup.quota.ledger import Limits, Usage
from manila_backup.states import (
    BackupEvent,
    BackupStatus,
    OperationEvent,
    OperationKind,
    OperationStatus,
    ShareEvent,
    ShareStatus,
)
from manila_backup.types import BackupRef, Counters, StoredBackup
from tests.db.builders import PROJECT, committed, new_backup, new_id, new_operation, stored_backup

CREATE, RESTORE, DELETE = OperationKind.CREATE, OperationKind.RESTORE, OperationKind.DELETE
FINISH, FAIL, CANCEL = OperationEvent.FINISH, OperationEvent.FAIL, OperationEvent.CANCEL
SIZE_GIB = 7
COUNTERS = Counters(files=3, bytes=4096, skipped=1)

EVENTS = {
    CREATE: (None, ShareEvent.BACKUP),
    RESTORE: (BackupEvent.RESTORE, ShareEvent.RESTORE),
    DELETE: (BackupEvent.DELETE, None),
}
"""What the API does to backup and share when it queues an operation of each kind."""


def queue(database: Database, kind: OperationKind, *, in_error: bool = False) -> Operation:
    """An operation as the API queues it."""

    def write(session: Session) -> Operation:
        backup = backups.create(session, new_backup(size_gib=SIZE_GIB))
        ledger.charge(session, backup.project_id, SIZE_GIB, Limits())
        if kind is not CREATE:
            backups.transition(session, backup.id, BackupEvent.CREATED, published_epoch=1)
        if in_error:
            _leave_in_error(session, backup.share_id)
        backup_event, share_event = EVENTS[kind]
        if backup_event is not None:
            backups.transition(session, backup.id, backup_event)
        operation = operations.create(
            session,
            new_operation(
                kind=kind,
                backup_id=backup.id,
                share_id=backup.share_id,
                share_was_in_error=in_error,
            ),
        )
        if share_event is not None:
            busy_shares.transition(
                session,
                backup.share_id,
                share_event,
                operation_id=operation.id,
                project_id=PROJECT,
            )
        return operation

    return database.write(write)


def _leave_in_error(session: Session, share_id: str) -> None:
    former = new_id()
    for event in (ShareEvent.RESTORE, ShareEvent.RESTORE_FAILED):
        busy_shares.transition(session, share_id, event, operation_id=former, project_id=PROJECT)


def claim(database: Database, queued: Operation, **noted: Any) -> Operation:
    held = database.write(
        lambda session: operations.take(
            session, queued, OperationEvent.CLAIM, host="node-a", lease_s=60
        )
    )
    if noted:
        database.write(lambda session: operations.note(session, held, **noted))
    return held


def stored(held: Operation) -> StoredBackup:
    ref = BackupRef(project_id=PROJECT, backup_id=held.backup_id, epoch=held.epoch)
    return stored_backup(ref=ref)


def outcome_of(held: Operation, event: OperationEvent) -> Outcome:
    reason = {FINISH: None, FAIL: "the disk is full", CANCEL: "Cancelled."}[event]
    published = stored(held) if event is FINISH and held.kind is CREATE else None
    return Outcome(event=event, reason=reason, counters=COUNTERS, stored=published)


def end(database: Database, held: Operation, outcome: Outcome) -> None:
    database.write(lambda session: endings.end(session, held, outcome))


@dataclass(frozen=True, kw_only=True)
class After:
    """What everybody sees afterwards."""

    operation: Operation
    backup: backups.Backup | None
    share: ShareStatus
    usage: Usage
    messages: list[tuple[str, str, str, str]]


def look(database: Database, seen: Operation) -> After:
    with database.reader() as session:
        busy = busy_shares.get(session, seen.share_id)
        try:
            backup = backups.get(session, seen.backup_id)
        except exception.BackupNotFound:
            backup = None
        assert ledger.check(session) == []
        return After(
            operation=operations.get(session, seen.id),
            backup=backup,
            share=ShareStatus.AVAILABLE if busy is None else busy.status,
            usage=ledger.usage(session, PROJECT),
            messages=[
                (m.action_id, m.detail_id, m.message_level, m.user_message)
                for m in messages.find(session, project_id=PROJECT, resource_id=seen.backup_id)
            ],
        )


BACKUP_AFTER = {
    (CREATE, FINISH): BackupStatus.AVAILABLE,
    (CREATE, FAIL): BackupStatus.ERROR,
    (CREATE, CANCEL): BackupStatus.ERROR,
    (RESTORE, FINISH): BackupStatus.AVAILABLE,
    (RESTORE, FAIL): BackupStatus.AVAILABLE,
    (RESTORE, CANCEL): BackupStatus.AVAILABLE,
    (DELETE, FINISH): None,
    (DELETE, FAIL): BackupStatus.ERROR_DELETING,
    (DELETE, CANCEL): BackupStatus.ERROR_DELETING,
}

OPERATION_AFTER = {
    FINISH: OperationStatus.DONE,
    FAIL: OperationStatus.FAILED,
    CANCEL: OperationStatus.CANCELLED,
}

MESSAGE_AFTER = {
    FINISH: None,
    FAIL: ("101", "ERROR", "{} backup: the disk is full"),
    CANCEL: ("102", "INFO", "{} backup: cancelled."),
}

ACTION = {CREATE: "101", RESTORE: "102", DELETE: "103"}


def share_after(
    kind: OperationKind, event: OperationEvent, *, written: bool, in_error: bool
) -> ShareStatus:
    if kind is RESTORE and event is not FINISH and (written or in_error):
        return ShareStatus.BACKUP_RESTORING_ERROR
    return ShareStatus.AVAILABLE


CELLS = [
    (kind, event, written, in_error)
    for kind, event, written, in_error in itertools.product(
        OperationKind, (FINISH, FAIL, CANCEL), (False, True), (False, True)
    )
    # Only a restore writes to a share, and only a restore is accepted for a share in error.
    if kind is RESTORE or not (written or in_error)
]


@pytest.mark.parametrize(("kind", "event", "written", "in_error"), CELLS)
def test_every_ending(
    database: Database,
    kind: OperationKind,
    event: OperationEvent,
    written: bool,
    in_error: bool,
) -> None:
    held = claim(database, queue(database, kind, in_error=in_error), share_written=written)
    end(database, held, outcome_of(held, event))
    after = look(database, held)

    assert after.operation.status is OPERATION_AFTER[event]
    assert after.operation.counters == COUNTERS
    assert after.operation.fail_reason == outcome_of(held, event).reason
    assert after.operation.phase is None
    assert after.operation.worker_pid is None
    assert after.operation.finished_at_us is not None
    assert (after.operation.progress == 100) == (event is FINISH)

    expected = BACKUP_AFTER[(kind, event)]
    assert (after.backup and after.backup.status) == expected
    if kind is CREATE and after.backup is not None:
        assert after.backup.published_epoch == (held.epoch if event is FINISH else None)
        assert after.backup.stored_bytes == (10 if event is FINISH else None)
        assert after.backup.progress == (100 if event is FINISH else 0)
    if kind is RESTORE and after.backup is not None:
        assert after.backup.published_epoch == 1
        assert after.backup.restore_progress == (100 if event is FINISH else 0)

    assert after.share is share_after(kind, event, written=written, in_error=in_error)
    gone = (kind, event) == (DELETE, FINISH)
    expected_usage = Usage() if gone else Usage(backups=1, backup_gigabytes=SIZE_GIB)
    assert after.usage == expected_usage

    message = MESSAGE_AFTER[event]
    told = [] if message is None else [(ACTION[kind], *message[:2], message[2].format(kind))]
    assert after.messages == told


@pytest.mark.parametrize("kind", [CREATE, RESTORE])
def test_a_success_that_lost_something_is_told(database: Database, kind: OperationKind) -> None:
    held = claim(database, queue(database, kind))
    published = stored(held) if kind is CREATE else None
    end(database, held, Outcome(event=FINISH, stored=published, notice="all but 2 files."))
    after = look(database, held)
    assert after.operation.status is OperationStatus.DONE
    assert after.messages == [(ACTION[kind], "103", "WARNING", f"{kind} backup: all but 2 files.")]


# --- then delete ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CREATE, RESTORE])
@pytest.mark.parametrize("event", [FINISH, FAIL, CANCEL])
def test_an_administrators_delete_follows_however_it_ended(
    database: Database, kind: OperationKind, event: OperationEvent
) -> None:
    held = claim(database, queue(database, kind))
    database.write(lambda session: operations.request_cancel(session, held.id, then_delete=True))
    end(database, held, outcome_of(held, event))
    after = look(database, held)
    assert after.backup is not None
    assert after.backup.status is BackupStatus.DELETING
    assert after.share is ShareStatus.AVAILABLE
    with database.reader() as session:
        delete = operations.active_of_backup(session, held.backup_id)
    assert delete is not None
    assert (delete.kind, delete.status) == (DELETE, OperationStatus.QUEUED)
    assert (delete.project_id, delete.request_id) == (held.project_id, held.request_id)


def test_a_delete_is_not_followed_by_another(database: Database) -> None:
    held = claim(database, queue(database, DELETE))
    database.write(lambda session: operations.request_cancel(session, held.id, then_delete=True))
    end(database, held, outcome_of(held, FAIL))
    with database.reader() as session:
        assert operations.active_of_backup(session, held.backup_id) is None


# --- cancelled in the queue -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(OperationKind))
def test_what_nobody_has_claimed_is_cancelled_at_once(
    database: Database, kind: OperationKind
) -> None:
    queued = queue(database, kind)
    assert database.write(lambda session: endings.cancel_queued(session, queued.id))
    after = look(database, queued)
    assert after.operation.status is OperationStatus.CANCELLED
    assert after.backup is not None
    assert after.backup.status is BACKUP_AFTER[(kind, CANCEL)]
    assert after.share is ShareStatus.AVAILABLE


def test_a_restore_that_waits_for_its_next_attempt_has_left_the_share_half_written(
    database: Database,
) -> None:
    held = claim(database, queue(database, RESTORE), share_written=True)
    database.write(lambda session: operations.transition(session, held, OperationEvent.RETRY))
    assert database.write(lambda session: endings.cancel_queued(session, held.id))
    assert look(database, held).share is ShareStatus.BACKUP_RESTORING_ERROR


@pytest.mark.parametrize("event", [None, FINISH])
def test_what_runs_or_is_over_is_not_cancelled_in_the_queue(
    database: Database, event: OperationEvent | None
) -> None:
    held = claim(database, queue(database, CREATE))
    if event is not None:
        end(database, held, outcome_of(held, event))
    before = committed(database)
    assert not database.write(lambda session: endings.cancel_queued(session, held.id))
    assert committed(database) == before


# --- somebody else was quicker --------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(OperationKind))
@pytest.mark.parametrize("event", [FINISH, FAIL, CANCEL])
def test_who_was_overtaken_ends_nothing(
    database: Database, kind: OperationKind, event: OperationEvent
) -> None:
    held = claim(database, queue(database, kind))
    database.write(
        lambda session: operations.take(
            session, held, OperationEvent.TAKE_OVER, host=held.host or "", lease_s=60
        )
    )
    before = committed(database)
    with pytest.raises(exception.StaleRow):
        end(database, held, outcome_of(held, event))
    assert committed(database) == before


# --- an administrator's reset meanwhile -----------------------------------------------------------


def reset(database: Database, held: Operation, event: BackupEvent) -> None:
    database.write(lambda session: backups.transition(session, held.backup_id, event))


@pytest.mark.parametrize("kind", list(OperationKind))
@pytest.mark.parametrize("event", [FAIL, CANCEL])
@pytest.mark.parametrize("to", [BackupEvent.RESET_ERROR, BackupEvent.RESET_AVAILABLE])
def test_a_failure_leaves_a_reset_status_alone_and_frees_the_rest(
    database: Database, kind: OperationKind, event: OperationEvent, to: BackupEvent
) -> None:
    held = claim(database, queue(database, kind))
    reset(database, held, to)
    end(database, held, outcome_of(held, event))
    after = look(database, held)
    assert after.operation.status is OPERATION_AFTER[event]
    assert after.backup is not None
    assert after.backup.status == to.removeprefix("reset_")
    assert after.share is ShareStatus.AVAILABLE
    assert after.usage == Usage(backups=1, backup_gigabytes=SIZE_GIB)


@pytest.mark.parametrize("kind", [CREATE, DELETE])
def test_a_success_without_a_place_to_go_changes_nothing(
    database: Database, kind: OperationKind
) -> None:
    held = claim(database, queue(database, kind))
    reset(database, held, BackupEvent.RESET_ERROR)
    before = committed(database)
    with pytest.raises(exception.IllegalTransition):
        end(database, held, outcome_of(held, FINISH))
    assert committed(database) == before


def test_a_restore_that_came_through_counts_whatever_the_backup_was_reset_to(
    database: Database,
) -> None:
    """The share is as the backup: calling it half restored would be a lie."""
    held = claim(database, queue(database, RESTORE), share_written=True)
    reset(database, held, BackupEvent.RESET_AVAILABLE)
    end(database, held, outcome_of(held, FINISH))
    after = look(database, held)
    assert after.operation.status is OperationStatus.DONE
    assert after.backup is not None
    assert after.backup.status is BackupStatus.AVAILABLE
    assert after.share is ShareStatus.AVAILABLE
