# SPDX-License-Identifier: Apache-2.0
"""The queue of work: order, leases by the database's clock, cancelling. Races are elsewhere."""

from __future__ import annotations

import pytest
from oslo_db import exception as db_exc

from manila_backup import exception
from manila_backup.db import operations
from manila_backup.db.engine import Database
from manila_backup.db.models import OperationRow
from manila_backup.db.operations import Operation
from manila_backup.states import OperationEvent, OperationKind, OperationStatus, Phase
from manila_backup.types import Counters, RestoreMode
from tests.db.builders import (
    NOON_US,
    FakeClock,
    committed,
    ids,
    new_id,
    new_operation,
    put_operation,
    row_of,
)

S = 1_000_000

pytestmark = pytest.mark.every_database


def claim(database: Database, operation_id: str, *, lease_s: float = 60) -> Operation:
    with database.writer() as session:
        seen = operations.get(session, operation_id)
        return operations.take(session, seen, OperationEvent.CLAIM, host="node-1", lease_s=lease_s)


def reload(database: Database, operation_id: str) -> Operation:
    with database.reader() as session:
        return operations.get(session, operation_id)


def test_what_becomes_of_one_is_not_of_another(database: Database) -> None:
    """Not even if both are at the same status and epoch."""
    one, other = (database.write(put_operation) for _ in range(2))
    with database.writer() as session:
        operations.transition(session, operations.get(session, one), OperationEvent.CANCEL)
    assert reload(database, one).status is OperationStatus.CANCELLED
    assert reload(database, other).status is OperationStatus.QUEUED
    claimed = [claim(database, database.write(put_operation)) for _ in range(2)]
    with database.writer() as session:
        operations.transition(session, claimed[0], OperationEvent.FINISH)
    assert [reload(database, held.id).status for held in claimed] == [
        OperationStatus.DONE,
        OperationStatus.RUNNING,
    ]


# --- making and reading ---------------------------------------------------------------------------


def test_create(database: Database, clock: FakeClock) -> None:
    new = new_operation(kind=OperationKind.RESTORE, mode=RestoreMode.MERGE, share_was_in_error=True)
    made = database.write(lambda session: operations.create(session, new))
    assert reload(database, made.id) == made
    assert made.kind is OperationKind.RESTORE
    assert made.status is OperationStatus.QUEUED
    assert made.mode is RestoreMode.MERGE
    assert (made.backup_id, made.share_id) == (new.backup_id, new.share_id)
    assert (made.user_id, made.request_id) == ("user-1", "req-1")
    assert (made.epoch, made.attempts, made.progress) == (0, 0, 0)
    assert (made.phase, made.host, made.lease_until_us) == (None, None, None)
    assert made.counters == Counters()
    assert (made.created_at_us, made.not_before_us) == (NOON_US, NOON_US)
    assert made.share_was_in_error
    assert [made.cancel_requested, made.then_delete, made.share_written] == [False] * 3


def test_a_backup_has_one_active_operation_and_any_number_of_past_ones(
    database: Database,
) -> None:
    backup_id = new_id()
    for status in ("done", "failed", "cancelled", "done"):
        with database.writer() as session:
            put_operation(session, backup_id=backup_id, status=status)
    with database.writer() as session:
        active = operations.create(session, new_operation(backup_id=backup_id))
    with database.reader() as session:
        assert operations.active_of_backup(session, backup_id) == active
        assert operations.active_of_backup(session, new_id()) is None
        assert len(operations.of_backup(session, backup_id)) == 5
    before = committed(database)
    with pytest.raises(db_exc.DBDuplicateEntry), database.writer() as session:
        operations.create(session, new_operation(backup_id=backup_id))
    assert committed(database) == before


@pytest.mark.parametrize("event", ["finish", "fail", "cancel"])
def test_an_ended_operation_makes_room_for_the_next(database: Database, event: str) -> None:
    new = new_operation()
    made = database.write(lambda session: operations.create(session, new))
    held = claim(database, made.id)
    with database.writer() as session:
        operations.transition(session, held, OperationEvent(event))
        following = operations.create(session, new)
    with database.reader() as session:
        assert operations.active_of_backup(session, new.backup_id) == following


