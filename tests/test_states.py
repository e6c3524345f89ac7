# SPDX-License-Identifier: Apache-2.0
"""Every status with every event, through the real UPDATEs.

The tables below are written out by hand: they are what the documentation promises, not what the
code happens to contain.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from manila_backup import exception
from manila_backup.db import backups, busy_shares, operations
from manila_backup.db.engine import Database
from manila_backup.db.models import BackupRow, OperationRow
from manila_backup.states import (
    ACTIVE_OPERATIONS,
    BACKUP_TRANSITIONS,
    MEMBER_DELETABLE,
    OPERATION_TRANSITIONS,
    RESETTABLE,
    SHARE_TRANSITIONS,
    BackupEvent,
    BackupStatus,
    OperationEvent,
    OperationStatus,
    ShareEvent,
    ShareStatus,
)
from tests.db.builders import (
    PROJECT,
    Contents,
    contents,
    new_id,
    put_backup,
    put_busy_share,
    put_operation,
    row_of,
    without,
)

Table = Mapping[str, Mapping[str, str]]

RESETS = {
    "reset_available": "available",
    "reset_error": "error",
    "reset_creating": "creating",
    "reset_deleting": "deleting",
    "reset_restoring": "restoring",
    "reset_error_deleting": "error_deleting",
}
BACKUPS: Table = {
    "creating": {
        **RESETS,
        "created": "available",
        "create_failed": "error",
        "delete_by_admin": "deleting",
    },
    "available": {
        **RESETS,
        "restore": "restoring",
        "delete": "deleting",
        "delete_by_admin": "deleting",
    },
    "restoring": {
        **RESETS,
        "restored": "available",
        "restore_failed": "available",
        "delete_by_admin": "deleting",
    },
    "deleting": {
        **RESETS,
        "deleted": "deleted",
        "delete_failed": "error_deleting",
        "delete_by_admin": "deleting",
    },
    "error": {**RESETS, "delete": "deleting", "delete_by_admin": "deleting"},
    "error_deleting": {**RESETS, "delete_by_admin": "deleting"},
    "deleted": {},
}
BACKUP_EVENTS = {
    "created",
    "create_failed",
    "restore",
    "restored",
    "restore_failed",
    "delete",
    "delete_by_admin",
    "deleted",
    "delete_failed",
    *RESETS,
}
OPERATIONS: Table = {
    "queued": {"claim": "running", "cancel": "cancelled"},
    "running": {
        "take_over": "running",
        "retry": "queued",
        "finish": "done",
        "fail": "failed",
        "cancel": "cancelled",
    },
    "done": {},
    "failed": {},
    "cancelled": {},
}
OPERATION_EVENTS = {"claim", "take_over", "retry", "finish", "fail", "cancel"}
SHARES: Table = {
    "available": {"backup": "backup_creating", "restore": "backup_restoring"},
    "backup_creating": {"backup_ended": "available"},
    "backup_restoring": {
        "restored": "available",
        "restore_untouched": "available",
        "restore_failed": "backup_restoring_error",
    },
    "backup_restoring_error": {"restore": "backup_restoring", "reset": "available"},
}
SHARE_EVENTS = {
    "backup",
    "backup_ended",
    "restore",
    "restored",
    "restore_untouched",
    "restore_failed",
    "reset",
}


def cells(table: Table, events: Iterable[str]) -> list[Any]:
    return [
        pytest.param(status, event, table[status].get(event), id=f"{status}-{event}")
        for status in table
        for event in sorted(events)
    ]


def put_bystanders(session: Session) -> None:
    """Rows in every status that no event for another row may touch."""
    for status in BACKUPS:
        put_backup(session, status=status)
    for status in OPERATIONS:
        put_operation(session, status=status, epoch=3)
    for status in SHARES:
        if status != "available":
            put_busy_share(session, status=status)


def assert_only_one_row_changed(before: Contents, after: Contents, table: str) -> None:
    changed = set(before[table]) ^ set(after[table])
    assert 1 <= len(changed) <= 2  # one there and then not, or as it was and as it is
    assert without(after, table) == without(before, table)


# --- the vocabulary -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statuses", "events", "table", "expected_events"),
    [
        (BackupStatus, BackupEvent, BACKUPS, BACKUP_EVENTS),
        (OperationStatus, OperationEvent, OPERATIONS, OPERATION_EVENTS),
        (ShareStatus, ShareEvent, SHARES, SHARE_EVENTS),
    ],
)
def test_the_tables_of_this_test_name_every_status_and_every_event(
    statuses: Any, events: Any, table: Table, expected_events: set[str]
) -> None:
    assert {status.value for status in statuses} == set(table)
    assert {event.value for event in events} == expected_events


@pytest.mark.parametrize(
    ("transitions", "table"),
    [
        (BACKUP_TRANSITIONS, BACKUPS),
        (OPERATION_TRANSITIONS, OPERATIONS),
        (SHARE_TRANSITIONS, SHARES),
    ],
)
def test_the_code_has_these_cells_and_no_others(
    transitions: Mapping[Any, Any], table: Table
) -> None:
    coded = {(str(s), str(e)): str(after) for (s, e), after in transitions.items()}
    assert coded == {(s, e): after for s, row in table.items() for e, after in row.items()}


def test_what_follows_from_the_tables() -> None:
    assert {str(status) for status in MEMBER_DELETABLE} == {"available", "error"}
    assert {str(status) for status in ACTIVE_OPERATIONS} == {"queued", "running"}
    assert {name: str(event) for name, event in RESETTABLE.items()} == {
        "available": "reset_available",
        "error": "reset_error",
        "creating": "reset_creating",
        "deleting": "reset_deleting",
        "restoring": "reset_restoring",
        "error_deleting": "reset_error_deleting",
    }


# --- every cell through the database --------------------------------------------------------------


@pytest.fixture(scope="module")
def crowded(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with rows in every status, none of which is the one under test."""
    path = shutil.copy(migrated_file, tmp_path_factory.mktemp("crowded"))
    database = Database(f"sqlite:///{path}")
    with database.writer() as session:
        put_bystanders(session)
    yield database
    database.close()


