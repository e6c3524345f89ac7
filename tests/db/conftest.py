# SPDX-License-Identifier: Apache-2.0
"""Databases in which races can be staged: SQLite's and, but for what is SQLite's own, those of
larger sites.
"""

from __future__ import annotations

import pytest

from manila_backup.db.engine import Database
from tests.db.builders import FakeClock


@pytest.fixture
def clock(database: Database) -> FakeClock:
    """The clock of ``database``, which must be SQLite's."""
    return FakeClock(database)
