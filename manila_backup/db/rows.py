# SPDX-License-Identifier: Apache-2.0
"""What all nouns share: the compare-and-swap UPDATE."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import CursorResult
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import Delete, Update


def changed_one(session: Session, statement: Update | Delete) -> bool:
    """Run a conditional UPDATE or DELETE of one row; False when its condition did not hold."""
    result = session.execute(statement.execution_options(synchronize_session=False))
    return cast("CursorResult[Any]", result).rowcount == 1
