# SPDX-License-Identifier: Apache-2.0
"""Nothing takes a share away from under an operation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from manila_backup.states import ShareStatus
from tests.api.gateway.front import Front
from tests.api.gateway.manila_answers import ManilaAnswers, share
from tests.api.gateway.upstream_server import Handler, Seen, Server
from tests.api.harness import P1

HELD = share(3)["id"]
FREE = share(4)["id"]
GROUP = "11111111-1111-4111-8111-111111111111"


def _action(name: str) -> tuple[str, str, Any]:
    return "POST", "/shares/{id}/action", {name: {"new_size": 2}}


def _body(noun: str, key: str) -> Any:
    return {noun: {key: "{id}", "name": "n"}}


THREATS: list[tuple[tuple[str, str, Any], int]] = [
    (("DELETE", "/shares/{id}", None), 403),
    (_action("extend"), 400),
    (_action("os-extend"), 400),
    (_action("shrink"), 400),
    (_action("os-shrink"), 400),
    (_action("revert"), 409),
    (_action("migration_start"), 400),
    (_action("migrate_share"), 400),
    (_action("os-migrate_share"), 400),
    (_action("soft_delete"), 403),
    (_action("unmanage"), 403),
    (_action("force_delete"), 400),
    (_action("os-force_delete"), 400),
    (("POST", "/os-share-unmanage/{id}/unmanage", None), 403),
    (("POST", "/share_instances/inst-{id}/action", {"force_delete": None}), 400),
    (("POST", "/snapshots", _body("snapshot", "share_id")), 400),
    (("POST", "/share-transfers", _body("transfer", "share_id")), 400),
    (("POST", "/share-transfers/tr-{id}/accept", {"accept": {"auth_key": "x"}}), 400),
    (("POST", "/share-group-snapshots", _body("share_group_snapshot", "share_group_id")), 409),
]
"""What is measured at a Manila 23 whose share has the status ``backup_creating``."""


@pytest.fixture
def answers(manila: Server) -> ManilaAnswers:
    found = ManilaAnswers(
        shares=[share(number) for number in range(10)],
        transfers={f"tr-{HELD}": HELD, f"tr-{FREE}": FREE},
    )
    manila.answer = found
    return found


def _name(value: Any) -> str | None:
    if not isinstance(value, tuple):
        return None
    method, path, body = value
    return f"{method} {path} {next(iter(body or ['']))}"


def _fill(body: Any, share_id: str) -> Any:
    return None if body is None else json.loads(json.dumps(body).replace("{id}", share_id))


@pytest.mark.parametrize("prefix", ["", f"/{P1}"])
@pytest.mark.parametrize(("threat", "status"), THREATS, ids=_name)
def test_refused_while_an_operation_needs_the_share(
    front: Front,
    manila: Server,
    answers: ManilaAnswers,
    *,
    prefix: str,
    threat: tuple[str, str, Any],
    status: int,
) -> None:
    method, path, body = threat
    front.hold(HELD, ShareStatus.BACKUP_RESTORING)
    answers.group = {FREE, HELD}
    names = {400: "badRequest", 403: "forbidden", 409: "conflictingRequest"}
    for variant in ("", ".json", "/"):
        line = prefix + path.replace("{id}", HELD) + variant
        got = front.call(method, line, _fill(body, HELD))
        assert got.fault[:2] == (status, names[status]), line
        assert HELD in got.fault[2]
    assert [line for line in manila.lines() if not line.startswith("GET ")] == []
    # Another share, and the same one when it is free, are Manila's business.
    answers.group = {FREE}
    assert front.call(method, path.replace("{id}", FREE), _fill(body, FREE)).status == 202
    front.forget()
    front.hold(HELD, ShareStatus.BACKUP_RESTORING_ERROR)
    answers.group = {HELD}
    assert front.call(method, path.replace("{id}", HELD), _fill(body, HELD)).status == 202


def test_bodies_that_were_looked_at_go_on_byte_for_byte(
    front: Front, manila: Server, answers: ManilaAnswers
) -> None:
    front.hold(HELD)
    body = b'{ "extend" :{"new_size":\t2}, "x": "\\u00e4" }\n'
    assert front.call("POST", f"/shares/{FREE}/action", body).status == 202
    assert manila.seen[-1].body == body
    assert manila.seen[-1].header("Content-Type") == "application/json"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"extend"', b"{}", b'{"extend":', b"\xff\xfe", b"[" * 90_000]
)
def test_rubbish_is_manila_s_to_refuse(
    front: Front, manila: Server, answers: ManilaAnswers, body: bytes
) -> None:
    front.hold(HELD)
    assert front.call("POST", f"/shares/{HELD}/action", body).status == 202
    assert manila.seen[-1].body == body


def test_other_actions_go_on(front: Front, manila: Server, answers: ManilaAnswers) -> None:
    """Access rules, names and metadata can be changed during a backup."""
    front.hold(HELD)
    for name in ("allow_access", "os-allow_access", "deny_access", "access_list", "reset_status"):
        assert front.call(*_fill(_action(name), HELD)).status == 202
    assert front.call("PUT", f"/shares/{HELD}", {"share": {"display_name": "x"}}).status == 202
    assert front.call("POST", f"/shares/{HELD}/metadata", {"metadata": {"a": "b"}}).status == 202


def test_a_body_too_long_to_be_looked_at_is_413(
    front: Front, manila: Server, answers: ManilaAnswers
) -> None:
    body = json.dumps({"extend": {"new_size": 2, "x": "x" * 200_000}}).encode()
    assert front.call("POST", f"/shares/{HELD}/action", body).fault[:2] == (413, "overLimit")
    assert manila.seen == [] or manila.lines() == []


def test_whoever_may_not_see_the_share_learns_nothing(
    front: Front, manila: Server, answers: ManilaAnswers
) -> None:
    front.hold(HELD)
    answers.hidden = {HELD}
    # Manila would refuse; that it does not here shows that it was asked.
    assert front.call("DELETE", f"/shares/{HELD}").status == 202
    assert manila.lines() == [f"GET /v2/shares/{HELD}", f"DELETE /v2/shares/{HELD}"]


def test_another_spelling_of_the_id_is_the_same_share(
    front: Front, manila: Server, answers: ManilaAnswers
) -> None:
    answers.shares = [share(0xABCDEF)]
    held = share(0xABCDEF)["id"]
    front.hold(held)
    assert front.call("DELETE", f"/shares/{held.upper()}").status == 403
    assert front.call("DELETE", f"/shares/{held}%20").status == 403
    body = _fill(_body("snapshot", "share_id"), held.upper())
    assert front.call("POST", "/snapshots", body).status == 400


# --- the administrator's reset ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["reset_status", "os-reset_status"])
def test_reset_to_available_ends_a_failed_restore(
    front: Front, manila: Server, answers: ManilaAnswers, name: str
) -> None:
    front.hold(HELD, ShareStatus.BACKUP_RESTORING_ERROR)
    body = {name: {"status": "available"}}
    answers.fail = 403
    assert front.call("POST", f"/shares/{HELD}/action", body).fault[2] == "Manila says"
    assert front.held() == {HELD: "backup_restoring_error"}
    answers.fail = None
    for other in ({name: {"status": "error"}}, {"reset_task_state": {"task_state": None}}):
        assert front.call("POST", f"/shares/{HELD}/action", other).status == 202
    assert front.call("POST", f"/shares/{FREE}/action", body).status == 202
    assert front.held() == {HELD: "backup_restoring_error"}
    assert front.call("POST", f"/shares/{HELD.upper()}/action", body).status == 202
    assert front.held() == {}
    assert json.loads(manila.seen[-1].body) == body


def test_reset_leaves_a_running_operation_alone(front: Front, answers: ManilaAnswers) -> None:
    front.hold(HELD, ShareStatus.BACKUP_RESTORING)
    body = {"reset_status": {"status": "available"}}
    assert front.call("POST", f"/shares/{HELD}/action", body).status == 202
    assert front.held() == {HELD: "backup_restoring"}


def test_a_reset_that_is_half_done_is_told(
    front: Front, manila: Server, answers: ManilaAnswers
) -> None:
    front.hold(HELD, ShareStatus.BACKUP_RESTORING_ERROR)

    def lose(handler: Handler, seen: Seen) -> None:
        if seen.method == "POST":
            front.break_database()
        answers(handler, seen)

    manila.answer = lose
    body = {"reset_status": {"status": "available"}}
    got = front.call("POST", f"/shares/{HELD}/action", body)
    assert got.fault[:2] == (503, "serviceUnavailable")
    assert "Manila has set the status" in got.fault[2]
    front.mend_database()
    assert front.held() == {HELD: "backup_restoring_error"}
