# SPDX-License-Identifier: Apache-2.0
"""The manager: who works on what, for how long, and what it hands on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from oslo_db import exception as db_exc
from sqlalchemy.orm import Session

from manila_backup.data.holder import Stop
from manila_backup.data.manager import SAFETY, DataManager
from manila_backup.data.node import BINARY, Node
from manila_backup.db import operations, services
from manila_backup.db.engine import Database
from manila_backup.db.operations import Operation
from manila_backup.states import OperationEvent, OperationStatus
from tests.data.node.faulty import LIMIT_S, Steps, wait_for
from tests.data.node.world import World
from tests.db.rivals import execute

pytestmark = pytest.mark.slow

DONE, QUEUED, RUNNING = OperationStatus.DONE, OperationStatus.QUEUED, OperationStatus.RUNNING


class Jobs:
    """Runs jobs that do nothing until they are told to, or told to stop."""

    def __init__(self) -> None:
        self.begun: list[Operation] = []
        self.stops: dict[str, Stop] = {}
        self.go_on = threading.Event()

    def __call__(self, node: Node, held: Operation, stop: Stop) -> None:
        self.stops[held.id] = stop
        self.begun.append(held)
        while not self.go_on.is_set() and not stop.event.wait(0.01):
            pass

    def ids(self) -> list[str]:
        return [held.id for held in self.begun]


@contextmanager
def started(*managers: DataManager) -> Iterator[None]:
    for manager in managers:
        manager.start()
    try:
        yield
    finally:
        for manager in managers:
            manager.stop()


def queue_some(world: World, number: int) -> list[Operation]:
    return [world.queue_backup(world.small_share()) for _ in range(number)]


def statuses(world: World, queued: list[Operation]) -> list[OperationStatus]:
    return [world.operation(one).status for one in queued]


# --- claiming -------------------------------------------------------------------------------------


def test_no_more_than_max_operations_at_once_and_the_oldest_first(world: World) -> None:
    queued = queue_some(world, 4)
    jobs = Jobs()
    manager = DataManager(world.node(max_operations=2), run_job=jobs)
    with started(manager):
        wait_for(lambda: len(jobs.begun) == 2, "two jobs")
        manager.poll()
        assert statuses(world, queued) == [RUNNING, RUNNING, QUEUED, QUEUED]
        jobs.go_on.set()
        # A job that ends makes room by itself. What it left running is its own, so not claimed.
        wait_for(lambda: set(jobs.ids()) >= {one.id for one in queued}, "all jobs")
    assert jobs.ids()[:2] == [one.id for one in queued][:2]


def test_two_nodes_on_one_database_do_each_operation_once(world: World) -> None:
    queued = queue_some(world, 5)
    database = Database(world.database.connection)
    node_b = replace(world.node("node-b"), database=database)
    try:
        with started(DataManager(world.node()), DataManager(node_b)):
            wait_for(lambda: statuses(world, queued) == [DONE] * 5, "the end of all")
    finally:
        database.close()
    for one in queued:
        ended = world.operation(one)
        assert (ended.epoch, ended.attempts) == (1, 1)
        assert world.epochs(one.backup_id) == {1: True}
        world.assert_nothing_is_left(one.share_id)


def test_a_rival_that_is_quicker_gets_the_operation(world: World) -> None:
    """It claims between our look into the queue and our claim."""
    (queued,) = queue_some(world, 1)
    node = world.node()
    rival = world.node("node-b")

    class Slow(Database):
        def write(self, change):  # type: ignore[no-untyped-def]
            if world.operation(queued).status is QUEUED:
                world.claim(queued, rival)
            return super().write(change)

    database = Slow(node.database.connection)
    jobs = Jobs()
    try:
        DataManager(replace(node, database=database), run_job=jobs).poll()
    finally:
        database.close()
    assert jobs.begun == []
    held = world.operation(queued)
    assert (held.host, held.epoch) == ("node-b", 1)


def test_a_poll_heals_a_lost_wake_up(world: World) -> None:
    jobs = Jobs()
    with started(DataManager(world.node(poll_interval_s=0.05), run_job=jobs)):
        (queued,) = queue_some(world, 1)
        wait_for(lambda: jobs.ids() == [queued.id], "a job without a wake-up")


def test_a_wake_up_is_followed_at_once(world: World) -> None:
    jobs = Jobs()
    manager = DataManager(world.node(poll_interval_s=3600.0), run_job=jobs)
    with started(manager):
        (queued,) = queue_some(world, 1)
        manager.wake()
        wait_for(lambda: jobs.ids() == [queued.id], "a job")


def test_claiming_survives_an_error(world: World, caplog: pytest.LogCaptureFixture) -> None:
    node = world.node(poll_interval_s=0.05)
    jobs = Jobs()
    with _away(node) as away, started(DataManager(away.node, run_job=jobs)):
        (queued,) = queue_some(world, 1)
        away.database.error = KeyError("a bug")
        wait_for(lambda: "Claiming failed" in caplog.text, "a failed look")
        away.database.error = db_exc.DBConnectionError()
        wait_for(lambda: "The database is away" in caplog.text, "a look without a database")
        away.database.error = None
        wait_for(lambda: jobs.ids() == [queued.id], "a job")


# --- leases ---------------------------------------------------------------------------------------


class AwayDatabase(Database):
    """A database that may be away for writers, with a step ``write``."""

    error: Exception | None = None
    steps = Steps()

    @contextmanager
    def writer(self) -> Iterator[Session]:
        self.steps.reach("write")
        if self.error is not None:
            raise self.error
        with super().writer() as session:
            yield session


class _Away:
    def __init__(self, node: Node) -> None:
        self.database = AwayDatabase(node.database.connection)
        self.node = replace(node, database=self.database)


@contextmanager
def _away(node: Node) -> Iterator[_Away]:
    found = _Away(node)
    try:
        yield found
    finally:
        found.database.close()


def test_a_heartbeat_reports_in_and_renews_leases(world: World) -> None:
    (queued,) = queue_some(world, 1)
    jobs = Jobs()
    manager = DataManager(world.node(lease_s=60.0), run_job=jobs)
    with started(manager):
        wait_for(lambda: jobs.begun != [], "a job")
        execute(
            world.database, "UPDATE operations SET lease_until_us = 1 WHERE id = :id", id=queued.id
        )
        execute(world.database, "UPDATE services SET reported_at_us = 1 WHERE host = 'node-a'")
        manager.heartbeat()
        held = world.operation(queued)
        assert held.updated_at_us is not None
        assert held.lease_until_us is not None
        assert abs(held.lease_until_us - held.updated_at_us - 60_000_000) < 1_000_000
        with world.database.reader() as session:
            (service,) = services.find(session)
        assert service.reported_at_us > service.started_at_us
        assert not jobs.stops[queued.id].event.is_set()


def test_who_lost_the_lease_stops(world: World) -> None:
    (queued,) = queue_some(world, 1)
    jobs = Jobs()
    manager = DataManager(world.node(), run_job=jobs)
    with started(manager):
        wait_for(lambda: jobs.begun != [], "a job")
        world.claim(queued, world.node("node-b"))
        manager.heartbeat()
        assert jobs.stops[queued.id].lost


def test_who_cannot_renew_stops_before_the_lease_ends(world: World) -> None:
    (queued,) = queue_some(world, 1)
    jobs = Jobs()
    now_s = [1000.0]
    lease_s = 100.0
    with _away(world.node(lease_s=lease_s)) as away:
        manager = DataManager(away.node, run_job=jobs, clock=lambda: now_s[0])
        with started(manager):
            wait_for(lambda: jobs.begun != [], "a job")
            away.database.error = db_exc.DBConnectionError()
            now_s[0] += lease_s * SAFETY - 1
            manager.heartbeat()
            assert not jobs.stops[queued.id].lost
            now_s[0] += 2
            manager.heartbeat()
            assert jobs.stops[queued.id].lost
            away.database.error = None


def test_a_renewal_counts_from_before_it_was_asked_for(world: World) -> None:
    """The statement took half of the lease; the database may have read its clock at its start."""
    (queued,) = queue_some(world, 1)
    jobs = Jobs()
    now_s = [1000.0]
    lease_s = 100.0

    def pass_s(seconds: float) -> None:
        now_s[0] += seconds

    with _away(world.node(lease_s=lease_s)) as away:
        manager = DataManager(away.node, run_job=jobs, clock=lambda: now_s[0])
        with started(manager):
            wait_for(lambda: jobs.begun != [], "a job")
            away.database.steps = Steps()
            # The first write of a heartbeat reports in, the second renews.
            away.database.steps.before("write", lambda: pass_s(lease_s / 2), time=2)
            manager.heartbeat()
            assert away.database.steps.all_met()
            away.database.error = db_exc.DBConnectionError()
            pass_s(lease_s * SAFETY - lease_s / 2 + 1)
            manager.heartbeat()
            assert jobs.stops[queued.id].lost
            away.database.error = None


@pytest.mark.parametrize("by", ["heartbeat", "poll"])
def test_a_cancel_request_is_passed_on(world: World, by: str) -> None:
    (queued,) = queue_some(world, 1)
    jobs = Jobs()
    manager = DataManager(world.node(), run_job=jobs)
    with started(manager):
        wait_for(lambda: jobs.begun != [], "a job")
        manager.heartbeat()
        assert not jobs.stops[queued.id].cancelled
        world.database.write(lambda session: operations.request_cancel(session, queued.id))
        getattr(manager, by)()
        assert jobs.stops[queued.id].cancelled


def test_what_was_cancelled_while_it_waited_for_its_next_attempt_begins_cancelled(
    world: World,
) -> None:
    (queued,) = queue_some(world, 1)
    held = world.claim(queued, world.node())
    world.database.write(lambda session: operations.request_cancel(session, queued.id))
    world.database.write(lambda session: operations.transition(session, held, OperationEvent.RETRY))
    with started(DataManager(world.node())):
        wait_for(
            lambda: world.operation(queued).status is OperationStatus.CANCELLED, "the cancellation"
        )
    assert "grant" not in world.steps.seen
    world.assert_nothing_is_left(queued.share_id)


# --- stopping -------------------------------------------------------------------------------------


def test_a_stopped_node_gives_its_operations_to_another(world: World) -> None:
    (queued,) = queue_some(world, 1)
    world.workers.lay("backup", "wait")
    with started(DataManager(world.node())):
        world.workers.meet("backup")
    assert world.operation(queued).status is QUEUED
    assert world.mounts() == []
    with started(DataManager(world.node("node-b", address="192.0.2.8"))):
        wait_for(lambda: world.operation(queued).status is DONE, "the end")
    ended = world.operation(queued)
    assert (ended.host, ended.epoch) == ("node-b", 2)
    assert world.epochs(queued.backup_id) == {2: True}
    world.assert_nothing_is_left(queued.share_id)


def test_a_node_with_another_nodes_address_takes_no_work(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Access rules could not tell the two apart."""
    (queued,) = queue_some(world, 1)
    jobs = Jobs()
    DataManager(world.node()).heartbeat()
    other = DataManager(world.node("node-b"), run_job=jobs)
    other.heartbeat()
    other.poll()
    other.stop()
    assert jobs.begun == []
    assert "Node node-a has this node's address" in caplog.text
    assert world.operation(queued).status is QUEUED


