# SPDX-License-Identifier: Apache-2.0
"""What the handlers work with: background jobs, and how a status comes about."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from manila_backup.api.local.service import BackgroundThreads, shown_status
from manila_backup.share.local.records import LocalShare, ShareMark
from manila_backup.states import ShareStatus
from tests.api.local.harness import SharesApi

SHARE = LocalShare(
    id="i",
    project_id="p",
    user_id=None,
    name=None,
    description=None,
    size_gib=1,
    created_at="2026-11-21T10:00:00.000000",
)
MARK = ShareMark(operation_id="o", status="backup_creating")
CREATING = ShareStatus.BACKUP_CREATING
RESTORING = ShareStatus.BACKUP_RESTORING
BROKEN = ShareStatus.BACKUP_RESTORING_ERROR


def test_a_job_that_fails_is_logged_and_the_next_one_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = BackgroundThreads(1)
    done = threading.Event()
    run(lambda: 1 / 0)
    run(done.set)
    assert done.wait(30)
    assert "ZeroDivisionError" in caplog.text


def test_jobs_wait_while_as_many_as_may_are_running() -> None:
    run = BackgroundThreads(2)
    begun, ended = threading.Semaphore(0), threading.Semaphore(0)
    go_on = threading.Event()

    def job() -> None:
        begun.release()
        assert go_on.wait(30)
        ended.release()

    for _ in range(5):
        run(job)
    assert begun.acquire(timeout=30)
    assert begun.acquire(timeout=30)
    assert not begun.acquire(timeout=0.2)
    go_on.set()
    for _ in range(5):
        assert ended.acquire(timeout=30)
    run(job)
    assert ended.acquire(timeout=30)


@pytest.mark.parametrize(
    ("share", "busy", "shown"),
    [
        (SHARE, None, "available"),
        (SHARE, CREATING, "backup_creating"),
        (SHARE, RESTORING, "backup_restoring"),
        (SHARE, BROKEN, "backup_restoring_error"),
        (replace(SHARE, mark=MARK), None, "backup_creating"),
        (replace(SHARE, mark=MARK), RESTORING, "backup_restoring"),
        (replace(SHARE, mark=MARK), BROKEN, "backup_creating"),
        (replace(SHARE, status="error"), CREATING, "backup_creating"),
        (replace(SHARE, status="error"), BROKEN, "error"),
        (replace(SHARE, status="deleting"), BROKEN, "deleting"),
    ],
)
def test_shown_status(share: LocalShare, busy: ShareStatus | None, shown: str) -> None:
    assert shown_status(share, busy) == shown


def test_statuses_of_more_shares_than_a_statement_has_parameters(shares: SharesApi) -> None:
    share_id = shares.create()["id"]
    shares.api.create(share_id)
    others = [replace(SHARE, id=f"share-{number}") for number in range(40_000)]
    found = shares.local.statuses([*others, shares.store.get(share_id)])
    assert found.pop(share_id) == "backup_creating"
    assert set(found.values()) == {"available"}
    assert len(found) == len(others)
