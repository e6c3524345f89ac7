# SPDX-License-Identifier: Apache-2.0
"""Databases in which races can be staged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from manila_backup.db.engine import Database
from tests.db.builders import FakeClock
from tests.db.rivals import EveryStatementCommits


@pytest.fixture
def unlocked(database_file: Path) -> Iterator[Database]:
    """The same rows as ``database``, where rivals may act between two statements."""
    found = EveryStatementCommits(f"sqlite:///{database_file}")
    yield found
    found.close()


@pytest.fixture
def clock(database: Database) -> FakeClock:
    """The clock of ``database``."""
    return FakeClock(database)