def test_a_disabled_node_takes_no_work(world: World) -> None:
    (queued,) = queue_some(world, 1)
    jobs = Jobs()
    manager = DataManager(world.node(), run_job=jobs)
    manager.heartbeat()

    def set_disabled(reason: str | None) -> None:
        world.database.write(
            lambda session: services.set_disabled(session, "node-a", BINARY, reason=reason)
        )

    set_disabled("repair")
    manager.poll()
    assert jobs.begun == []
    set_disabled(None)
    manager.poll()
    wait_for(lambda: jobs.ids() == [queued.id], "the job")
    manager.stop()


def test_a_stopped_node_claims_nothing_more(world: World) -> None:
    jobs = Jobs()
    manager = DataManager(world.node(), run_job=jobs)
    with started(manager):
        pass
    queue_some(world, 1)
    manager.poll()
    assert jobs.begun == []


def test_a_job_that_breaks_makes_room_for_others(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = queue_some(world, 2)
    done = threading.Event()

    def breaking(node: Node, held: Operation, stop: Stop) -> None:
        if held.id == first.id:
            execute(world.database, "UPDATE operations SET host = 'x' WHERE id = :id", id=held.id)
            raise KeyError("a bug")
        done.set()

    with started(DataManager(world.node(max_operations=1), run_job=breaking)):
        assert done.wait(LIMIT_S)
    assert "KeyError: 'a bug'" in caplog.text
    assert world.operation(second).epoch >= 1