@pytest.fixture
def session(crowded: Database) -> Iterator[Session]:
    """A writer of ``crowded`` that takes everything back at the end."""
    with crowded.writer() as session:
        yield session
        session.rollback()


@pytest.mark.parametrize(("status", "event", "expected"), cells(BACKUPS, BACKUP_EVENTS))
def test_backup(session: Session, status: str, event: str, expected: str | None) -> None:
    backup_id = put_backup(session, status=status, published_epoch=4)
    before = contents(session)
    if expected is None:
        # A deleted backup is nobody's any more: it is not found, rather than refused.
        deleted = status == "deleted"
        refusal = exception.BackupNotFound if deleted else exception.IllegalTransition
        with pytest.raises(refusal):
            backups.transition(session, backup_id, BackupEvent(event))
        assert contents(session) == before
        return
    answer = backups.transition(session, backup_id, BackupEvent(event), fail_reason="because")
    assert answer == expected
    row = row_of(session, BackupRow, backup_id)
    assert row["status"] == expected
    assert row["fail_reason"] == "because"
    assert row["published_epoch"] == 4
    assert row["updated_at_us"] is not None
    assert (row["deleted_at_us"] is not None) == (expected == "deleted")
    assert_only_one_row_changed(before, contents(session), "backups")


def fire_operation(session: Session, operation_id: str, event: str) -> str:
    """As the code does: what takes an operation goes through ``take``, all else ends it."""
    seen = operations.get(session, operation_id)
    if event in ("claim", "take_over"):
        taken = operations.take(session, seen, OperationEvent(event), host="node-2", lease_s=60)
        assert taken == operations.get(session, operation_id)
        return taken.status
    return operations.transition(session, seen, OperationEvent(event), fail_reason="because")


@pytest.mark.parametrize(("status", "event", "expected"), cells(OPERATIONS, OPERATION_EVENTS))
def test_operation(session: Session, status: str, event: str, expected: str | None) -> None:
    held = {"host": "node-1", "lease_until_us": 5, "worker_pid": 77, "worker_started": "boot/1"}
    columns = held if status == "running" else {}
    operation_id = put_operation(session, status=status, epoch=3, attempts=2, **columns)
    before = contents(session)
    if expected is None:
        with pytest.raises(exception.IllegalTransition) as refused:
            fire_operation(session, operation_id, event)
        assert (refused.value.kind, refused.value.id) == ("operation", operation_id)
        assert (refused.value.status, refused.value.event) == (status, event)
        assert contents(session) == before
        return
    assert fire_operation(session, operation_id, event) == expected
    row = row_of(session, OperationRow, operation_id)
    assert row["status"] == expected
    taken = event in ("claim", "take_over")
    assert (row["epoch"], row["attempts"]) == ((4, 3) if taken else (3, 2))
    assert (row["lease_until_us"] is not None) == (expected == "running")
    # Whoever takes over may have to see the former worker dead.
    known = (77, "boot/1") if event == "take_over" else (None, None)
    assert (row["worker_pid"], row["worker_started"]) == known
    active = expected in ("queued", "running")
    assert row["active_backup_id"] == (row["backup_id"] if active else None)
    assert (row["finished_at_us"] is None) == active
    assert_only_one_row_changed(before, contents(session), "operations")


BEGINNING = ("backup", "restore")
"""Events that begin work; refused on a share that is held, whatever the status, as busy."""


