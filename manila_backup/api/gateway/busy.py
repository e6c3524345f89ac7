# SPDX-License-Identifier: Apache-2.0
"""Which shares are ours at the moment, as far as our database can be asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from oslo_db import exception as db_exc
from oslo_log import log as logging
from sqlalchemy.exc import SQLAlchemyError

from manila_backup.db import busy_shares
from manila_backup.states import ShareStatus

if TYPE_CHECKING:
    from manila_backup.db.engine import Database

LOG = logging.getLogger(__name__)

PAUSE_S = 5.0
"""How long a database that did not answer is not asked again. A connection to one whose machine is
gone takes seconds to fail, which every request to Manila would have to wait for."""

HELD = frozenset({ShareStatus.BACKUP_CREATING, ShareStatus.BACKUP_RESTORING})
"""Statuses of shares with an operation that is queued or running."""


class BusyShares:
    """:param monotonic: the clock, in seconds."""

    def __init__(self, database: Database, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._away_until_s = float("-inf")

    def statuses(self) -> Mapping[str, ShareStatus]:
        """Of all shares that show another status than Manila's; empty too when the database is
        away. Costs one query, of as many rows as there are such shares."""
        with self._lock:
            if self._monotonic() < self._away_until_s:
                return {}
        try:
            with self._database.reader() as session:
                return busy_shares.all_statuses(session)
        except (db_exc.DBError, SQLAlchemyError):
            LOG.warning("The database does not answer: shares are shown as Manila has them")
            with self._lock:
                self._away_until_s = self._monotonic() + PAUSE_S
            return {}

    def held(self) -> frozenset[str]:
        """The shares that an operation of ours needs."""
        return frozenset(key for key, status in self.statuses().items() if status in HELD)

    def reset(self, share_id: str) -> None:
        """Forget that a restore has failed. Idempotent.

        :raises DBError: (or SQLAlchemyError) the database is away.
        """
        self._database.write(lambda session: busy_shares.reset(session, share_id))
