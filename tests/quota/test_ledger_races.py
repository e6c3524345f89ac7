# SPDX-License-Identifier: Apache-2.0
"""Rivals and faults between the statements of a charge; crowds against a small limit."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from oslo_db import exception as db_exc
from sqlalchemy.orm import Session

from manila_backup import exception
from manila_backup.db.engine import Database
from manila_backup.quota import ledger
from manila_backup.quota.ledger import BACKUPS, Limits, Usage
from tests.db.builders import OTHER_PROJECT, PROJECT, committed, put_backup
from tests.db.rivals import execute, fault_at, rival_before
from tests.quota.requests import (
    UNLIMITED,
    adopt,
    assert_charged_as_stored,
    begin_delete,
    create,
    finish_create,
    finish_delete,
    sums,
    usages,
)

pytestmark = [pytest.mark.slow, pytest.mark.every_database]


def charge_once(database: Database, size_gib: int = 1) -> None:
    with database.writer() as session:
        create(session, UNLIMITED, size_gib=size_gib)


# --- a rival between our look and our charge ------------------------------------------------------


def test_the_last_backup_is_given_once(database: Database, unlocked: Database) -> None:
    charge_once(database)
    limits = Limits(backups=2, backup_gigabytes=-1)
    with (
        rival_before(unlocked, "UPDATE quota_usages", lambda: charge_once(database)),
        pytest.raises(exception.BackupLimitExceeded),
        unlocked.writer() as session,
    ):
        ledger.charge(session, PROJECT, 1, limits)
    assert usages(database) == {PROJECT: (2, 2)}


def test_the_last_gigabytes_are_given_once(database: Database, unlocked: Database) -> None:
    charge_once(database)
    limits = Limits(backups=-1, backup_gigabytes=5)
    with (
        rival_before(unlocked, "UPDATE quota_usages", lambda: charge_once(database, 3)),
        pytest.raises(exception.BackupGigabytesExceeded) as refused,
        unlocked.writer() as session,
    ):
        ledger.charge(session, PROJECT, 2, limits)
    assert refused.value.consumed == 4
    with database.reader() as session:
        assert ledger.usage(session, PROJECT).backup_gigabytes == 4


def test_the_first_charges_of_a_project_add_up(database: Database, unlocked: Database) -> None:
    """Both find no usage row and make one; the second must neither fail nor begin at zero."""
    with (
        rival_before(unlocked, "INSERT INTO quota_usages", lambda: charge_once(database, 3)),
        unlocked.writer() as session,
    ):
        ledger.charge(session, PROJECT, 2, UNLIMITED)
    with database.reader() as session:
        assert ledger.usage(session, PROJECT) == Usage(backups=2, backup_gigabytes=5)


def test_a_charge_is_for_its_own_project_and_resource(database: Database) -> None:
    with database.writer() as session:
        for project_id in (PROJECT, OTHER_PROJECT):
            ledger.charge_unlimited(session, project_id, 10)
        ledger.charge(session, PROJECT, 7, UNLIMITED)
        ledger.refund(session, OTHER_PROJECT, 4)
        assert ledger.usage(session, PROJECT) == Usage(backups=2, backup_gigabytes=17)
        assert ledger.usage(session, OTHER_PROJECT) == Usage(backups=0, backup_gigabytes=6)


def test_two_refunds_at_once(database: Database, unlocked: Database) -> None:
    with database.writer() as session:
        for _ in range(3):
            ledger.charge_unlimited(session, PROJECT, 4)

    def refund() -> None:
        with database.writer() as session:
            ledger.refund(session, PROJECT, 4)

    with (
        rival_before(unlocked, "UPDATE quota_usages", refund),
        unlocked.writer() as session,
    ):
        ledger.refund(session, PROJECT, 4)
    assert usages(database) == {PROJECT: (1, 4)}


def test_two_administrators_set_the_first_limit_at_once(
    database: Database, unlocked: Database
) -> None:
    def set_other() -> None:
        with database.writer() as session:
            ledger.set_limit(session, PROJECT, BACKUPS, 3)

    with (
        rival_before(unlocked, "INSERT INTO quotas", set_other),
        unlocked.writer() as session,
    ):
        ledger.set_limit(session, PROJECT, BACKUPS, 4)
    with database.reader() as session:
        assert ledger.limits(session, PROJECT, Limits()).backups == 4


@pytest.mark.sqlite  # elsewhere a lock keeps the rival waiting
@pytest.mark.parametrize("statement", ["SELECT", "UPDATE quota_usages"])
def test_a_create_during_sync_is_not_forgotten(
    database: Database, unlocked: Database, statement: str
) -> None:
    with database.writer() as session:
        put_backup(session, charged_gib=5)  # somebody inserted a row by hand
    with (
        rival_before(unlocked, statement, lambda: charge_once(database, 2)),
        unlocked.writer() as session,
    ):
        ledger.sync(session)
    with database.writer() as session:
        ledger.sync(session)
    assert usages(database) == {PROJECT: (2, 7)}


@pytest.mark.sqlite  # elsewhere a lock keeps the rival waiting
def test_a_sync_overtaken_by_a_create_does_not_take_its_charge_away(
    database: Database, unlocked: Database
) -> None:
    """What sync has counted is out of date when it wants to write: it leaves the usage alone."""
    charge_once(database)
    execute(database, "UPDATE quota_usages SET in_use = 3 WHERE resource = :name", name=BACKUPS)
    with (
        rival_before(unlocked, "UPDATE quota_usages", lambda: charge_once(database)),
        unlocked.writer() as session,
    ):
        assert ledger.sync(session) == []
    with database.reader() as session:
        assert ledger.usage(session, PROJECT).backups == 4
    with database.writer() as session:
        (drift,) = ledger.sync(session)
    assert (drift.in_use, drift.expected) == (4, 2)
    assert_charged_as_stored(database)


def test_creates_during_a_check_are_no_drift(database: Database, unlocked: Database) -> None:
    charge_once(database)
    with (
        rival_before(unlocked, "SELECT", lambda: charge_once(database), every=True),
        unlocked.writer() as session,
    ):
        assert ledger.check(session) == []


# --- a fault at every statement -------------------------------------------------------------------


def prepared(database: Database, step: str) -> Callable[[Session], object]:
    """Bring the database to where ``step`` can be done; returns how."""
    if step == "create":
        return lambda session: create(session, UNLIMITED, size_gib=3)
    if step == "import":
        return lambda session: adopt(session, size_gib=3)
    with database.writer() as session:
        backup_id = create(session, UNLIMITED, size_gib=3)
        if step != "finish_create":
            finish_create(session, backup_id)
        if step == "finish_delete":
            begin_delete(session, backup_id)
    return {
        "finish_create": lambda session: finish_create(session, backup_id),
        "begin_delete": lambda session: begin_delete(session, backup_id),
        "finish_delete": lambda session: finish_delete(session, backup_id),
    }[step]


STEPS = ["create", "import", "finish_create", "begin_delete", "finish_delete"]


@pytest.mark.parametrize("step", STEPS)
def test_a_fault_at_any_statement_keeps_nothing(database: Database, step: str) -> None:
    change = prepared(database, step)
    before = committed(database)
    number = 0
    while True:
        with fault_at(database, number) as was_reached, suppress(db_exc.DBError):
            database.write(change)
        if not was_reached():
            break
        assert committed(database) == before, f"statement {number}"
        number += 1
    assert number >= 5
    assert committed(database) != before
    assert_charged_as_stored(database)


def deadlock() -> Exception:
    error: Exception = db_exc.DBDeadlock()
    return error


@pytest.mark.parametrize("step", STEPS)
def test_a_deadlock_at_any_statement_is_made_good(
    database: Database, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    number, reached = 0, True
    while reached:
        change = prepared(database, step)
        with fault_at(database, number, deadlock) as was_reached:
            database.write(change)
            reached = was_reached()
        number += 1
        left = 0 if step == "finish_delete" else number
        assert usages(database).get(PROJECT, (0, 0)) == (left, 3 * left), f"before {number}"
    assert number > 5
    assert_charged_as_stored(database)


# --- crowds ---------------------------------------------------------------------------------------

CROWD_LIMITS = Limits(backups=9, backup_gigabytes=14)


def crowd_in(connection: str, size_gib: int, times: int) -> None:
    """Try to create ``times`` backups, as one of many."""
    database = Database(connection)
    for _ in range(times):
        with suppress(exception.QuotaExceeded):
            database.write(lambda session: create(session, CROWD_LIMITS, size_gib=size_gib))
    database.close()


def test_threads_get_exactly_the_limit(database: Database) -> None:
    threads = [
        threading.Thread(target=crowd_in, args=(database.connection, 1, 5)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert usages(database) == sums(database) == {PROJECT: (9, 9)}


def test_processes_get_exactly_the_limit(database: Database) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=crowd_in, args=(database.connection, 2, 8)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert usages(database) == sums(database) == {PROJECT: (7, 14)}