def test_a_retry_keeps_its_place(database: Database) -> None:
    new = new_operation()
    made = database.write(lambda session: operations.create(session, new))
    held = claim(database, made.id)
    with database.writer() as session:
        operations.transition(session, held, OperationEvent.RETRY)
    with pytest.raises(db_exc.DBDuplicateEntry), database.writer() as session:
        operations.create(session, new)


def test_of_backup_is_newest_first_and_bounded(database: Database, clock: FakeClock) -> None:
    backup_id = new_id()
    made = []
    for second in range(4):
        clock.now_us = NOON_US + second * S
        with database.writer() as session:
            made.append(
                put_operation(
                    session, backup_id=backup_id, status="done", created_at_us=clock.now_us
                )
            )
    with database.writer() as session:
        put_operation(session, status="done")
    with database.reader() as session:
        assert ids(operations.of_backup(session, backup_id)) == made[::-1]
        assert ids(operations.of_backup(session, backup_id, limit=2)) == made[:1:-1]


def test_get_of_what_is_not_there(database: Database) -> None:
    with pytest.raises(exception.OperationNotFound), database.reader() as session:
        operations.get(session, "nothing")


# --- who may be claimed ---------------------------------------------------------------------------


def test_claimable_is_oldest_first_and_only_what_is_due_by_the_databases_clock(
    database: Database, clock: FakeClock
) -> None:
    with database.writer() as session:
        put_operation(session, status="running", created_at_us=NOON_US - 9 * S)
        put_operation(session, status="done", created_at_us=NOON_US - 9 * S)
        late = put_operation(session, created_at_us=NOON_US - 1 * S)
        early = put_operation(session, created_at_us=NOON_US - 3 * S)
        waiting = put_operation(
            session, created_at_us=NOON_US - 5 * S, not_before_us=NOON_US + 10 * S
        )
    with database.reader() as session:
        assert ids(operations.claimable(session)) == [early, late]
        assert ids(operations.claimable(session, limit=1)) == [early]
    clock.advance(9.999999)
    with database.reader() as session:
        assert ids(operations.claimable(session)) == [early, late]
    clock.advance(0.000001)
    with database.reader() as session:
        assert ids(operations.claimable(session)) == [waiting, early, late]


def queue(database: Database, project_id: str, count: int = 1, **changes: object) -> list[str]:
    return [
        database.write(
            lambda session: operations.create(
                session, new_operation(project_id=project_id, **changes)
            )
        ).id
        for _ in range(count)
    ]


def claim_next(database: Database) -> Operation:
    with database.reader() as session:
        return claim(database, operations.claimable(session)[0].id)


@pytest.mark.slow
@pytest.mark.parametrize("each_ends", [True, False], ids=["one at a time", "all at once"])
def test_a_project_that_queued_much_does_not_keep_another_one_waiting(
    database: Database, each_ends: bool
) -> None:
    queue(database, "a", 100)
    queue(database, "b")
    claimed: list[str] = []
    for _ in range(6):
        held = claim_next(database)
        claimed.append(held.project_id)
        if each_ends:
            with database.writer() as session:
                operations.transition(session, held, OperationEvent.FINISH)
    assert "b" in claimed[:2]
    assert claimed.count("a") == 5


def test_among_projects_that_wait_turns_are_taken(database: Database) -> None:
    for project_id in ("a", "b", "c"):
        queue(database, project_id, 3)
    claimed = []
    for _ in range(9):
        held = claim_next(database)
        claimed.append(held.project_id)
        with database.writer() as session:
            operations.transition(session, held, OperationEvent.FINISH)
    assert [sorted(claimed[start : start + 3]) for start in (0, 3, 6)] == [["a", "b", "c"]] * 3


def test_many_nodes_find_enough_of_one_project(database: Database) -> None:
    """Those that were not quick enough for the first one need not wait for the next poll."""
    made = queue(database, "a", 12)
    with database.reader() as session:
        found = ids(operations.claimable(session, limit=10))
    assert len(found) == 10
    assert set(found) <= set(made)


