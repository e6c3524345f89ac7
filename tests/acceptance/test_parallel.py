# SPDX-License-Identifier: Apache-2.0
"""Many requests at the same time to a real service: one winner, exact counts."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.acceptance.rest import Answer
from tests.acceptance.standalone import Standalone

pytestmark = pytest.mark.acceptance


def at_once(requests: list[Callable[[], Answer]]) -> list[Answer]:
    """All are sent when all are ready to be sent."""
    ready = threading.Barrier(len(requests))

    def send(request: Callable[[], Answer]) -> Answer:
        ready.wait(60)
        return request()

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(send, requests))


def test_of_many_backups_of_one_share_one_is_taken(service: Standalone) -> None:
    rest = service.rest("ann:one:member")
    share_id = rest.create_share("wanted")
    answers = at_once([lambda: rest.ask_backup(share_id)] * 20)
    assert Counter(answer.status for answer in answers) == {202: 1, 400: 19}
    (backup,) = rest.backups()
    rest.until_done(backup["id"])
    assert rest.usage("one") == (1, 1)


def test_of_many_restores_and_deletions_of_one_backup_one_is_taken(service: Standalone) -> None:
    rest = service.rest("ann:both:member")
    share_id = rest.create_share("contested")
    backup_id = rest.available_backup(share_id)
    path = f"/share-backups/{backup_id}"
    restore = [lambda: rest.call("POST", f"{path}/action", {"restore": None})] * 10
    delete = [lambda: rest.call("DELETE", path)] * 10
    answers = at_once([*restore, *delete])
    taken = [answer for answer in answers if answer.status == 202]
    assert len(taken) == 1
    assert {answer.status for answer in answers} <= {202, 400, 404, 409}
    if answers.index(taken[0]) < 10:
        rest.until_done(backup_id)
        assert rest.usage("both") == (1, 1)
    else:
        rest.until_deleted(backup_id)
        assert rest.usage("both") == (0, 0)
    assert rest.share_status(share_id) == "available"


def test_the_quota_is_met_exactly(service: Standalone) -> None:
    rest = service.rest("ann:limited:member")
    shares = [rest.create_share(f"share {number}", 2) for number in range(16)]
    service.rest().set_quota("limited", backups=5, backup_gigabytes=-1)
    answers = at_once([lambda share_id=share_id: rest.ask_backup(share_id) for share_id in shares])  # type: ignore[misc]
    assert Counter(answer.status for answer in answers) == {202: 5, 413: 11}
    for backup in rest.backups():
        rest.until_done(backup["id"])
    assert rest.usage("limited") == (5, 10)

    service.rest().set_quota("limited", backups=-1, backup_gigabytes=15)
    free = [share_id for share_id in shares if rest.share_status(share_id) == "available"]
    answers = at_once([lambda share_id=share_id: rest.ask_backup(share_id) for share_id in free])  # type: ignore[misc]
    # Five more GiB: two backups of two, and not a third.
    assert Counter(answer.status for answer in answers) == {202: 2, 413: 14}
    for backup in rest.backups():
        rest.until_done(backup["id"])
    assert rest.usage("limited") == (7, 14)
    assert service.manage.json("quota check") == []
