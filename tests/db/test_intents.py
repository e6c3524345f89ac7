# SPDX-License-Identifier: Apache-2.0
"""Intents: what may have been left behind, and in which order to undo it."""

from __future__ import annotations

import pytest

from manila_backup.db import intents, operations
from manila_backup.db.engine import Database
from manila_backup.db.intents import Intent, IntentKind
from manila_backup.states import OperationEvent
from tests.db.builders import NOON_US, FakeClock, committed, ids, put_operation

IN_ORDER = (IntentKind.MARK, IntentKind.GRANT, IntentKind.MOUNT, IntentKind.DATA_DIRECTORY)

pytestmark = pytest.mark.every_database


def put_intent(
    database: Database, operation_id: str, kind: IntentKind = IntentKind.GRANT, *, epoch: int = 1
) -> Intent:
    with database.writer() as session:
        return intents.create(
            session,
            operation_id=operation_id,
            epoch=epoch,
            host="node-1",
            kind=kind,
            detail={"share_id": "share-1", "path": "/ä b\n"},
        )


def test_what_was_written_down_is_read_back(database: Database, clock: FakeClock) -> None:
    made = put_intent(database, "operation-1", epoch=4)
    assert made == Intent(
        id=made.id,
        operation_id="operation-1",
        epoch=4,
        host="node-1",
        kind=IntentKind.GRANT,
        detail={"share_id": "share-1", "path": "/ä b\n"},
        attempts=0,
        last_error=None,
        created_at_us=NOON_US,
    )
    with database.reader() as session:
        assert intents.of_operation(session, "operation-1") == [made]
        assert intents.every(session) == [made]
        assert intents.of_operation(session, "operation-2") == []


def test_detail_is_completed_by_what_is_known_only_afterwards(database: Database) -> None:
    made = put_intent(database, "operation-1")
    bystander = put_intent(database, "operation-1")
    with database.writer() as session:
        intents.set_detail(session, made.id, {**made.detail, "reference": "rule-9"})
    with database.reader() as session:
        found = {intent.id: intent for intent in intents.every(session)}
    assert found[made.id].detail == {"share_id": "share-1", "path": "/ä b\n", "reference": "rule-9"}
    assert found[bystander.id] == bystander


@pytest.mark.parametrize("tick_s", [1.0, 0.0, -3600.0], ids=["forth", "stopped", "back"])
def test_newest_first_whatever_the_clock_does(
    database: Database, clock: FakeClock, tick_s: float
) -> None:
    """A clock set back between grant and mount must not have the grant revoked under the mount."""
    made = []
    for kind in IN_ORDER:
        made.append(put_intent(database, "operation-1", kind))
        put_intent(database, "operation-2", kind)
        clock.advance(tick_s)
    with database.reader() as session:
        assert intents.of_operation(session, "operation-1") == made[::-1]
        ours = [i for i in intents.every(session) if i.operation_id == "operation-1"]
    assert ours == made


def test_undone_is_idempotent_and_takes_only_its_own(database: Database) -> None:
    made, kept = put_intent(database, "operation-1"), put_intent(database, "operation-1")
    for _ in range(2):
        with database.writer() as session:
            intents.undone(session, made.id)
        with database.reader() as session:
            assert intents.every(session) == [kept]


def test_a_failure_to_undo_is_counted_and_bounded(database: Database) -> None:
    made = put_intent(database, "operation-1")
    with database.writer() as session:
        intents.failed(session, made.id, "first")
        intents.failed(session, made.id, "ä" * 5000)
    with database.reader() as session:
        (found,) = intents.every(session)
    assert found.attempts == 2
    assert found.last_error == "ä" * 1000
    assert found.detail == made.detail


# --- who outlives what ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "outlived"),
    [("queued", False), ("running", False), ("done", True), ("failed", True), ("cancelled", True)],
)
def test_intents_outlive_operations_that_are_over(
    database: Database, status: str, outlived: bool
) -> None:
    """Those of one that waits or runs belong to its holder, or to whoever takes it over."""
    with database.writer() as session:
        operation_id = put_operation(session, status=status)
    made = [put_intent(database, operation_id, kind) for kind in IN_ORDER]
    with database.reader() as session:
        assert intents.outlived(session) == (made[::-1] if outlived else [])
        assert intents.of_operation(session, operation_id) == made[::-1]


def test_outlived_mixes_operations_but_not_their_order(
    database: Database, clock: FakeClock
) -> None:
    with database.writer() as session:
        over = [put_operation(session, status="failed") for _ in range(2)]
        running = put_operation(session, status="running")
    for kind in IN_ORDER:
        for operation_id in (*over, running):
            put_intent(database, operation_id, kind)
        clock.advance(-1)
    with database.reader() as session:
        found = intents.outlived(session)
    assert {intent.operation_id for intent in found} == set(over)
    for operation_id in over:
        kinds = [intent.kind for intent in found if intent.operation_id == operation_id]
        assert kinds == list(reversed(IN_ORDER))


def test_whoever_takes_over_sees_what_the_former_epochs_left(database: Database) -> None:
    with database.writer() as session:
        operation_id = put_operation(session)
    for epoch in (1, 2):
        with database.writer() as session:
            seen = operations.get(session, operation_id)
            event = OperationEvent.CLAIM if epoch == 1 else OperationEvent.TAKE_OVER
            held = operations.take(session, seen, event, host=f"node-{epoch}", lease_s=0)
        put_intent(database, operation_id, epoch=held.epoch)
    with database.reader() as session:
        found = intents.of_operation(session, operation_id)
        assert [intent.epoch for intent in found] == [2, 1]
        assert intents.outlived(session) == []
    with database.writer() as session:
        operations.transition(session, held, OperationEvent.FAIL)
    with database.reader() as session:
        assert ids(intents.outlived(session)) == ids(found)


def test_ending_an_operation_takes_no_intent_with_it(database: Database) -> None:
    with database.writer() as session:
        operation_id = put_operation(session, status="running", epoch=1)
    put_intent(database, operation_id)
    before = committed(database)["intents"]
    with database.writer() as session:
        seen = operations.get(session, operation_id)
        operations.transition(session, seen, OperationEvent.FINISH)
    assert committed(database)["intents"] == before