def test_claimable_by_kind_and_zone(database: Database) -> None:
    (create,) = queue(database, "a", availability_zone="az-1")
    (restore,) = queue(database, "a", kind=OperationKind.RESTORE, availability_zone="az-2")
    (delete,) = queue(database, "a", kind=OperationKind.DELETE)
    with database.reader() as session:

        def found(**wanted: object) -> set[str]:
            return set(ids(operations.claimable(session, **wanted)))  # type: ignore[arg-type]

        assert found() == {create, restore, delete}
        assert found(kinds=[OperationKind.RESTORE, OperationKind.DELETE]) == {restore, delete}
        assert found(kinds=[]) == set()
        assert found(zone="az-1") == {create, delete}
        assert found(zone="az-2", kinds=[OperationKind.RESTORE]) == {restore}


# --- who may be taken over ------------------------------------------------------------------------


def test_expired_are_other_hosts_whose_lease_has_ended_by_the_databases_clock(
    database: Database, clock: FakeClock
) -> None:
    with database.writer() as session:

        def running(host: str, left_s: int, status: str = "running") -> str:
            lease_until_us = NOON_US + left_s * S
            return put_operation(session, status=status, host=host, lease_until_us=lease_until_us)

        second, first = running("node-2", 20), running("node-3", 10)
        running("node-1", 5)
        running("node-2", 0, "done")
        put_operation(session, status="queued", host="node-2")
    with database.reader() as session:
        assert operations.expired(session, "node-1") == []
    clock.advance(20)
    with database.reader() as session:
        assert ids(operations.expired(session, "node-1")) == [first, second]
        assert ids(operations.expired(session, "node-1", limit=1)) == [first]


def test_a_lease_that_was_renewed_at_the_last_moment_holds(
    database: Database, clock: FakeClock
) -> None:
    """Between the look of the one that would take over and its UPDATE; the epoch is the same."""
    (queued,) = queue(database, "a")
    held = claim(database, queued, lease_s=10)
    clock.advance(11)
    with database.reader() as session:
        (seen,) = operations.expired(session, "node-2")
    database.write(lambda session: operations.renew(session, held, lease_s=10))
    before = committed(database)
    with pytest.raises(exception.StaleRow), database.writer() as session:
        operations.take(session, seen, OperationEvent.TAKE_OVER, host="node-2", lease_s=10)
    assert committed(database) == before


def test_what_a_host_held_itself_it_takes_over_whatever_its_lease(database: Database) -> None:
    (queued,) = queue(database, "a")
    held = claim(database, queued)
    with database.writer() as session:
        taken = operations.take(session, held, OperationEvent.TAKE_OVER, host="node-1", lease_s=10)
    assert taken.epoch == 2


# --- for operators --------------------------------------------------------------------------------


def test_find(database: Database, clock: FakeClock) -> None:
    made = []
    for number, status in enumerate(["queued", "running", "running", "done"]):
        clock.now_us = NOON_US + number * S
        with database.writer() as session:
            made.append(
                put_operation(
                    session,
                    status=status,
                    host=f"node-{number}",
                    project_id=f"project-{number % 2}",
                    created_at_us=clock.now_us,
                )
            )
    queued, running, other, done = made
    active = [OperationStatus.QUEUED, OperationStatus.RUNNING]
    with database.reader() as session:
        assert ids(operations.find(session, statuses=active)) == [other, running, queued]
        assert ids(operations.find(session, statuses=active, limit=1)) == [other]
        assert ids(operations.find(session, statuses=active, host="node-1")) == [running]
        assert ids(operations.find(session, statuses=active, project_id="project-0")) == [
            *(other, queued)
        ]
        assert ids(operations.find(session, statuses=[OperationStatus.DONE])) == [done]


def test_a_node_gets_another_name(database: Database) -> None:
    with database.writer() as session:
        moved = [
            put_operation(session, status=status, host="old") for status in ("queued", "running")
        ]
        past = put_operation(session, status="done", host="old")
        other = put_operation(session, status="running", host="node-2")
    assert database.write(lambda session: operations.move_host(session, "old", "new")) == 2
    assert [reload(database, one).host for one in (*moved, past, other)] == [
        *("new", "new", "old", "node-2")
    ]


