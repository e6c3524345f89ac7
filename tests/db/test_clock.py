# SPDX-License-Identifier: Apache-2.0
"""The database's clock."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.dialects import mysql, postgresql, sqlite

from manila_backup.db.clock import iso, now_us
from manila_backup.db.engine import Database
from tests.db.builders import NOON_US, FakeClock

pytestmark = pytest.mark.every_database


def test_it_is_utc_in_microseconds(database: Database) -> None:
    before = time.time_ns() // 1000
    with database.reader() as session:
        now = session.scalar(select(now_us()))
    assert now is not None
    assert before <= now <= time.time_ns() // 1000


def test_it_is_the_time_of_the_statement_not_of_the_transaction(
    database: Database, clock: FakeClock
) -> None:
    with database.writer() as session:
        assert session.scalar(select(now_us())) == NOON_US
        clock.advance(1.5)
        assert session.scalar(select(now_us())) == NOON_US + 1_500_000


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        (sqlite, "manila_backup_now_us()"),
        (mysql, "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)"),
        (postgresql, "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"),
    ],
)
def test_every_database_is_asked_for_the_time_of_the_statement(dialect: Any, sql: str) -> None:
    assert sql in str(select(now_us()).compile(dialect=dialect.dialect()))


@pytest.mark.parametrize(
    ("value_us", "printed"),
    [
        (None, None),
        (0, "1970-01-01T00:00:00.000000"),
        (1_800_000_000_000_001, "2027-01-15T08:00:00.000001"),
        (1_799_999_999_999_999, "2027-01-15T07:59:59.999999"),
    ],
)
def test_iso(value_us: int | None, printed: str | None) -> None:
    assert iso(value_us) == printed
