# SPDX-License-Identifier: Apache-2.0
"""Without our database Manila stays usable, and only what is ours says 503."""

from __future__ import annotations

from typing import Any

import pytest

from manila_backup.api.gateway.busy import PAUSE_S, BusyShares
from manila_backup.states import ShareStatus
from tests.api.gateway.front import Front
from tests.api.gateway.manila_answers import ManilaAnswers, share
from tests.api.gateway.upstream_server import Server
from tests.api.harness import ADMIN, P1

HELD = share(3)["id"]


@pytest.fixture
def answers(manila: Server, front: Front) -> ManilaAnswers:
    found = ManilaAnswers(shares=[share(number) for number in range(10)])
    manila.answer = found
    front.hold(HELD)
    front.break_database()
    return found


PASSED_ON: list[tuple[str, str, Any]] = [
    ("GET", "/types", None),
    ("GET", "/shares/detail", None),
    ("GET", "/shares?status=available", None),
    ("GET", f"/shares/{HELD}", None),
    ("DELETE", f"/shares/{HELD}", None),
    ("POST", f"/shares/{HELD}/action", {"extend": {"new_size": 2}}),
    ("POST", f"/shares/{HELD}/action", {"reset_status": {"status": "available"}}),
    ("POST", "/snapshots", {"snapshot": {"share_id": HELD}}),
    ("GET", "/limits", None),
    ("GET", f"/quota-sets/{P1}", None),
    ("PUT", f"/quota-sets/{P1}", {"quota_set": {"shares": 3}}),
    ("GET", "/messages", None),
    ("DELETE", "/messages/x", None),
]


@pytest.mark.parametrize("asked", PASSED_ON, ids=lambda asked: f"{asked[0]} {asked[1]}")
def test_manila_s_is_passed_on(
    front: Front, manila: Server, answers: ManilaAnswers, asked: tuple[str, str, Any]
) -> None:
    method, path, body = asked
    got = front.call(method, path, body, who=ADMIN)
    assert got.status in {200, 202}
    assert manila.lines()[-1] == f"{method} /v2{path}"
    assert b"backup_creating" not in got.body


@pytest.mark.parametrize(
    "asked",
    [
        ("GET", "/share-backups", None),
        ("GET", "/share-backups/detail", None),
        ("DELETE", f"/share-backups/{HELD}", None),
        # Half of it would have to be left undone.
        ("PUT", f"/quota-sets/{P1}", {"quota_set": {"shares": 3, "backups": 3}}),
        ("DELETE", f"/quota-sets/{P1}", None),
    ],
    ids=lambda asked: f"{asked[0]} {asked[1]}",
)
def test_ours_is_503(
    front: Front, manila: Server, answers: ManilaAnswers, asked: tuple[str, str, Any]
) -> None:
    method, path, body = asked
    assert front.call(method, path, body, who=ADMIN).fault[:2] == (503, "serviceUnavailable")
    assert manila.lines() == []


def test_a_database_that_is_away_is_not_asked_by_every_request(front: Front) -> None:
    now_s = 100.0
    busy = BusyShares(front.api.database, monotonic=lambda: now_s)
    front.hold(HELD)
    assert busy.statuses() == {HELD: ShareStatus.BACKUP_CREATING}
    front.break_database()
    assert busy.statuses() == {}
    front.mend_database()
    assert busy.statuses() == {}
    now_s += PAUSE_S
    assert busy.held() == {HELD}
