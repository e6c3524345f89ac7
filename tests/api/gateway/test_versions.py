# SPDX-License-Identifier: Apache-2.0
"""Whatever Manila's range: 2.80 to 2.91 of the backup API can be asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.api.gateway.front import VERSION, Front
from tests.api.gateway.manila_answers import ManilaAnswers, share
from tests.api.gateway.upstream_server import Server
from tests.api.harness import MEMBER

STANDARD = "OpenStack-API-Version"


@pytest.fixture
def answers(manila: Server) -> ManilaAnswers:
    found = ManilaAnswers(shares=[share(3)])
    manila.answer = found
    return found


@pytest.mark.parametrize(
    ("maximum", "shown"),
    [("2.65", "2.91"), ("2.80", "2.91"), ("2.91", "2.91"), ("2.99", "2.99"), ("2.105", "2.105")],
)
@pytest.mark.parametrize("path", ["/", "/v2/"])
def test_the_range_is_manila_s_but_wide_enough(
    front: Front, answers: ManilaAnswers, maximum: str, shown: str, path: str
) -> None:
    answers.maximum = maximum
    got = front.ask("GET", path)
    (entry,) = got.json["versions"]
    assert got.status == 300
    assert entry == {**answers.versions()["versions"][0], "version": shown}


def test_documents_of_another_kind_are_passed_on(front: Front, manila: Server) -> None:
    for body in (b"<html>", b"[1]", b'{"versions": 3}', b'{"versions": [3, {"version": ""}]}'):
        manila.answer = lambda handler, seen, body=body: handler.reply(200, body)
        assert front.ask("GET", "/").body == body


@pytest.mark.parametrize(
    ("maximum", "asked", "sent"),
    [
        ("2.65", "2.60", "2.60"),
        ("2.65", "2.65", "2.65"),
        ("2.65", "2.66", "2.65"),
        ("2.65", "2.91", "2.65"),
        # Nobody advertised it: Manila says 406.
        ("2.65", "2.92", "2.92"),
        ("2.99", "2.99", "2.99"),
        ("2.99", "3.0", "3.0"),
        ("2.65", "latest", "latest"),
    ],
)
def test_manila_gets_a_version_that_it_knows(
    front: Front, manila: Server, answers: ManilaAnswers, *, maximum: str, asked: str, sent: str
) -> None:
    answers.maximum = maximum
    pairs = [
        (VERSION, asked),
        (STANDARD, f"compute 2.1, shared-file-system {asked}"),
        ("X-Auth-Token", MEMBER),
    ]
    for path in ("/v2/types", f"/v2/shares/{share(3)['id']}"):
        front.ask("GET", path, pairs)
        seen = manila.seen[-1]
        assert seen.header(VERSION) == sent
        assert seen.header(STANDARD) == f"compute 2.1, shared-file-system {sent}"


def test_what_is_overlaid_is_asked_for_in_a_known_version_too(
    front: Front, manila: Server, answers: ManilaAnswers
) -> None:
    answers.maximum = "2.65"
    front.hold(share(3)["id"])
    got = front.call("GET", f"/shares/{share(3)['id']}", version="2.91")
    assert got.json["share"]["status"] == "backup_creating"
    assert manila.seen[-1].header(VERSION) == "2.65"
    absolute = front.call("GET", "/limits", version="2.91").json["limits"]["absolute"]
    assert absolute["maxTotalShareBackups"] == 10


def test_manila_is_asked_for_its_versions_once(
    front: Front, manila: Server, answers: ManilaAnswers
) -> None:
    for _ in range(5):
        front.call("GET", "/types")
    assert [seen.line for seen in manila.seen].count("/") == 1


def test_a_manila_that_does_not_say_its_versions_gets_what_is_asked(
    front: Front, manila: Server
) -> None:
    manila.answer = lambda handler, seen: handler.json(500 if seen.line == "/" else 200, {})
    assert front.call("GET", "/types", version="2.91").status == 200
    assert manila.seen[-1].header(VERSION) == "2.91"


def test_backups_can_be_asked_for_in_versions_that_only_manila_knows(
    make_front: Callable[..., Front], manila: Server, answers: ManilaAnswers
) -> None:
    answers.maximum = "2.105"
    front = make_front()
    for asked, status in (("2.80", 200), ("2.91", 200), ("2.105", 200), ("2.106", 406)):
        got = front.call("GET", "/share-backups", version=asked)
        assert got.status == status, asked
        if status == 200:
            assert got.all(VERSION) == [asked]
            assert got.all(STANDARD) == [f"shared-file-system {asked}"]
