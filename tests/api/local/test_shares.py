# SPDX-License-Identifier: Apache-2.0
"""/shares: create, show, list, update, delete, properties."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from manila_backup.share.local.records import DEFAULT_TYPE_ID
from tests.api.harness import ADMIN, MEMBER, OTHER, P1, READER, fault
from tests.api.local.harness import SharesApi


class TestCreate:
    def test_an_available_share_with_an_empty_directory(self, shares: SharesApi) -> None:
        shown = shares.create(
            size=3,
            name="büro",
            description="d",
            metadata={"k": "v"},
            share_type=DEFAULT_TYPE_ID,
            availability_zone="nova",
            is_public="True",
            snapshot_id=None,
            share_network_id=None,
            scheduler_hints={},
        )
        assert shown["status"] == "available"
        assert (shown["size"], shown["name"], shown["description"]) == (3, "büro", "d")
        assert (shown["metadata"], shown["is_public"]) == ({"k": "v"}, True)
        assert (shown["project_id"], shown["user_id"]) == (P1, "ann")
        assert (shown["share_proto"], shown["share_type_name"]) == ("NFS", "default")
        tree = shares.store.tree(shown["id"])
        assert list(tree.iterdir()) == []
        assert shares.ok("GET", f"/shares/{shown['id']}")["share"] == shown

    @pytest.mark.parametrize("share_type", ["default", DEFAULT_TYPE_ID, None, ""])
    def test_the_type_by_name_or_id_or_none(self, shares: SharesApi, share_type: str) -> None:
        assert shares.create(share_type=share_type)["share_type"] == DEFAULT_TYPE_ID

    REFUSED: tuple[tuple[dict[str, Any], int, str], ...] = (
        ({"size": 0}, 400, "share.size"),
        ({"size": -1}, 400, "share.size"),
        ({"size": "x"}, 400, "share.size"),
        ({"size": True}, 400, "share.size"),
        ({"size": 1 << 40}, 400, "share.size"),
        ({"size": None}, 400, "share.size"),
        ({"share_proto": "CIFS"}, 400, "NFS"),
        ({"share_proto": None}, 400, "share.share_proto"),
        ({"name": "x" * 256}, 400, "share.name"),
        ({"metadata": {"k": 1}}, 400, "share.metadata.k"),
        ({"metadata": {"k": "x" * 1024}}, 400, "share.metadata.k"),
        ({"metadata": {"": "x"}}, 400, "share.metadata"),
        ({"metadata": {str(n): "" for n in range(129)}}, 400, "share.metadata"),
        ({"is_public": "perhaps"}, 400, "share.is_public"),
        ({"snapshot_id": "6f0e9a9c-2f0e-4f57-8a39-5b3d1c7e2a10"}, 400, "share.snapshot_id"),
        ({"share_network_id": "n"}, 400, "share.share_network_id"),
        ({"mount_point_name": "n"}, 400, "share.mount_point_name"),
        ({"id": "6f0e9a9c-2f0e-4f57-8a39-5b3d1c7e2a10"}, 400, "share.id"),
        ({"share_type": "gold"}, 404, ""),
        ({"availability_zone": "elsewhere"}, 404, ""),
    )

    def test_refused(self, shares: SharesApi) -> None:
        for wrong, status, named in self.REFUSED:
            body = {"share": {"size": 1, "share_proto": "NFS", **wrong}}
            answer = shares.call("POST", "/shares", body)
            assert answer.status_code == status, wrong
            assert named in fault(answer)[2]
        assert list(shares.store.shares()) == []

    def test_a_reader_may_not(self, shares: SharesApi) -> None:
        body = {"share": {"size": 1, "share_proto": "NFS"}}
        assert shares.call("POST", "/shares", body, who=READER).status_code == 403


class TestIsolation:
    """What is another project's is not there; what is public can be seen and nothing else."""

    REQUESTS = (
        ("GET", "/shares/{id}", None),
        ("PUT", "/shares/{id}", {"share": {"name": "mine"}}),
        ("DELETE", "/shares/{id}", None),
        ("GET", "/shares/{id}/metadata", None),
        ("POST", "/shares/{id}/metadata", {"metadata": {"a": "b"}}),
        ("PUT", "/shares/{id}/metadata", {"metadata": {"a": "b"}}),
        ("DELETE", "/shares/{id}/metadata/k", None),
        ("GET", "/shares/{id}/export_locations", None),
        ("GET", "/share-access-rules?share_id={id}", None),
        ("POST", "/snapshots", {"snapshot": {"share_id": "{id}"}}),
        ("POST", "/shares/{id}/action", {"extend": {"new_size": 9}}),
        ("POST", "/shares/{id}/action", {"shrink": {"new_size": 1}}),
        ("POST", "/shares/{id}/action", {"soft_delete": None}),
        ("POST", "/shares/{id}/action", {"revert": {"snapshot_id": "x"}}),
        (
            "POST",
            "/shares/{id}/action",
            {"allow_access": {"access_type": "ip", "access_to": "10.0.0.9"}},
        ),
        ("POST", "/shares/{id}/action", {"deny_access": {"access_id": "{access}"}}),
    )
    READS = ("/shares/{id}", "/shares/{id}/metadata")

    @pytest.mark.parametrize("is_public", [False, True])
    def test_of_another_project(self, shares: SharesApi, is_public: bool) -> None:
        share_id = shares.create(metadata={"k": "v"}, is_public=is_public, size=2)["id"]
        rule = shares.allow(share_id)["id"]
        before = shares.store.get(share_id)
        for method, path, body in self.REQUESTS:
            sent = _filled(body, {"{id}": share_id, "{access}": rule})
            answer = shares.call(method, path.format(id=share_id), sent, who=OTHER)
            if not is_public:
                assert answer.status_code == 404, (method, path, body)
            elif method == "GET" and path in self.READS:
                assert answer.status_code == 200, (method, path, body)
            else:
                assert answer.status_code == 403, (method, path, body)
        assert shares.store.get(share_id) == before
        assert list(shares.local.snapshots.all()) == []

    @pytest.mark.parametrize(
        "action",
        [
            {"force_delete": None},
            {"reset_status": {"status": "error"}},
            {"reset_task_state": {"task_state": None}},
        ],
    )
    def test_only_administrators_may(self, shares: SharesApi, action: dict[str, Any]) -> None:
        share_id = shares.create()["id"]
        path = f"/shares/{share_id}/action"
        assert shares.call("POST", path, action).status_code == 403
        assert shares.call("POST", path, action, who=ADMIN).status_code == 202

    def test_an_administrator_reaches_private_shares(self, shares: SharesApi) -> None:
        share_id = shares.create()["id"]
        shares.ok("PUT", f"/shares/{share_id}", {"share": {"name": "x"}}, who=ADMIN)
        assert shares.store.get(share_id).name == "x"
        assert shares.store.get(share_id).project_id == P1

    @pytest.mark.parametrize(
        "share_id",
        [
            "..",
            "%2e%2e",
            "detail2",
            "x" * 255,
            "6f0e9a9c-2f0e-4f57-8a39-5b3d1c7e2a10",
            "%00",
            "a%2Fb",
        ],
    )
    def test_ids_that_name_nothing(self, shares: SharesApi, share_id: str) -> None:
        shares.create()
        for method in ("GET", "DELETE"):
            assert shares.call(method, f"/shares/{share_id}", who=ADMIN).status_code == 404
        assert len(list(shares.store.shares())) == 1


