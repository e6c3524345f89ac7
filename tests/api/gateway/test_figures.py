# SPDX-License-Identifier: Apache-2.0
"""Quota sets and limits: Manila's figures and our two, as one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from manila_backup.quota import ledger
from tests.api.gateway.front import Front
from tests.api.gateway.manila_answers import ManilaAnswers
from tests.api.gateway.upstream_server import Handler, Seen, Server
from tests.api.harness import ADMIN, OTHER, P1

ONE = f"/quota-sets/{P1}"


@pytest.fixture
def answers(manila: Server) -> ManilaAnswers:
    found = ManilaAnswers()
    manila.answer = found
    return found


def _limits(front: Front, project: str = P1) -> tuple[int, int]:
    with front.api.database.reader() as session:
        found = ledger.limits(session, project, ledger.Limits())
    return found.backups, found.backup_gigabytes


def _puts(manila: Server) -> list[Any]:
    return [json.loads(seen.body) for seen in manila.seen if seen.method == "PUT"]


def _put(front: Front, values: dict[str, Any], query: str = "", **more: Any) -> Any:
    return front.call("PUT", f"{ONE}{query}", {"quota_set": values}, **{"who": ADMIN, **more})


@pytest.mark.parametrize("path", [ONE, f"/{P1}{ONE}", f"{ONE}/defaults"])
def test_show_has_our_figures_in_manila_s_answer(
    front: Front, answers: ManilaAnswers, path: str
) -> None:
    got = front.call("GET", path).json["quota_set"]
    assert got == {"id": P1, "shares": 50, "backups": 10, "backup_gigabytes": 1000}


def test_detail_has_what_is_used(front: Front, answers: ManilaAnswers) -> None:
    front.api.create(front.api.share(size_gib=3))
    answers.quotas = {"shares": {"limit": 50, "in_use": 1, "reserved": 0}, "backups": None}
    got = front.call("GET", f"{ONE}/detail").json["quota_set"]
    assert got["shares"] == {"limit": 50, "in_use": 1, "reserved": 0}
    assert got["backups"] == {"limit": 10, "in_use": 1, "reserved": 0}
    assert got["backup_gigabytes"] == {"limit": 1000, "in_use": 3, "reserved": 0}


@pytest.mark.parametrize("query", ["?user_id=u", "?share_type=t"])
def test_quotas_of_parts_of_projects_are_manila_s(
    front: Front, answers: ManilaAnswers, query: str
) -> None:
    assert front.call("GET", ONE + query).json["quota_set"]["backups"] == 777
    assert front.call("DELETE", ONE + query, who=ADMIN).status == 202
    assert _put(front, {"shares": 5}, query).status == 200
    got = _put(front, {"shares": 6, "backups": 5}, query)
    assert got.fault[:2] == (400, "badRequest")
    assert answers.quotas["shares"] == 5


@pytest.mark.parametrize("version", ["2.7", "2.79"])
def test_before_2_80_there_are_no_figures_of_ours(
    front: Front, manila: Server, answers: ManilaAnswers, version: str
) -> None:
    assert front.call("GET", ONE, version=version).json["quota_set"]["backups"] == 777
    got = front.call("GET", "/limits", version=version).json["limits"]["absolute"]
    assert got == {"maxTotalShares": 50, "maxTotalShareBackups": 777}
    _put(front, {"shares": 5, "backups": 4}, version=version)
    assert _puts(manila) == [{"quota_set": {"shares": 5, "backups": 4}}]
    assert _limits(front) == (10, 1000)


def test_limits_have_our_figures(front: Front, answers: ManilaAnswers) -> None:
    front.api.create(front.api.share(size_gib=3))
    for path in ("/limits", f"/{P1}/limits"):
        assert front.call("GET", path).json["limits"]["absolute"] == {
            "maxTotalShares": 50,
            "maxTotalShareBackups": 10,
            "maxTotalBackupGigabytes": 1000,
            "totalShareBackupsUsed": 1,
            "totalBackupGigabytesUsed": 3,
        }


def test_put_is_split(front: Front, manila: Server, answers: ManilaAnswers) -> None:
    got = _put(front, {"shares": 7, "backups": "4", "backup_gigabytes": -1, "tenant_id": P1})
    assert got.status == 200
    assert _puts(manila) == [{"quota_set": {"shares": 7, "tenant_id": P1}}]
    assert got.json["quota_set"] == {
        "shares": 7,
        "backups": 4,
        "backup_gigabytes": -1,
        "tenant_id": P1,
    }
    assert _limits(front) == (4, -1)


def test_put_of_ours_alone_leaves_manila_alone(
    front: Front, manila: Server, answers: ManilaAnswers
) -> None:
    got = _put(front, {"backups": 3, "force": "True", "backup_gigabytes": None})
    assert got.json["quota_set"] == {"shares": 50, "backups": 3, "backup_gigabytes": 1000}
    assert _puts(manila) == []
    assert _limits(front) == (3, 1000)


def test_put_of_manila_s_alone_leaves_ours_alone(
    front: Front, manila: Server, answers: ManilaAnswers
) -> None:
    for values in ({"shares": 3}, {"shares": 3, "backups": None}):
        got = _put(front, values).json["quota_set"]
        assert (got["shares"], got["backups"], got["backup_gigabytes"]) == (3, 10, 1000)
        assert _puts(manila)[-1] == {"quota_set": values}
    assert _limits(front) == (10, 1000)


@pytest.mark.parametrize("values", [{"backups": "x"}, {"backups": -2}, {"backups": [1]}])
def test_what_we_refuse_manila_does_not_get(
    front: Front, manila: Server, answers: ManilaAnswers, values: dict[str, Any]
) -> None:
    assert _put(front, {"shares": 3, **values}).fault[:2] == (400, "badRequest")
    assert _puts(manila) == []


def test_below_what_is_used_only_by_force(
    front: Front, manila: Server, answers: ManilaAnswers
) -> None:
    front.api.create(front.api.share(size_gib=3))
    assert _put(front, {"shares": 3, "backup_gigabytes": 1}).status == 400
    assert _puts(manila) == []
    assert _put(front, {"shares": 3, "backup_gigabytes": 1, "force": True}).status == 200
    assert _puts(manila) == [{"quota_set": {"shares": 3, "force": True}}]


def test_what_manila_refuses_we_do_not_set(front: Front, answers: ManilaAnswers) -> None:
    answers.fail = 400
    got = _put(front, {"shares": 3, "backups": 3})
    assert (got.status, got.fault[2]) == (400, "Manila says")
    assert _limits(front) == (10, 1000)


def test_a_member_may_not_set_quotas(front: Front, manila: Server, answers: ManilaAnswers) -> None:
    got = _put(front, {"shares": 3, "backups": 3}, who=f"ann:{P1}:member")
    assert got.fault[:2] == (403, "forbidden")
    assert _puts(manila) == []
    # Whether another project's are shown is for Manila to say; ours are not.
    shown = front.call("GET", ONE, who=OTHER).json["quota_set"]
    assert shown["backups"] == 777


def test_a_database_that_goes_away_in_between_is_told(
    front: Front, manila: Server, answers: ManilaAnswers
) -> None:
    def lose(handler: Handler, seen: Seen) -> None:
        if seen.method in {"PUT", "DELETE"}:
            front.break_database()
        answers(handler, seen)

    manila.answer = lose
    for method, body in (("PUT", {"quota_set": {"shares": 3, "backups": 3}}), ("DELETE", None)):
        got = front.call(method, ONE, body, who=ADMIN)
        front.mend_database()
        assert got.fault[:2] == (503, "serviceUnavailable")
        assert "The quotas of Manila have been" in got.fault[2]


def test_delete_resets_both(front: Front, manila: Server, answers: ManilaAnswers) -> None:
    _put(front, {"backups": 3})
    assert front.call("DELETE", ONE, who=f"ann:{P1}:member").status == 403
    answers.fail = 403
    assert front.call("DELETE", ONE, who=ADMIN).fault[2] == "Manila says"
    assert _limits(front) == (3, 1000)
    answers.fail = None
    assert front.call("DELETE", ONE, who=ADMIN).status == 202
    assert _limits(front) == (10, 1000)
    assert manila.lines()[-1] == f"DELETE /v2{ONE}"
