# SPDX-License-Identifier: Apache-2.0
"""Shares that we hold show that, and only they."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manila_backup.states import ShareStatus
from tests.api.gateway.front import Front, Got
from tests.api.gateway.manila_answers import ManilaAnswers, share
from tests.api.gateway.upstream_server import Server
from tests.api.harness import P1

RESTORING = ShareStatus.BACKUP_RESTORING
FAILED = ShareStatus.BACKUP_RESTORING_ERROR


@pytest.fixture
def answers(manila: Server) -> ManilaAnswers:
    found = ManilaAnswers(shares=[share(number) for number in range(10)])
    manila.answer = found
    return found


def _ids(got: Got) -> list[int]:
    return [int(row["id"].replace("-", ""), 16) for row in got.json["shares"]]


def test_nothing_is_touched_while_no_share_is_held(
    front: Front, manila: Server, answers: ManilaAnswers
) -> None:
    for path in ("/shares", "/shares/detail?status=available&limit=2", f"/shares/{share(3)['id']}"):
        got = front.call("GET", path)
        assert got.status == 200
        assert manila.lines()[-1] == f"GET /v2{path}"


@pytest.mark.parametrize("prefix", ["", f"/{P1}"])
@pytest.mark.parametrize("suffix", ["", ".json", "/"])
@pytest.mark.parametrize(
    "status", [ShareStatus.BACKUP_CREATING, RESTORING, FAILED], ids=lambda found: found.value
)
def test_show_has_the_status(
    front: Front, answers: ManilaAnswers, status: ShareStatus, prefix: str, suffix: str
) -> None:
    held = share(3)["id"]
    front.hold(held, status)
    if suffix == ".json":
        answers.shares.append(share(3) | {"id": f"{held}.json"})
        front.hold(f"{held}.json", status)
    got = front.call("GET", f"{prefix}/shares/{held}{suffix}")
    assert got.json["share"]["status"] == status
    assert got.json["share"] | {"status": "", "id": ""} == share(3) | {"status": "", "id": ""}
    # What is about the bytes is not said of other bytes; all else is.
    assert (got.all("ETag"), got.all("X-Manila")) == ([], ["yes"])
    assert got.all("Content-Length") == [str(len(got.body))]


def test_another_share_is_passed_on(front: Front, answers: ManilaAnswers) -> None:
    front.hold(share(3)["id"])
    got = front.call("GET", f"/shares/{share(4)['id']}")
    assert got.json["share"]["status"] == "available"
    assert got.all("ETag") == ['"1"']


def test_an_id_that_manila_finds_in_another_spelling_is_the_same_share(
    front: Front, answers: ManilaAnswers
) -> None:
    answers.shares = [share(0xABC)]
    front.hold(share(0xABC)["id"])
    got = front.call("GET", f"/shares/{share(0xABC)['id'].upper()}")
    assert got.json["share"]["status"] == "backup_creating"


def test_what_manila_says_beyond_available_counts_more(
    front: Front, answers: ManilaAnswers
) -> None:
    answers.shares[3]["status"] = "deleting"
    front.hold(share(3)["id"])
    assert front.call("GET", f"/shares/{share(3)['id']}").json["share"]["status"] == "deleting"


def test_a_listing_in_detail_has_the_statuses(front: Front, answers: ManilaAnswers) -> None:
    front.hold(share(3)["id"])
    front.hold(share(5)["id"], RESTORING)
    got = front.call("GET", "/shares/detail?limit=6&offset=1")
    statuses = {row["name"]: row["status"] for row in got.json["shares"]}
    assert statuses == {
        "share-1": "available",
        "share-2": "available",
        "share-3": "backup_creating",
        "share-4": "available",
        "share-5": "backup_restoring",
        "share-6": "available",
    }


def test_a_listing_without_status_is_passed_on(
    front: Front, manila: Server, answers: ManilaAnswers
) -> None:
    front.hold(share(3)["id"])
    got = front.call("GET", "/shares?limit=3&name=a%20b")
    assert (got.status, manila.lines()) == (200, ["GET /v2/shares?limit=3&name=a%20b"])


@pytest.mark.parametrize("path", ["/shares", "/shares/detail"])
def test_filter_for_available_leaves_out_what_is_held(
    front: Front, answers: ManilaAnswers, path: str
) -> None:
    front.hold(share(3)["id"])
    front.hold(share(5)["id"], FAILED)
    assert _ids(front.call("GET", f"{path}?status=available")) == [0, 1, 2, 4, 6, 7, 8, 9]


@pytest.mark.parametrize("path", ["/shares", "/shares/detail"])
def test_filter_for_our_statuses_lists_what_is_held(
    front: Front, answers: ManilaAnswers, path: str
) -> None:
    front.hold(share(3)["id"])
    front.hold(share(5)["id"], RESTORING)
    front.hold(share(7)["id"])
    front.hold(share(99)["id"])  # somebody else's
    assert _ids(front.call("GET", f"{path}?status=backup_creating")) == [3, 7]
    assert _ids(front.call("GET", f"{path}?status=backup_restoring")) == [5]
    assert _ids(front.call("GET", f"{path}?status=backup_restoring_error")) == []
    named = front.call("GET", f"{path}?status=backup_creating&name=share-7")
    assert _ids(named) == [7]


def test_other_filters_are_manila_s(front: Front, manila: Server, answers: ManilaAnswers) -> None:
    front.hold(share(3)["id"])
    front.call("GET", "/shares?status=error&limit=1")
    assert manila.lines()[-1] == "GET /v2/shares?status=error&limit=1"


def test_what_is_hidden_from_the_caller_stays_so(front: Front, answers: ManilaAnswers) -> None:
    front.hold(share(3)["id"])
    answers.hidden = {share(3)["id"]}
    assert _ids(front.call("GET", "/shares?status=backup_creating")) == []
    assert front.call("GET", f"/shares/{share(3)['id']}").status == 404


def test_manila_s_refusals_are_passed_on(front: Front, answers: ManilaAnswers) -> None:
    front.hold(share(3)["id"])
    answers.fail = 403
    for path in ("/shares?status=available", "/shares/detail", f"/shares/{share(3)['id']}"):
        assert front.call("GET", path).fault == (403, "forbidden", "Manila says")


@pytest.mark.parametrize("query", ["limit=x", "limit=-1", "offset=-1"])
def test_bad_paging_is_manila_s_to_refuse(
    front: Front, manila: Server, answers: ManilaAnswers, query: str
) -> None:
    front.hold(share(3)["id"])
    manila.answer = lambda handler, seen: handler.json(400, {"seen": seen.line})
    got = front.call("GET", f"/shares?status=available&{query}")
    assert (got.status, got.json["seen"]) == (400, f"/v2/shares?status=available&{query}")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    held=st.sets(st.integers(0, 11), min_size=1),
    others=st.sets(st.integers(0, 11)),
    limit=st.integers(1, 5),
    wanted=st.sampled_from(["available", "backup_creating"]),
    counted=st.booleans(),
)
def test_pages_are_slices_of_the_whole_listing(
    front: Front,
    answers: ManilaAnswers,
    *,
    held: set[int],
    others: set[int],
    limit: int,
    wanted: str,
    counted: bool,
) -> None:
    """Following the links shows every share that matches once, in Manila's order."""
    front.forget()
    answers.shares = [
        share(number, status="error" if number in others else "available") for number in range(12)
    ]
    for number in held:
        front.hold(share(number)["id"])
    available = [number for number in range(12) if number not in others]
    expected = [number for number in available if (number in held) == (wanted != "available")]
    path = f"/shares/detail?status={wanted}&limit={limit}&with_count={counted}"
    found: list[int] = []
    while path:
        got = front.call("GET", path)
        page = _ids(got)
        assert len(page) <= limit
        found += page
        if counted:
            assert got.json["count"] == len(expected)
        assert {row["status"] for row in got.json["shares"]} <= {wanted}
        path = _next(got.json)
    assert found == expected


def _next(body: dict[str, Any]) -> str:
    """The path of the next page, below ``/v2``; links of listings are to the collection itself."""
    if "shares_links" not in body or not body["shares"]:
        return ""
    (link,) = body["shares_links"]
    assert link["rel"] == "next"
    parts = urlsplit(link["href"])
    assert (parts.netloc, parts.path) == ("client.example.org", "/v2/shares")
    assert dict(parse_qsl(parts.query))["marker"] == body["shares"][-1]["id"]
    return f"/shares/detail?{parts.query}"


def test_long_listings_are_read_to_their_end(front: Front, answers: ManilaAnswers) -> None:
    answers.shares = [share(number) for number in range(2300)]
    front.hold(share(2200)["id"])
    assert _ids(front.call("GET", "/shares?status=backup_creating")) == [2200]
    got = front.call("GET", "/shares?status=available&limit=5&offset=2198")
    assert _ids(got) == [2198, 2199, 2201, 2202, 2203]
