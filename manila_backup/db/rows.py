# SPDX-License-Identifier: Apache-2.0
"""What all nouns share: UPDATEs and DELETEs that tell how many rows they met."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import CursorResult
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import Delete, Update


def changed_one(session: Session, statement: Update | Delete) -> bool:
    """Run a conditional UPDATE or DELETE of one row; False when its condition did not hold."""
    return changed_rows(session, statement) == 1


def changed_rows(session: Session, statement: Update | Delete) -> int:
    """Run an UPDATE or DELETE; how many rows met its condition."""
    result = session.execute(statement.execution_options(synchronize_session=False))
    return cast("CursorResult[Any]", result).rowcount
