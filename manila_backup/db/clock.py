# SPDX-License-Identifier: Apache-2.0
"""The database's clock, the only one by which leases are judged.

All times are stored as integers: microseconds since 1970, UTC. So arithmetic and comparison read
the same on every database, and no driver's idea of time zones comes in between.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

SQLITE_FUNCTION = "manila_backup_now_us"
US_PER_S = 1_000_000
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - shown without a zone


class now_us(FunctionElement[int]):
    """``now_us()`` in a statement: the database's time when the statement runs."""

    type = BigInteger()
    inherit_cache = True


@compiles(now_us, "sqlite")
def _sqlite(element: now_us, compiler: Any, **kw: Any) -> str:
    # SQLite's own clock has milliseconds only. The database lives in this machine, and so does
    # the function that ``db.engine`` registers under this name.
    return f"{SQLITE_FUNCTION}()"


@compiles(now_us, "mysql")
@compiles(now_us, "mariadb")
def _mysql(element: now_us, compiler: Any, **kw: Any) -> str:
    # UNIX_TIMESTAMP takes the session's time zone off again, whatever it is.
    return "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)"


@compiles(now_us, "postgresql")
def _postgresql(element: now_us, compiler: Any, **kw: Any) -> str:
    # now() would be the start of the transaction.
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"


def system_now_us() -> int:
    """This machine's time; what the SQLite function answers."""
    return time.time_ns() // 1000


def iso(value_us: int | None) -> str | None:
    """As Manila prints times: UTC, microseconds, no zone."""
    if value_us is None:
        return None
    return (_EPOCH + timedelta(microseconds=value_us)).isoformat(timespec="microseconds")


def from_iso(text: str) -> int:
    """Microseconds since 1970 of an ISO 8601 time; without a zone it counts as UTC.

    :raises ValueError: it is none.
    """
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    since = found - datetime(1970, 1, 1, tzinfo=UTC)
    return since // timedelta(microseconds=1)
