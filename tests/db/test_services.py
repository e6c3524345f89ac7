# SPDX-License-Identifier: Apache-2.0
"""Services: who reports in, and how long ago by the database's clock."""

from __future__ import annotations

from typing import Any

from manila_backup.db import services
from manila_backup.db.engine import Database
from manila_backup.db.services import Service
from tests.db.builders import NOON_US, FakeClock
from tests.db.rivals import execute

S = 1_000_000


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
    execute(database, "UPDATE services SET disabled = 1, disabled_reason = 'repair'")
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
