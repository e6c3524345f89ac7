# SPDX-License-Identifier: Apache-2.0
"""Signals that end the service, also in the middle of an operation: it ends soon and well, the
operation goes back to the queue and is done after the next start.
"""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.moments import catch, copying
from tests.acceptance.programs import compare_trees
from tests.acceptance.standalone import running
from tests.acceptance.trees import copy, fill_with_many

pytestmark = pytest.mark.acceptance

MANY = 12_000
SOON_S = 10.0


def queue(state: Path) -> list[tuple[str, str | None, int, str]]:
    """Of the operations that have not ended: status, phase, attempts, reason."""
    with closing(sqlite3.connect(state / "manila-backup.sqlite")) as connection:
        return connection.execute(
            "SELECT status, phase, attempts, fail_reason FROM operations"
            " WHERE active_backup_id IS NOT NULL"
        ).fetchall()


def test_stopped_in_the_middle_and_started_again(state: Path, tmp_path: Path) -> None:
    original = fill_with_many(tmp_path / "original", MANY)
    with running(state) as service:
        rest = service.rest()
        share_id = rest.create_share("interrupted")
        tree = rest.tree(share_id)
        copy(original, tree)
        backup_id, _ = catch(service, lambda: rest.create_backup(share_id), copying)
        # What stands still takes the signal when it goes on.
        service.process.send_signal(signal.SIGTERM)
        service.stop(signal.SIGCONT, within_s=SOON_S)
    assert queue(state) == [("queued", None, 0, "the data node was stopped")]

    with running(state) as service:
        rest = service.rest()
        # An attempt that was not the operation's fault does not count.
        operation = rest.until_ended(backup_id)
        assert (operation["status"], operation["attempts"]) == ("done", 1)
        assert service.epochs(backup_id) == [2]
        assert rest.share_status(share_id) == "available"
        (Path(tree) / "extra").mkdir()

        def restore() -> str:
            rest.restore(backup_id)
            return backup_id

        catch(service, restore, lambda moment: copying(moment) and moment.share_written)
        service.process.send_signal(signal.SIGINT)
        service.stop(signal.SIGCONT, within_s=SOON_S)
    assert queue(state) == [("queued", None, 0, "the data node was stopped")]

    with running(state) as service:
        rest = service.rest()
        rest.until_done(backup_id)
        assert rest.share_status(share_id) == "available"
        assert compare_trees(original, tree) == []
        assert service.manage.json("quota check") == []
        assert rest.usage() == (1, 1)


def test_when_the_terminal_is_closed_it_ends_in_order(state: Path) -> None:
    """A service that was killed would leave its mounts."""
    with running(state) as service:
        rest = service.rest()
        rest.available_backup(rest.create_share("some"))
        service.stop(signal.SIGHUP, within_s=SOON_S)