def _filled(body: Any, values: dict[str, str]) -> Any:
    """``body`` with its placeholders replaced."""
    if isinstance(body, dict):
        return {key: _filled(value, values) for key, value in body.items()}
    return values.get(body, body) if isinstance(body, str) else body


class TestList:
    def test_own_shares_newest_first(self, shares: SharesApi) -> None:
        for name in "abc":
            shares.create(name=name)
        shares.create(name="foreign", who=OTHER)
        assert shares.names() == ["c", "b", "a"]
        assert shares.names(who=OTHER) == ["foreign"]

    def test_public_shares_of_others_only_if_asked_for(self, shares: SharesApi) -> None:
        shares.create(name="private", who=OTHER)
        shares.create(name="public", who=OTHER, is_public=True)
        shares.create(name="mine")
        assert shares.names() == ["mine"]
        assert shares.names("?is_public=True") == ["mine", "public"]

    def test_all_tenants_is_for_administrators(self, shares: SharesApi) -> None:
        shares.create(name="theirs", who=OTHER)
        shares.create(name="mine")
        assert shares.names("?all_tenants=1") == ["mine"]
        assert shares.names("?all_tenants=1", who=ADMIN) == ["mine", "theirs"]
        assert shares.names(who=ADMIN) == []
        assert shares.names(f"?all_tenants=1&project_id={P1}", who=ADMIN) == ["mine"]

    FOUND: tuple[tuple[str, list[str]], ...] = (
        ("name=alpha", ["alpha"]),
        ("name=alph", []),
        ("name~=ALPH", ["alpha"]),
        ("description~=secon", ["beta"]),
        ("description=second", ["beta"]),
        ("status=available", ["beta"]),
        ("status=error", ["alpha"]),
        ("status=nonsense", []),
        ("share_proto=NFS", ["beta", "alpha"]),
        (f"share_type_id={DEFAULT_TYPE_ID}", ["beta", "alpha"]),
        ("share_type_id=x", []),
        ("snapshot_id=x", []),
        ("host=x", []),
        ("is_soft_deleted=True", []),
        ("is_soft_deleted=False", ["beta", "alpha"]),
        ("metadata=%7B%27k%27%3A%20%27v%27%7D", ["beta"]),
        ("metadata=%7B%27k%27%3A%20%27w%27%7D", []),
        ("unknown=1", ["beta", "alpha"]),
        ("name=", ["beta", "alpha"]),
        ("sort_key=name&sort_dir=asc", ["alpha", "beta"]),
        ("sort_key=display_name", ["beta", "alpha"]),
        ("sort_key=size", ["alpha", "beta"]),
        ("sort_key=size&sort_dir=asc", ["beta", "alpha"]),
        ("limit=1", ["beta"]),
        ("limit=1&offset=1", ["alpha"]),
        ("offset=2", []),
        ("limit=0", ["beta", "alpha"]),
    )

    def test_filters_order_and_pages(self, shares: SharesApi) -> None:
        first = shares.create(name="alpha", description="first", size=2)["id"]
        shares.create(name="beta", description="second", metadata={"k": "v"})
        shares.store.update(first, lambda share: replace(share, status="error"))
        for query, found in self.FOUND:
            assert shares.names(f"?{query}") == found, query

    def test_without_a_value_to_sort_by_the_id_decides(self, shares: SharesApi) -> None:
        for name in "abc":
            shares.create(name=name)
        by_id = sorted(shares.store.shares(), key=lambda share: share.id)
        assert shares.names("?sort_key=host") == [share.name for share in by_id]

    WRONG = (
        "limit=-1",
        "limit=x",
        "offset=-1",
        "sort_key=mark",
        "sort_dir=up",
        "all_tenants=perhaps",
        "metadata=x",
        "metadata=[1]",
        "metadata={1:2}",
        "metadata=" + "(" * 3000,
        "metadata=" + "-" * 3000 + "1",
    )

    def test_refused(self, shares: SharesApi) -> None:
        shares.create()
        for query in self.WRONG:
            answer = shares.call("GET", f"/shares?{query}")
            assert answer.status_code == 400, query
            assert query.partition("=")[0] in fault(answer)[2]

    def test_pages_lead_to_each_other(self, shares: SharesApi) -> None:
        for name in "abcde":
            shares.create(name=name)
        path, seen = "/shares?limit=2&sort_key=name&sort_dir=asc&with_count=True", ""
        while path:
            body = shares.ok("GET", path)
            assert body["count"] == 5
            seen += "".join(share["name"] for share in body["shares"])
            links = body.get("shares_links", [])
            path = links[0]["href"].partition("/v2")[2] if links else ""
        assert seen == "abcde"

    def test_a_page_is_never_longer_than_the_service_allows(self, make_api: Any) -> None:
        shares = SharesApi(make_api(max_limit=2))
        for name in "abc":
            shares.create(name=name)
        assert shares.names() == ["c", "b"]
        assert shares.names("?limit=100&offset=2") == ["a"]


