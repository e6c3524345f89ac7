# SPDX-License-Identifier: Apache-2.0
"""User messages of Manila and of ours are one list."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from manila_backup.db import messages
from manila_backup.db.clock import from_iso
from manila_backup.db.models import MessageRow
from tests.api.gateway.front import Front, Got
from tests.api.gateway.manila_answers import ManilaAnswers, message
from tests.api.gateway.upstream_server import Server
from tests.api.harness import OTHER, P1, READER


@pytest.fixture
def answers(manila: Server) -> ManilaAnswers:
    found = ManilaAnswers()
    manila.answer = found
    return found


def _at(second: int) -> str:
    return f"2026-11-22T06:{second // 60:02}:{second % 60:02}.000000"


def _ours(front: Front, second: int) -> str:
    with front.api.database.writer() as session:
        found = messages.create(
            session,
            project_id=P1,
            request_id=None,
            resource_id="b",
            action_id="1",
            detail_id="2",
            user_message="ours",
        )
        row = session.get(MessageRow, found.id)
        assert row is not None
        row.created_at_us = from_iso(_at(second))
    return found.id


def _times(got: Got) -> list[str]:
    return [row["created_at"] for row in got.json["messages"]]


def test_manila_s_alone_are_passed_on(front: Front, manila: Server, answers: ManilaAnswers) -> None:
    answers.messages = [message(1, _at(1))]
    assert front.call("GET", "/messages?limit=1&x=y").json["messages"] == answers.messages
    assert manila.lines() == ["GET /v2/messages?limit=1&x=y"]


def test_newest_first_or_last(front: Front, answers: ManilaAnswers) -> None:
    answers.messages = [message(1, _at(1)), message(3, _at(3))]
    for second in (0, 2, 4):
        _ours(front, second)
    assert _times(front.call("GET", "/messages")) == [_at(n) for n in (4, 3, 2, 1, 0)]
    ascending = front.call("GET", "/messages?sort_dir=asc")
    assert _times(ascending) == [_at(n) for n in range(5)]
    assert {row["user_message"] for row in ascending.json["messages"]} == {"ours", "theirs"}


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    theirs=st.sets(st.integers(0, 30), max_size=12),
    ours=st.sets(st.integers(0, 30), max_size=5),
    limit=st.integers(1, 7),
    ascending=st.booleans(),
)
def test_pages_are_slices_of_the_whole_list(
    front: Front,
    answers: ManilaAnswers,
    *,
    theirs: set[int],
    ours: set[int],
    limit: int,
    ascending: bool,
) -> None:
    with front.api.database.writer() as session:
        session.execute(delete(MessageRow))
    answers.messages = [message(number, _at(number)) for number in theirs]
    for number in ours - theirs:
        _ours(front, number)
    expected = [_at(n) for n in sorted(theirs | ours, reverse=not ascending)]
    order = f"&sort_dir={'asc' if ascending else 'desc'}"
    found: list[str] = []
    for offset in range(0, len(expected) + 2 * limit, limit):
        got = front.call("GET", f"/messages?limit={limit}&offset={offset}{order}")
        assert _times(got) == expected[offset : offset + limit]
        found += _times(got)
    assert found == expected


def test_links_lead_on(front: Front, answers: ManilaAnswers) -> None:
    answers.messages = [message(1, _at(1)), message(3, _at(3))]
    _ours(front, 2)
    got = front.call("GET", "/messages?limit=2&resource_type=")
    (link,) = got.json["messages_links"]
    assert link["rel"] == "next"
    assert "offset=2" in link["href"]
    assert f"marker={got.json['messages'][-1]['id']}" in link["href"]
    assert "messages_links" not in front.call("GET", "/messages?limit=2&offset=2").json


def test_more_than_manila_gives_at_once(front: Front, answers: ManilaAnswers) -> None:
    answers.messages = [message(n, _at(n)) for n in range(1500)]
    _ours(front, 3000)
    got = front.call("GET", "/messages?limit=1000")
    assert len(got.json["messages"]) == 1000
    assert _times(got) == [_at(n) for n in (3000, *range(1499, 500, -1))]


def test_filters_are_for_both(front: Front, answers: ManilaAnswers) -> None:
    _ours(front, 1)
    assert len(front.call("GET", "/messages?resource_id=b").json["messages"]) == 1
    assert front.call("GET", "/messages?resource_id=c").json["messages"] == []


def test_each_has_its_own(front: Front, manila: Server, answers: ManilaAnswers) -> None:
    ours = _ours(front, 1)
    got = front.call("GET", f"/messages/{ours}")
    assert got.json["message"]["user_message"] == "ours"
    assert front.call("DELETE", f"/messages/{ours}", who=READER).status == 403
    assert manila.lines() == []
    # To another project it is a message that Manila does not have either.
    assert front.call("DELETE", f"/messages/{ours}", who=OTHER).status == 202
    assert manila.lines() == [f"DELETE /v2/messages/{ours}"]
    assert front.call("DELETE", f"/messages/{ours}").status == 204
    assert front.call("GET", f"/messages/{ours}").status == 202
    theirs = str(message(1, "")["id"])
    assert front.call("DELETE", f"/{P1}/messages/{theirs}").json == {"done": "DELETE"}


@pytest.mark.parametrize("query", ["limit=x", "limit=-1", "offset=-1"])
def test_bad_paging_is_manila_s_to_refuse(front: Front, manila: Server, query: str) -> None:
    _ours(front, 1)
    manila.answer = lambda handler, seen: handler.json(400, {"seen": seen.line})
    assert front.call("GET", f"/messages?{query}").json == {"seen": f"/v2/messages?{query}"}


def test_what_manila_refuses_is_refused(front: Front, answers: ManilaAnswers) -> None:
    _ours(front, 1)
    answers.fail = 403
    assert front.call("GET", "/messages").fault[2] == "Manila says"
