# SPDX-License-Identifier: Apache-2.0
"""/snapshots."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.api.harness import ADMIN, MEMBER, OTHER, P1, READER
from tests.api.local.harness import SharesApi


@pytest.fixture
def share_id(shares: SharesApi) -> str:
    share_id = str(shares.create(size=2)["id"])
    (shares.store.tree(share_id) / "file").write_text("content")
    return share_id


def content(shares: SharesApi, share_id: str, snapshot_id: str) -> Path:
    return shares.local.snapshots.directory(share_id, snapshot_id) / "tree"


def names(shares: SharesApi, query: str = "", *, who: str = MEMBER) -> list[str]:
    found = [
        [item["name"] for item in shares.ok("GET", f"{path}{query}", who=who)["snapshots"]]
        for path in ("/snapshots", "/snapshots/detail")
    ]
    assert found[0] == found[1]
    return found[0]


def test_from_creating_to_available(shares: SharesApi, share_id: str) -> None:
    shares.later.paused = True
    taken = shares.snapshot(share_id, name="n", description="d", metadata={"k": "v"}, force=False)
    assert taken["status"] == "creating"
    assert (taken["name"], taken["description"], taken["metadata"]) == ("n", "d", {"k": "v"})
    assert (taken["share_id"], taken["share_size"], taken["project_id"]) == (share_id, 2, P1)
    shares.later.run()
    shown = shares.ok("GET", f"/snapshots/{taken['id']}")["snapshot"]
    assert shown == taken | {"status": "available"}
    assert (content(shares, share_id, taken["id"]) / "file").read_text() == "content"


@pytest.fixture
def two(shares: SharesApi, share_id: str) -> None:
    """Two snapshots of two shares."""
    first = shares.snapshot(share_id, name="alpha", description="first", metadata={"k": "v"})
    other = shares.create()["id"]
    shares.snapshot(other, name="beta", description="second")
    shares.call(
        "POST", f"/snapshots/{first['id']}/action", {"reset_status": {"status": "error"}}, who=ADMIN
    )


@pytest.mark.usefixtures("two")
class TestList:
    FOUND = (
        ("", ["beta", "alpha"]),
        ("?name=alpha", ["alpha"]),
        ("?name~=LPH", ["alpha"]),
        ("?description~=seco", ["beta"]),
        ("?status=error", ["alpha"]),
        ("?metadata=%7B%27k%27%3A%20%27v%27%7D", ["alpha"]),
        ("?sort_key=name&sort_dir=asc", ["alpha", "beta"]),
        ("?sort_key=size", ["alpha", "beta"]),
        ("?limit=1", ["beta"]),
        ("?limit=1&offset=1", ["alpha"]),
    )

    def test_filters_order_and_pages(self, shares: SharesApi) -> None:
        for query, found in self.FOUND:
            assert names(shares, query) == found, query

    def test_of_one_share(self, shares: SharesApi, share_id: str) -> None:
        assert names(shares, f"?share_id={share_id}") == ["alpha"]

    def test_of_others_only_for_administrators(self, shares: SharesApi) -> None:
        assert names(shares, "?all_tenants=1", who=OTHER) == []
        assert names(shares, who=ADMIN) == []
        assert names(shares, "?all_tenants=1", who=ADMIN) == ["beta", "alpha"]

    def test_with_count(self, shares: SharesApi) -> None:
        assert shares.ok("GET", "/snapshots?with_count=True&limit=1")["count"] == 2


def test_name_description_and_properties(shares: SharesApi, share_id: str) -> None:
    one = f"/snapshots/{shares.snapshot(share_id, name='a')['id']}"
    body = {"snapshot": {"display_name": "b", "display_description": "c"}}
    shown = shares.ok("PUT", one, body)["snapshot"]
    assert (shown["name"], shown["description"]) == ("b", "c")
    assert shares.ok("POST", f"{one}/metadata", {"metadata": {"k": "v"}})["metadata"] == {"k": "v"}
    shares.ok("DELETE", f"{one}/metadata/k")
    assert shares.call("DELETE", f"{one}/metadata/k").status_code == 404
    assert shares.ok("GET", f"{one}/export-locations") == {"share_snapshot_export_locations": []}


class TestDelete:
    def test_announced_then_gone(self, shares: SharesApi, share_id: str) -> None:
        taken = shares.snapshot(share_id)
        one = f"/snapshots/{taken['id']}"
        shares.later.paused = True
        shares.ok("DELETE", one)
        assert shares.ok("GET", one)["snapshot"]["status"] == "deleting"
        assert shares.call("DELETE", one).status_code == 400
        body = {"reset_status": {"status": "available"}}
        assert shares.call("POST", f"{one}/action", body, who=ADMIN).status_code == 400
        shares.later.run()
        assert shares.call("GET", one).status_code == 404
        assert shares.store.snapshot_ids(share_id) == ()

    def test_while_it_is_taken(self, shares: SharesApi, share_id: str) -> None:
        shares.later.paused = True
        taken = shares.snapshot(share_id)
        one = f"/snapshots/{taken['id']}"
        assert shares.call("DELETE", one).status_code == 400
        assert shares.call("POST", f"{one}/action", {"force_delete": None}).status_code == 403
        body = {"force_delete": None}
        assert shares.call("POST", f"{one}/action", body, who=ADMIN).status_code == 202
        shares.later.run()
        assert shares.store.snapshot_ids(share_id) == ()


REQUESTS: tuple[tuple[str, str, Any], ...] = (
    ("GET", "", None),
    ("PUT", "", {"snapshot": {"name": "x"}}),
    ("DELETE", "", None),
    ("POST", "/metadata", {"metadata": {"a": "b"}}),
    ("DELETE", "/metadata/k", None),
    ("GET", "/export-locations", None),
)


def test_of_another_project(shares: SharesApi, share_id: str) -> None:
    taken = shares.snapshot(share_id, metadata={"k": "v"})
    for method, path, body in REQUESTS:
        for snapshot_id in (taken["id"], str(uuid.uuid4()), ".."):
            answer = shares.call(method, f"/snapshots/{snapshot_id}{path}", body, who=OTHER)
            assert answer.status_code == 404, (method, path, snapshot_id)
    assert shares.ok("GET", f"/snapshots/{taken['id']}")["snapshot"]["metadata"] == {"k": "v"}


def test_refused(shares: SharesApi, share_id: str) -> None:
    for wrong in (
        {},
        {"share_id": None},
        {"share_id": "x" * 37},
        {"share_id": share_id, "size": 1},
        {"share_id": share_id, "metadata": 1},
    ):
        answer = shares.call("POST", "/snapshots", {"snapshot": wrong})
        assert answer.status_code == 400, wrong


def test_of_a_share_that_is_not_there(shares: SharesApi) -> None:
    body = {"snapshot": {"share_id": str(uuid.uuid4())}}
    assert shares.call("POST", "/snapshots", body).status_code == 404


def test_a_reader_takes_none(shares: SharesApi, share_id: str) -> None:
    body = {"snapshot": {"share_id": share_id}}
    assert shares.call("POST", "/snapshots", body, who=READER).status_code == 403
