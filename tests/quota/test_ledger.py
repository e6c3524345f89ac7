# SPDX-License-Identifier: Apache-2.0
"""Limits, charges and what proves them, one request at a time."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from manila_backup import exception
from manila_backup.db import busy_shares
from manila_backup.db.engine import Database
from manila_backup.quota import ledger
from manila_backup.quota.ledger import BACKUPS, GIGABYTES, Drift, Limits, Usage
from tests.db.builders import OTHER_PROJECT, PROJECT, committed, put_backup
from tests.quota.requests import (
    UNLIMITED,
    adopt,
    assert_charged_as_stored,
    begin_delete,
    create,
    finish_create,
    finish_delete,
    usages,
)

NONE_AT_ALL = Limits(backups=0, backup_gigabytes=0)

pytestmark = pytest.mark.every_database


def set_usage(database: Database, project_id: str, resource: str, in_use: int) -> None:
    """Somebody edits tables."""
    with database.writer() as session:
        values = {"p": project_id, "r": resource, "n": in_use}
        for statement in (
            "DELETE FROM quota_usages WHERE project_id = :p AND resource = :r",
            "INSERT INTO quota_usages (project_id, resource, in_use) VALUES (:p, :r, :n)",
        ):
            session.execute(text(statement), values)


# --- limits ---------------------------------------------------------------------------------------


def test_defaults_hold_until_a_project_has_limits_of_its_own(database: Database) -> None:
    defaults = Limits(backups=3, backup_gigabytes=30)
    with database.writer() as session:
        assert ledger.limits(session, PROJECT, defaults) == defaults
        ledger.set_limit(session, PROJECT, GIGABYTES, 5)
        assert ledger.limits(session, PROJECT, defaults) == Limits(backups=3, backup_gigabytes=5)
        ledger.set_limit(session, PROJECT, BACKUPS, -1)
        ledger.set_limit(session, PROJECT, GIGABYTES, 0)
        assert ledger.limits(session, PROJECT, defaults) == Limits(backups=-1, backup_gigabytes=0)
        assert ledger.limits(session, OTHER_PROJECT, defaults) == defaults


def test_a_limit_that_was_set_stays_set_after_the_commit(database: Database) -> None:
    for limit in (5, 7):
        with database.writer() as session:
            ledger.set_limit(session, PROJECT, BACKUPS, limit)
        with database.reader() as session:
            assert ledger.limits(session, PROJECT, Limits()).backups == limit


def test_reset_limits_is_for_one_project_and_idempotent(database: Database) -> None:
    with database.writer() as session:
        for project_id in (PROJECT, OTHER_PROJECT):
            for resource in (BACKUPS, GIGABYTES):
                ledger.set_limit(session, project_id, resource, 1)
    for _ in range(2):
        with database.writer() as session:
            ledger.reset_limits(session, PROJECT)
    with database.writer() as session:
        assert ledger.limits(session, PROJECT, Limits()) == Limits()
        assert ledger.limits(session, OTHER_PROJECT, Limits()) == Limits(
            backups=1, backup_gigabytes=1
        )
        ledger.set_limit(session, PROJECT, BACKUPS, 2)
        assert ledger.limits(session, PROJECT, Limits()).backups == 2


# --- charging -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "sizes", "accepted"),
    [
        (Limits(backups=-1, backup_gigabytes=-1), [1000, 2000, 3000], 3),
        (Limits(backups=2, backup_gigabytes=-1), [1, 1, 1], 2),
        (Limits(backups=-1, backup_gigabytes=5), [2, 3, 1], 2),
        (Limits(backups=-1, backup_gigabytes=5), [2, 2, 2], 2),
        (Limits(backups=1, backup_gigabytes=1), [1, 1], 1),
        (Limits(backups=0, backup_gigabytes=-1), [1], 0),
        (Limits(backups=-1, backup_gigabytes=0), [1], 0),
        # A share of no size is still a backup; nothing fits into less than nothing.
        (Limits(backups=-1, backup_gigabytes=0), [0, 0], 2),
    ],
)
def test_exactly_what_the_limits_allow(
    database: Database, limits: Limits, sizes: list[int], accepted: int
) -> None:
    done = 0
    for size_gib in sizes:
        before = committed(database)
        try:
            with database.writer() as session:
                create(session, limits, size_gib=size_gib)
        except exception.QuotaExceeded:
            # A refused request leaves nothing: no row, no operation, no busy share, no usage.
            assert committed(database) == before
            break
        done += 1
    assert done == accepted
    assert_charged_as_stored(database)


def test_too_many_backups_are_told_apart_from_too_many_gigabytes(database: Database) -> None:
    with database.writer() as session:
        create(session, UNLIMITED, size_gib=7)
    with pytest.raises(exception.BackupLimitExceeded) as too_many, database.writer() as session:
        create(session, Limits(backups=1, backup_gigabytes=0))
    assert too_many.value.allowed == 1
    with pytest.raises(exception.BackupGigabytesExceeded) as too_big, database.writer() as session:
        create(session, Limits(backups=2, backup_gigabytes=9), size_gib=3)
    assert (too_big.value.requested, too_big.value.quota, too_big.value.consumed) == (3, 9, 7)
    assert usages(database) == {PROJECT: (1, 7)}


def test_a_projects_own_limit_goes_before_the_default(database: Database) -> None:
    with database.writer() as session:
        ledger.set_limit(session, PROJECT, BACKUPS, 1)
        create(session, NONE_AT_ALL_BUT_GIGABYTES)
    with pytest.raises(exception.BackupLimitExceeded), database.writer() as session:
        create(session, UNLIMITED)
    with database.writer() as session:
        ledger.set_limit(session, PROJECT, BACKUPS, -1)
        create(session, NONE_AT_ALL_BUT_GIGABYTES)
    assert usages(database) == {PROJECT: (2, 2)}


NONE_AT_ALL_BUT_GIGABYTES = Limits(backups=0, backup_gigabytes=100)


def test_projects_do_not_pay_for_each_other(database: Database) -> None:
    limits = Limits(backups=1, backup_gigabytes=1)
    for project_id in (PROJECT, OTHER_PROJECT):
        with database.writer() as session:
            create(session, limits, project_id=project_id)
        with pytest.raises(exception.QuotaExceeded), database.writer() as session:
            create(session, limits, project_id=project_id)
    assert usages(database) == {PROJECT: (1, 1), OTHER_PROJECT: (1, 1)}


def test_a_limit_below_the_usage_refuses_what_is_new_and_keeps_what_is_there(
    database: Database,
) -> None:
    with database.writer() as session:
        kept = [create(session, UNLIMITED, size_gib=4) for _ in range(3)]
        ledger.set_limit(session, PROJECT, BACKUPS, 2)
        ledger.set_limit(session, PROJECT, GIGABYTES, 5)
    with pytest.raises(exception.BackupLimitExceeded), database.writer() as session:
        create(session, UNLIMITED)
    with database.writer() as session:
        finish_create(session, kept[0])
        begin_delete(session, kept[0])
        finish_delete(session, kept[0])
    assert usages(database) == {PROJECT: (2, 8)}
    with pytest.raises(exception.QuotaExceeded), database.writer() as session:
        create(session, UNLIMITED)


def test_an_import_counts_whatever_the_limit(database: Database) -> None:
    with database.writer() as session:
        ledger.set_limit(session, PROJECT, BACKUPS, 0)
        ledger.set_limit(session, PROJECT, GIGABYTES, 0)
        adopt(session, size_gib=50)
    assert usages(database) == {PROJECT: (1, 50)}
    assert_charged_as_stored(database)


def test_a_backup_is_charged_until_its_data_is_gone(database: Database) -> None:
    with database.writer() as session:
        backup_id = create(session, UNLIMITED, size_gib=6)
    for step in (finish_create, begin_delete):
        with database.writer() as session:
            step(session, backup_id)
        assert usages(database) == {PROJECT: (1, 6)}
        assert_charged_as_stored(database)
    with database.writer() as session:
        finish_delete(session, backup_id)
    assert usages(database) == {}
    assert_charged_as_stored(database)


# --- refunds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("charged", [0, 1, 3])
def test_a_refund_never_goes_below_zero(database: Database, charged: int) -> None:
    with database.writer() as session:
        for _ in range(charged):
            ledger.charge_unlimited(session, PROJECT, 2)
        ledger.charge_unlimited(session, OTHER_PROJECT, 9)
        ledger.refund(session, PROJECT, 5)
        expected = Usage(backups=max(0, charged - 1), backup_gigabytes=max(0, 2 * charged - 5))
        assert ledger.usage(session, PROJECT) == expected
        assert ledger.usage(session, OTHER_PROJECT) == Usage(backups=1, backup_gigabytes=9)


def test_a_refund_of_a_project_that_never_was_charged(database: Database) -> None:
    with database.writer() as session:
        ledger.refund(session, PROJECT, 5)
        assert ledger.usage(session, PROJECT) == Usage()


# --- check and sync -------------------------------------------------------------------------------


def test_every_drift_is_found_and_put_right(database: Database) -> None:
    with database.writer() as session:
        create(session, UNLIMITED, size_gib=2)
        create(session, UNLIMITED, project_id=OTHER_PROJECT, size_gib=3)
        put_backup(session, project_id="uncharged", charged_gib=5)
        put_backup(session, project_id=OTHER_PROJECT, status="deleted", charged_gib=99)
    set_usage(database, PROJECT, BACKUPS, 7)
    set_usage(database, PROJECT, GIGABYTES, 0)
    set_usage(database, "left-over", GIGABYTES, 4)
    drifts = [
        Drift(project_id=PROJECT, resource=GIGABYTES, in_use=0, expected=2),
        Drift(project_id=PROJECT, resource=BACKUPS, in_use=7, expected=1),
        Drift(project_id="left-over", resource=GIGABYTES, in_use=4, expected=0),
        Drift(project_id="uncharged", resource=GIGABYTES, in_use=0, expected=5),
        Drift(project_id="uncharged", resource=BACKUPS, in_use=0, expected=1),
    ]
    with database.reader() as session:
        assert ledger.check(session) == drifts
        assert ledger.check(session, PROJECT) == drifts[:2]
        assert ledger.check(session, OTHER_PROJECT) == []
    with database.writer() as session:
        assert ledger.sync(session, PROJECT) == drifts[:2]
        assert ledger.check(session) == drifts[2:]
    with database.writer() as session:
        assert ledger.sync(session) == drifts[2:]
        assert ledger.sync(session) == []
    assert_charged_as_stored(database)


def test_check_changes_nothing(database: Database) -> None:
    set_usage(database, PROJECT, BACKUPS, 7)
    before = committed(database)
    with database.writer() as session:
        assert ledger.check(session)
    assert committed(database) == before


def test_charges_follow_charged_gib_not_the_present_size(database: Database) -> None:
    with database.writer() as session:
        put_backup(session, size_gib=100, charged_gib=1)
        ledger.sync(session)
        assert ledger.usage(session, PROJECT) == Usage(backups=1, backup_gigabytes=1)


def test_a_resource_of_a_newer_release_is_left_alone(database: Database) -> None:
    """During a rolling upgrade another node charges what this one does not know."""
    set_usage(database, PROJECT, "backup_snapshots", 3)
    before = committed(database)
    with database.writer() as session:
        assert ledger.usage(session, PROJECT) == Usage()
        assert ledger.check(session) == []
        assert ledger.sync(session) == []
    assert committed(database) == before


def test_a_refused_create_leaves_the_share_free(database: Database) -> None:
    with pytest.raises(exception.QuotaExceeded), database.writer() as session:
        create(session, NONE_AT_ALL)
    with database.reader() as session:
        assert busy_shares.all_statuses(session) == {}