@pytest.mark.parametrize(("status", "event", "expected"), cells(SHARES, SHARE_EVENTS))
def test_share(session: Session, status: str, event: str, expected: str | None) -> None:
    share_id, holder = new_id(), new_id()
    by = new_id() if event in BEGINNING else holder
    if status != "available":
        put_busy_share(session, share_id=share_id, status=status, operation_id=holder)
        put_busy_share(session, status=status, operation_id=holder)  # not this one
    before = contents(session)
    if expected is None:
        busy = event in BEGINNING and status != "available"
        with pytest.raises(exception.ShareBusy if busy else exception.IllegalTransition):
            fire_share(session, share_id, event, by)
        assert contents(session) == before
        return
    assert fire_share(session, share_id, event, by) == expected
    found = busy_shares.get(session, share_id)
    if expected == "available":
        assert found is None
    else:
        assert found is not None
        assert (found.status, found.operation_id) == (expected, by)
    assert_only_one_row_changed(before, contents(session), "busy_shares")


def fire_share(session: Session, share_id: str, event: str, operation_id: str) -> str:
    return busy_shares.transition(
        session, share_id, ShareEvent(event), operation_id=operation_id, project_id=PROJECT
    )


STRANGERS = {
    # Whoever does not hold the share cannot end what its holder does ...
    ("backup_creating", "backup_ended"): exception.StaleRow,
    ("backup_restoring", "restored"): exception.StaleRow,
    ("backup_restoring", "restore_untouched"): exception.StaleRow,
    ("backup_restoring", "restore_failed"): exception.ShareBusy,
    # ... but what a failed restore left behind is anybody's to heal or to forget.
    ("backup_restoring_error", "restore"): None,
    ("backup_restoring_error", "reset"): None,
}


@pytest.mark.parametrize(
    ("status", "event"), [cell for cell in STRANGERS], ids=[f"{s}-{e}" for s, e in STRANGERS]
)
def test_share_held_by_another_operation(session: Session, status: str, event: str) -> None:
    refusal = STRANGERS[(status, event)]
    share_id = put_busy_share(session, status=status)
    before = contents(session)
    if refusal is None:
        assert fire_share(session, share_id, event, new_id()) == SHARES[status][event]
    else:
        with pytest.raises(refusal):
            fire_share(session, share_id, event, new_id())
        assert contents(session) == before


def test_every_legal_event_of_a_held_share_was_tried_by_a_stranger() -> None:
    legal = {(status, event) for status, row in SHARES.items() for event in row}
    assert set(STRANGERS) == {cell for cell in legal if cell[0] != "available"}


# --- no status is a trap --------------------------------------------------------------------------

AT_REST = {
    "backup": {"available", "deleted"},
    "operation": {"done", "failed", "cancelled"},
    "share": {"available"},
}
"""Where something may stay for ever without anybody being the worse for it."""

GRAPHS: Mapping[str, Table] = {
    # Without the resets, which are an administrator's last resort and repair nothing.
    "backup": {
        status: {event: after for event, after in row.items() if event not in RESETS}
        for status, row in BACKUPS.items()
    },
    "operation": OPERATIONS,
    "share": {
        status: {event: after for event, after in row.items() if event != "reset"}
        for status, row in SHARES.items()
    },
}
FAILURES = {
    # Busy status -> the event by which its work fails, and where that leads.
    ("backup", "creating"): ("create_failed", "error"),
    ("backup", "restoring"): ("restore_failed", "available"),
    ("backup", "deleting"): ("delete_failed", "error_deleting"),
    ("operation", "queued"): ("cancel", "cancelled"),
    ("operation", "running"): ("fail", "failed"),
    ("share", "backup_creating"): ("backup_ended", "available"),
    ("share", "backup_restoring"): ("restore_failed", "backup_restoring_error"),
}


def reachable(table: Table, status: str) -> set[str]:
    found: set[str] = set()
    todo = [status]
    while todo:
        for after in table[todo.pop()].values():
            if after not in found:
                found.add(after)
                todo.append(after)
    return found


@pytest.mark.parametrize(("kind", "status"), list(FAILURES), ids=[f"{k}-{s}" for k, s in FAILURES])
def test_every_busy_status_has_a_way_to_fail(kind: str, status: str) -> None:
    event, after = FAILURES[(kind, status)]
    assert GRAPHS[kind][status][event] == after


def test_these_are_all_busy_statuses() -> None:
    idle = {
        ("backup", "error"),
        ("backup", "error_deleting"),
        ("share", "backup_restoring_error"),
    } | {(kind, status) for kind, names in AT_REST.items() for status in names}
    everything = {(kind, status) for kind, table in GRAPHS.items() for status in table}
    assert set(FAILURES) == everything - idle


@pytest.mark.parametrize(
    ("kind", "status"),
    [(kind, status) for kind, table in GRAPHS.items() for status in table],
)
def test_every_status_heals_without_a_reset(kind: str, status: str) -> None:
    assert status in AT_REST[kind] or reachable(GRAPHS[kind], status) & AT_REST[kind]


@pytest.mark.parametrize("status", [status for status in BACKUPS if status != "deleted"])
def test_every_backup_can_be_got_rid_of_by_an_administrator(status: str) -> None:
    assert BACKUPS[BACKUPS[status]["delete_by_admin"]]["deleted"] == "deleted"