class TestUpdate:
    def test_what_is_given_changes_and_nothing_else(self, shares: SharesApi) -> None:
        share_id = shares.create(name="a", description="b")["id"]
        path = f"/shares/{share_id}"
        shown = shares.ok("PUT", path, {"share": {"display_name": "c"}})["share"]
        assert (shown["name"], shown["description"], shown["is_public"]) == ("c", "b", False)
        body = {"share": {"description": None, "is_public": "true"}}
        shown = shares.ok("PUT", path, body)["share"]
        assert (shown["name"], shown["description"], shown["is_public"]) == ("c", None, True)

    @pytest.mark.parametrize("wrong", [{"size": 5}, {"status": "error"}, {"name": 1}])
    def test_refused(self, shares: SharesApi, wrong: dict[str, Any]) -> None:
        path = f"/shares/{shares.create()['id']}"
        assert shares.call("PUT", path, {"share": wrong}).status_code == 400


class TestMetadata:
    def test_set_replace_unset(self, shares: SharesApi) -> None:
        share_id = shares.create(metadata={"a": "1"})["id"]
        path = f"/shares/{share_id}/metadata"
        assert shares.ok("POST", path, {"metadata": {"b": "2", "a": "3"}}) == {
            "metadata": {"a": "3", "b": "2"}
        }
        shares.ok("DELETE", f"{path}/a")
        assert shares.ok("GET", path) == {"metadata": {"b": "2"}}
        assert shares.call("DELETE", f"{path}/a").status_code == 404
        assert shares.ok("PUT", path, {"metadata": {"c": ""}}) == {"metadata": {"c": ""}}

    def test_there_is_an_end_to_them(self, shares: SharesApi) -> None:
        share_id = shares.create(metadata={str(n): "" for n in range(128)})["id"]
        path = f"/shares/{share_id}/metadata"
        assert shares.call("POST", path, {"metadata": {"x": ""}}).status_code == 400
        shares.ok("POST", path, {"metadata": {"0": "other"}})


class TestDelete:
    def test_announced_then_gone(self, shares: SharesApi) -> None:
        share_id = shares.create()["id"]
        (shares.store.tree(share_id) / "file").touch()
        shares.later.paused = True
        shares.ok("DELETE", f"/shares/{share_id}")
        assert shares.status(share_id) == "deleting"
        assert shares.call("DELETE", f"/shares/{share_id}").status_code == 403
        shares.later.run()
        assert shares.call("GET", f"/shares/{share_id}").status_code == 404
        assert not shares.store.directory(share_id).exists()

    def test_refused_with_snapshots(self, shares: SharesApi) -> None:
        share_id = shares.create()["id"]
        shares.later.paused = True
        shares.snapshot(share_id)
        assert shares.call("DELETE", f"/shares/{share_id}").status_code == 403

    def test_twice_at_once(self, shares: SharesApi) -> None:
        share_id = shares.create()["id"]
        shares.later.paused = True
        shares.ok("DELETE", f"/shares/{share_id}")
        assert shares.act(share_id, "force_delete", who=ADMIN).status_code == 202
        shares.later.run()
        assert shares.call("GET", f"/shares/{share_id}", who=MEMBER).status_code == 404