def test_leftovers_are_the_running_ones_of_this_host_that_nobody_here_knows(
    database: Database,
) -> None:
    with database.writer() as session:
        mine = put_operation(session, status="running", host="node-1")
        known = put_operation(session, status="running", host="node-1")
        put_operation(session, status="running", host="node-11")
        put_operation(session, status="queued", host="node-1")
        put_operation(session, status="done", host="node-1")
    with database.reader() as session:
        assert ids(operations.leftovers(session, "node-1", except_ids={known})) == [mine]
        found = operations.leftovers(session, "node-1", except_ids=[])
        assert set(ids(found)) == {mine, known}
        assert operations.leftovers(session, "node", except_ids=[]) == []


def test_running_count_counts_what_is_queued_or_running(database: Database) -> None:
    with database.writer() as session:
        for status in ("queued", "queued", "running", "done", "failed", "cancelled"):
            put_operation(session, status=status)
        assert operations.running_count(session) == 3


# --- leases ---------------------------------------------------------------------------------------


def test_a_claim_starts_a_lease_by_the_databases_clock(
    database: Database, clock: FakeClock
) -> None:
    """The node's own clock may be an hour off; nothing of it goes into the row."""
    made = database.write(lambda session: operations.create(session, new_operation()))
    clock.advance(3600)
    held = claim(database, made.id, lease_s=90.5)
    assert held.status is OperationStatus.RUNNING
    assert held.lease_until_us == NOON_US + 3600 * S + 90_500_000
    assert held.started_at_us == held.updated_at_us == NOON_US + 3600 * S
    assert (held.host, held.epoch, held.attempts) == ("node-1", 1, 1)
    assert reload(database, made.id) == held


def test_renewing_counts_from_now_not_from_the_old_end(
    database: Database, clock: FakeClock
) -> None:
    made = database.write(lambda session: operations.create(session, new_operation()))
    held = claim(database, made.id, lease_s=60)
    clock.advance(45)
    with database.writer() as session:
        operations.renew(session, held, lease_s=60)
    assert reload(database, made.id).lease_until_us == NOON_US + 105 * S


def test_a_holder_writes_to_its_own_operation_only(database: Database, clock: FakeClock) -> None:
    """Another operation of the same host, epoch and status is somebody else's business."""
    made = database.write(lambda session: operations.create(session, new_operation()))
    held = claim(database, made.id)
    with database.writer() as session:
        other = put_operation(session, status="running", host="node-1", epoch=held.epoch)
    before = reload(database, other)
    with database.writer() as session:
        operations.note(session, held, progress=30)
        operations.renew(session, held, lease_s=60)
        operations.request_cancel(session, held.id)
    assert reload(database, other) == before
    assert reload(database, held.id).progress == 30


def test_an_expired_lease_that_nobody_took_may_still_be_renewed(
    database: Database, clock: FakeClock
) -> None:
    """Expiry allows others to take over; it does not end the work by itself."""
    made = database.write(lambda session: operations.create(session, new_operation()))
    held = claim(database, made.id, lease_s=60)
    clock.advance(3600)
    with database.writer() as session:
        operations.renew(session, held, lease_s=60)
    assert reload(database, made.id).lease_until_us == NOON_US + 3660 * S


def test_taking_over_keeps_the_work_and_who_did_it(database: Database, clock: FakeClock) -> None:
    made = database.write(lambda session: operations.create(session, new_operation()))
    held = claim(database, made.id)
    counters = Counters(files=3, bytes=1 << 40)
    with database.writer() as session:
        operations.note(
            session,
            held,
            phase=Phase.COPYING,
            worker_pid=4711,
            worker_started="boot/123",
            share_written=True,
            counters=operations.dump_counters(counters),
            progress=40,
        )
    clock.advance(100)
    with database.writer() as session:
        taken = operations.take(
            session,
            operations.get(session, made.id),
            OperationEvent.TAKE_OVER,
            host="node-2",
            lease_s=30,
        )
    assert (taken.host, taken.epoch, taken.attempts) == ("node-2", 2, 2)
    assert taken.lease_until_us == NOON_US + 130 * S
    assert taken.started_at_us == held.started_at_us
    assert taken.phase is None
    assert (taken.worker_pid, taken.worker_started) == (4711, "boot/123")
    # What was done to the share is not forgotten with the one who did it.
    assert taken.share_written
    assert (taken.counters, taken.progress) == (counters, 40)


