# SPDX-License-Identifier: Apache-2.0
"""Services: who reports in, and how long ago by the database's clock."""

from __future__ import annotations

from typing import Any

import pytest

from manila_backup.db import services
from manila_backup.db.engine import Database
from manila_backup.db.services import Service
from tests.db.builders import NOON_US, FakeClock
from tests.db.rivals import execute

S = 1_000_000

pytestmark = pytest.mark.every_database


def report(database: Database, **changes: Any) -> None:
    ordinary: dict[str, Any] = {
        "host": "node-1",
        "binary": "manila-backup-data",
        "topic": "manila-backup",
        "availability_zone": "az-1",
        "address": "192.0.2.1",
        "starting": False,
    }
    with database.writer() as session:
        services.report(session, **(ordinary | changes))


def find(database: Database) -> list[Service]:
    with database.reader() as session:
        return services.find(session)


def test_the_first_report_makes_the_row(database: Database, clock: FakeClock) -> None:
    report(database, starting=False)
    (found,) = find(database)
    assert (found.host, found.binary) == ("node-1", "manila-backup-data")
    assert (found.topic, found.availability_zone) == ("manila-backup", "az-1")
    assert found.address == "192.0.2.1"
    assert not found.disabled
    assert found.started_at_us == found.reported_at_us == NOON_US
    assert found.silent_us == 0


def test_later_reports_say_that_it_lives_and_keep_the_start(
    database: Database, clock: FakeClock
) -> None:
    report(database, starting=True)
    clock.advance(10)
    report(database, address=None, availability_zone="az-2", topic="t")
    (found,) = find(database)
    assert found.started_at_us == NOON_US
    assert found.reported_at_us == NOON_US + 10 * S
    assert (found.address, found.availability_zone, found.topic) == (None, "az-2", "t")


def test_a_restart_begins_anew_in_the_same_row(database: Database, clock: FakeClock) -> None:
    report(database, starting=True)
    (first,) = find(database)
    clock.advance(10)
    report(database, starting=True)
    (found,) = find(database)
    assert found.id == first.id
    assert found.started_at_us == NOON_US + 10 * S


def test_a_report_does_not_enable_what_an_operator_has_disabled(database: Database) -> None:
    report(database)
    execute(database, "UPDATE services SET disabled = true, disabled_reason = 'repair'")
    report(database, starting=True)
    (found,) = find(database)
    assert found.disabled is True
    assert found.disabled_reason == "repair"


def test_silence_is_counted_by_the_databases_clock(database: Database, clock: FakeClock) -> None:
    report(database)
    clock.advance(61.5)
    (found,) = find(database)
    assert found.silent_us == 61_500_000


def test_silence_is_never_negative(database: Database, clock: FakeClock) -> None:
    """The clock was set back since the last report."""
    report(database)
    clock.advance(-5)
    (found,) = find(database)
    assert found.silent_us == 0


def test_one_row_per_host_and_binary_in_their_order(database: Database) -> None:
    for host, binary in (("b", "data"), ("a", "data"), ("c", "api"), ("a", "api"), ("a", "data")):
        report(database, host=host, binary=binary)
    assert [(found.binary, found.host) for found in find(database)] == [
        ("api", "a"),
        ("api", "c"),
        ("data", "a"),
        ("data", "b"),
    ]


def test_a_report_is_for_its_own_row_only(database: Database, clock: FakeClock) -> None:
    report(database, host="a")
    report(database, host="b")
    clock.advance(10)
    report(database, host="b", address="192.0.2.9")
    a, b = find(database)
    assert (a.silent_us, a.address) == (10 * S, "192.0.2.1")
    assert (b.silent_us, b.address) == (0, "192.0.2.9")


# --- who may take work ----------------------------------------------------------------------------

DATA = "manila-backup-data"


def test_disabling_keeps_the_reason_and_enabling_forgets_it(database: Database) -> None:
    report(database)
    report(database, host="node-2")
    for reason in ("repair", "another repair"):
        assert database.write(
            lambda session, reason=reason: services.set_disabled(
                session, "node-1", DATA, reason=reason
            )
        )
        with database.reader() as session:
            assert services.is_disabled(session, "node-1", DATA)
            assert not services.is_disabled(session, "node-2", DATA)
        assert find(database)[0].disabled_reason == reason
    assert database.write(
        lambda session: services.set_disabled(session, "node-1", DATA, reason=None)
    )
    assert (find(database)[0].disabled, find(database)[0].disabled_reason) == (False, None)


def test_a_service_that_never_reported_cannot_be_disabled_and_is_not(database: Database) -> None:
    assert not database.write(
        lambda session: services.set_disabled(session, "nobody", DATA, reason="x")
    )
    with database.reader() as session:
        assert not services.is_disabled(session, "nobody", DATA)


def rival(database: Database, host: str) -> str | None:
    with database.reader() as session:
        return services.rival_of(session, host, DATA, silent_s=60)


def test_of_two_nodes_with_one_address_the_later_one_has_a_rival(
    database: Database, clock: FakeClock
) -> None:
    report(database, host="node-2", starting=True)
    clock.advance(1)
    report(database, host="node-1", starting=True)
    report(database, host="node-3", address="192.0.2.3")
    report(database, host="node-4", binary="manila-backup-api")
    assert [rival(database, f"node-{number}") for number in range(1, 5)] == [
        *("node-2", None, None, None)
    ]
    clock.advance(61)
    report(database, host="node-1")
    assert rival(database, "node-1") is None, "the other one has been silent for long"


def test_of_two_nodes_that_started_at_the_same_time_one_has_a_rival(
    database: Database, clock: FakeClock
) -> None:
    for host in ("node-1", "node-2"):
        report(database, host=host, starting=True)
    assert (rival(database, "node-1"), rival(database, "node-2")) == (None, "node-1")


def test_nodes_without_an_address_are_no_rivals(database: Database) -> None:
    for host in ("node-1", "node-2"):
        report(database, host=host, address=None)
    assert (rival(database, "node-1"), rival(database, "node-2")) == (None, None)
