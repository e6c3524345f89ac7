# SPDX-License-Identifier: Apache-2.0
"""The lock on shares, as far as ``test_states`` and ``test_races`` do not have it."""

from __future__ import annotations

import pytest

from manila_backup.db import busy_shares
from manila_backup.db.busy_shares import BusyShare
from manila_backup.db.engine import Database
from manila_backup.states import ShareEvent, ShareStatus
from tests.db.builders import OTHER_PROJECT, committed, new_id, put_busy_share

pytestmark = pytest.mark.every_database


def fire(database: Database, share_id: str, event: ShareEvent, operation_id: str) -> ShareStatus:
    with database.writer() as session:
        return busy_shares.transition(
            session, share_id, event, operation_id=operation_id, project_id=OTHER_PROJECT
        )


def test_a_taken_share_tells_who_holds_it(database: Database) -> None:
    share_id, operation_id = new_id(), new_id()
    fire(database, share_id, ShareEvent.BACKUP, operation_id)
    with database.reader() as session:
        assert busy_shares.get(session, share_id) == BusyShare(
            share_id=share_id,
            status=ShareStatus.BACKUP_CREATING,
            operation_id=operation_id,
            project_id=OTHER_PROJECT,
        )
        assert busy_shares.get(session, new_id()) is None


def test_a_share_can_be_freed_and_taken_again_in_one_transaction(database: Database) -> None:
    """A cancelled backup and the next one, accepted in the same request."""
    share_id, first, second = new_id(), new_id(), new_id()
    with database.writer() as session:
        for event, operation_id in (
            (ShareEvent.BACKUP, first),
            (ShareEvent.BACKUP_ENDED, first),
            (ShareEvent.RESTORE, second),
        ):
            busy_shares.transition(
                session, share_id, event, operation_id=operation_id, project_id=OTHER_PROJECT
            )
    with database.reader() as session:
        found = busy_shares.get(session, share_id)
    assert found is not None
    assert (found.status, found.operation_id) == (ShareStatus.BACKUP_RESTORING, second)


def test_a_failed_restore_is_held_until_the_next_one_heals_it(database: Database) -> None:
    share_id, first, second = new_id(), new_id(), new_id()
    fire(database, share_id, ShareEvent.RESTORE, first)
    fire(database, share_id, ShareEvent.RESTORE_FAILED, first)
    fire(database, share_id, ShareEvent.RESTORE, second)
    fire(database, share_id, ShareEvent.RESTORED, second)
    assert committed(database)["busy_shares"] == []


def test_statuses(database: Database) -> None:
    with database.writer() as session:
        creating = put_busy_share(session, status="backup_creating")
        failed = put_busy_share(session, status="backup_restoring_error")
    with database.reader() as session:
        everything = {
            creating: ShareStatus.BACKUP_CREATING,
            failed: ShareStatus.BACKUP_RESTORING_ERROR,
        }
        assert busy_shares.all_statuses(session) == everything
        assert busy_shares.statuses(session, [creating, new_id()]) == {
            creating: ShareStatus.BACKUP_CREATING
        }
        assert busy_shares.statuses(session, iter([creating, failed])) == everything
        assert busy_shares.statuses(session, []) == {}


def test_reset_forgets_only_a_failed_restore(database: Database) -> None:
    with database.writer() as session:
        failed = put_busy_share(session, status="backup_restoring_error")
        held = [
            put_busy_share(session, status=status)
            for status in ("backup_creating", "backup_restoring")
        ]
    with database.writer() as session:
        assert busy_shares.reset(session, failed)
        assert not busy_shares.reset(session, failed)
        for share_id in [*held, new_id()]:
            assert not busy_shares.reset(session, share_id)
    with database.reader() as session:
        assert set(busy_shares.all_statuses(session)) == set(held)