def test_a_retry_waits_and_the_next_claim_raises_the_epoch_again(
    database: Database, clock: FakeClock
) -> None:
    made = database.write(lambda session: operations.create(session, new_operation()))
    held = claim(database, made.id)
    with database.writer() as session:
        operations.transition(session, held, OperationEvent.RETRY, not_before_us=NOON_US + 30 * S)
        assert operations.claimable(session) == []
    waiting = reload(database, made.id)
    assert (waiting.status, waiting.epoch) == (OperationStatus.QUEUED, 1)
    assert (waiting.lease_until_us, waiting.finished_at_us) == (None, None)
    clock.advance(30)
    again = claim(database, made.id)
    assert (again.epoch, again.attempts) == (2, 2)
    assert again.started_at_us == held.started_at_us
    with pytest.raises(exception.LeaseLost), database.writer() as session:
        operations.note(session, held, progress=1)


def test_a_failed_take_tells_why_and_changes_nothing(database: Database) -> None:
    with database.writer() as session:
        operation_id = put_operation(session, status="running", epoch=1)
    before = committed(database)
    with pytest.raises(exception.IllegalTransition) as refused:
        claim(database, operation_id)
    assert "running" in str(refused.value)
    assert "claim" in str(refused.value)
    assert committed(database) == before


# --- cancelling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "running"])
def test_request_cancel_is_idempotent(database: Database, clock: FakeClock, status: str) -> None:
    with database.writer() as session:
        operation_id = put_operation(session, status=status, epoch=1)
    with database.writer() as session:
        assert operations.request_cancel(session, operation_id)
    first = committed(database)
    found = reload(database, operation_id)
    assert found.cancel_requested
    assert not found.then_delete
    assert (found.status, found.epoch) == (status, 1)
    with database.writer() as session:
        assert operations.request_cancel(session, operation_id)
    assert committed(database) == first


@pytest.mark.parametrize("status", ["done", "failed", "cancelled"])
def test_request_cancel_of_an_ended_operation_has_no_effect(
    database: Database, status: str
) -> None:
    with database.writer() as session:
        operation_id = put_operation(session, status=status)
    before = committed(database)
    with database.writer() as session:
        assert not operations.request_cancel(session, operation_id, then_delete=True)
        assert not operations.request_cancel(session, "nothing")
    assert committed(database) == before


def test_a_wish_to_delete_is_not_taken_back_by_a_later_cancel(database: Database) -> None:
    with database.writer() as session:
        operation_id = put_operation(session, status="running", epoch=1)
        assert operations.request_cancel(session, operation_id, then_delete=True)
        assert operations.request_cancel(session, operation_id)
    assert reload(database, operation_id).then_delete


def test_a_cancel_does_not_fence_its_holder_off(database: Database) -> None:
    """The holder has to undo everything first, and to say that it did."""
    made = database.write(lambda session: operations.create(session, new_operation()))
    held = claim(database, made.id)
    with database.writer() as session:
        operations.request_cancel(session, made.id)
        operations.note(session, held, phase=Phase.UNMOUNTING)
        operations.renew(session, held, lease_s=60)
        ended = operations.transition(session, held, OperationEvent.CANCEL, fail_reason="asked")
    assert ended is OperationStatus.CANCELLED


@pytest.mark.parametrize("event", ["retry", "take_over"])
def test_a_cancel_outlives_the_holder_that_did_not_see_it(database: Database, event: str) -> None:
    made = database.write(lambda session: operations.create(session, new_operation()))
    held = claim(database, made.id)
    with database.writer() as session:
        operations.request_cancel(session, made.id, then_delete=True)
    with database.writer() as session:
        if event == "retry":
            operations.transition(session, held, OperationEvent.RETRY)
        else:
            operations.take(session, held, OperationEvent.TAKE_OVER, host="node-1", lease_s=60)
    found = reload(database, made.id)
    assert found.cancel_requested
    assert found.then_delete


def test_counters_survive_the_row(database: Database) -> None:
    counters = Counters(
        files=1, directories=2, others=3, bytes=1 << 62, skipped=5, changed=6, losses=7, warnings=8
    )
    made = database.write(lambda session: operations.create(session, new_operation()))
    held = claim(database, made.id)
    with database.writer() as session:
        operations.note(session, held, counters=operations.dump_counters(counters))
        assert row_of(session, OperationRow, made.id)["counters"] != "{}"
    assert reload(database, made.id).counters == counters
