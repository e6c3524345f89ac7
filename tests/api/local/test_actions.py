# SPDX-License-Identifier: Apache-2.0
"""Resizing, access rules, export locations, types, and actions that are not there."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from manila_backup.share.local.records import DEFAULT_TYPE_ID
from manila_backup.types import AccessLevel
from tests.api.harness import ADMIN, MEMBER, OTHER, READER, fault
from tests.api.local.harness import SharesApi


class TestResize:
    CASES: tuple[tuple[str, Any, int], ...] = (
        ("extend", 5, 202),
        ("extend", "5", 202),
        ("extend", 3, 400),
        ("extend", 2, 400),
        ("shrink", 2, 202),
        ("shrink", 3, 400),
        ("shrink", 4, 400),
        ("shrink", 0, 400),
        ("extend", -5, 400),
        ("extend", "x", 400),
        ("extend", None, 400),
    )

    def test_by_action_and_size(self, shares: SharesApi) -> None:
        for action, new_size, status in self.CASES:
            share_id = shares.create(size=3)["id"]
            answer = shares.act(share_id, action, {"new_size": new_size})
            assert answer.status_code == status, (action, new_size)
            size = shares.ok("GET", f"/shares/{share_id}")["share"]["size"]
            assert size == (int(new_size) if status == 202 else 3)

    def test_force_as_the_client_writes_it(self, shares: SharesApi) -> None:
        share_id = shares.create()["id"]
        value = {"new_size": 2, "force": "true"}
        assert shares.act(share_id, "extend", value).status_code == 202


class TestAccess:
    def test_the_life_of_a_rule(self, shares: SharesApi) -> None:
        share_id = shares.create()["id"]
        rule = shares.allow(share_id, "10.0.0.0/8", access_level="ro", metadata={"a": "b"})
        assert rule["state"] == "active"
        assert (rule["access_level"], rule["access_to"]) == ("ro", "10.0.0.0/8")
        assert shares.ok("GET", f"/share-access-rules/{rule['id']}") == {"access": rule}
        listed = shares.ok("GET", f"/share-access-rules?share_id={share_id}")["access_list"]
        assert listed == [rule]
        body = {"update_access": {"access_level": "rw"}}
        shown = shares.ok("PUT", f"/share-access-rules/{rule['id']}", body)["access"]
        assert shown["access_level"] == "rw"
        assert shown["updated_at"] is not None
        path = f"/share-access-rules/{rule['id']}/metadata"
        assert shares.ok("PUT", path, {"metadata": {"c": "d"}})["metadata"] == {"a": "b", "c": "d"}
        shares.ok("DELETE", f"{path}/a")
        assert shares.call("DELETE", f"{path}/a").status_code == 404
        assert shares.act(share_id, "deny_access", {"access_id": rule["id"]}).status_code == 202
        assert shares.call("GET", f"/share-access-rules/{rule['id']}").status_code == 404
        assert shares.store.get(share_id).access_rules == ()

    def test_the_level_is_rw_unless_said(self, shares: SharesApi) -> None:
        share_id = shares.create()["id"]
        assert shares.allow(share_id)["access_level"] == "rw"
        assert shares.allow(share_id, "10.0.0.2", access_level=None)["access_level"] == "rw"

    def test_the_same_address_twice(self, shares: SharesApi) -> None:
        share_id = shares.create()["id"]
        shares.allow(share_id, "10.0.0.1")
        value = {"access_type": "ip", "access_to": "10.0.0.1/32", "access_level": "ro"}
        answer = shares.act(share_id, "allow_access", value)
        assert answer.status_code == 400
        assert "exists" in fault(answer)[2]

    WRONG: tuple[Any, ...] = (
        {"access_type": "ip", "access_to": "everywhere"},
        {"access_type": "ip", "access_to": "10.0.0.1/8"},
        {"access_type": "ip", "access_to": ""},
        {"access_type": "cert", "access_to": "x"},
        {"access_type": "user", "access_to": "a\nb"},
        {"access_type": "ip", "access_to": "10.0.0.1", "access_level": "rwx"},
        {"access_type": "ip", "access_to": "10.0.0.1", "ours": True},
        {"access_type": "ip", "access_to": "10.0.0.1", "lock_deletion": True},
        {"access_to": "10.0.0.1"},
        None,
    )

    def test_refused(self, shares: SharesApi) -> None:
        share_id = shares.create()["id"]
        for wrong in self.WRONG:
            assert shares.act(share_id, "allow_access", wrong).status_code == 400, wrong
        assert shares.store.get(share_id).access_rules == ()

    FOUND: tuple[tuple[str, list[str]], ...] = (
        ("access_level=ro", ["10.0.0.1"]),
        ("access_to=10.0.0.2", ["10.0.0.2"]),
        ("access_type=user", ["somebody"]),
        ("access_key=x", []),
        ("metadata=%7B%27k%27%3A%20%27v%27%7D", ["10.0.0.2"]),
    )

    def test_filters(self, shares: SharesApi) -> None:
        share_id = shares.create()["id"]
        shares.allow(share_id, "10.0.0.1", access_level="ro")
        shares.allow(share_id, "10.0.0.2", metadata={"k": "v"})
        shares.allow(share_id, "somebody", access_type="user")
        for query, found in self.FOUND:
            path = f"/share-access-rules?share_id={share_id}&{query}"
            listed = shares.ok("GET", path)["access_list"]
            assert [rule["access_to"] for rule in listed] == found, query

    def test_a_listing_needs_a_share(self, shares: SharesApi) -> None:
        assert shares.call("GET", "/share-access-rules").status_code == 400

    def test_the_services_own_rules_are_not_there(self, shares: SharesApi) -> None:
        share_id = shares.create()["id"]
        grant = shares.api.provider.grant(
            shares.api.provider.get(_admin(), share_id), "127.0.0.1", AccessLevel.RO
        )
        path = f"/share-access-rules?share_id={share_id}"
        for who in (MEMBER, ADMIN):
            assert shares.ok("GET", path, who=who) == {"access_list": []}
            one = f"/share-access-rules/{grant.reference}"
            assert shares.call("GET", one, who=who).status_code == 404
            assert shares.call("DELETE", f"{one}/metadata/x", who=who).status_code == 404
            body = {"update_access": {"access_level": "rw"}}
            assert shares.call("PUT", one, body, who=who).status_code == 404
            value = {"access_id": grant.reference}
            assert shares.act(share_id, "deny_access", value, who=who).status_code == 404
        assert len(shares.store.get(share_id).access_rules) == 1

    @pytest.mark.parametrize("is_public", [False, True])
    def test_rules_of_another_projects_share(self, shares: SharesApi, is_public: bool) -> None:
        share_id = shares.create(is_public=is_public)["id"]
        rule = shares.allow(share_id)
        one = f"/share-access-rules/{rule['id']}"
        wanted = 403 if is_public else 404
        assert shares.call("GET", one, who=OTHER).status_code == wanted
        body = {"update_access": {"access_level": "ro"}}
        assert shares.call("PUT", one, body, who=OTHER).status_code == wanted
        answer = shares.call("PUT", f"{one}/metadata", {"metadata": {}}, who=OTHER)
        assert answer.status_code == wanted
        assert shares.ok("GET", one) == {"access": rule}

    def test_a_rule_of_another_share_of_the_project(self, shares: SharesApi) -> None:
        first, second = shares.create()["id"], shares.create()["id"]
        rule = shares.allow(first)
        assert shares.act(second, "deny_access", {"access_id": rule["id"]}).status_code == 404
        assert len(shares.store.get(first).access_rules) == 1

    def test_a_reader_sees_and_changes_nothing(self, shares: SharesApi) -> None:
        share_id = shares.create()["id"]
        rule = shares.allow(share_id)
        shares.ok("GET", f"/share-access-rules/{rule['id']}", who=READER)
        value = {"access_id": rule["id"]}
        assert shares.act(share_id, "deny_access", value, who=READER).status_code == 403


def _admin() -> Any:
    from manila_backup.context import service_context

    return service_context()


class TestExportLocations:
    def test_the_directory(self, shares: SharesApi) -> None:
        share_id = shares.create()["id"]
        path = f"/shares/{share_id}/export_locations"
        (location,) = shares.ok("GET", path)["export_locations"]
        assert location["path"] == str(shares.store.tree(share_id))
        assert "is_admin_only" not in location
        assert shares.ok("GET", f"{path}/{location['id']}") == {"export_location": location}
        assert shares.call("GET", f"{path}/{uuid.uuid4()}").status_code == 404
        assert not shares.ok("GET", path, who=ADMIN)["export_locations"][0]["is_admin_only"]

    def test_shares_are_found_by_it(self, shares: SharesApi) -> None:
        share_id = shares.create(name="this")["id"]
        shares.create(name="that")
        (location,) = shares.ok("GET", f"/shares/{share_id}/export_locations")["export_locations"]
        assert shares.names(f"?export_location_id={location['id']}") == ["this"]
        assert shares.names(f"?export_location_path={location['path']}") == ["this"]


class TestTypes:
    def test_there_is_one(self, shares: SharesApi) -> None:
        (only,) = shares.ok("GET", "/types?is_public=all")["share_types"]
        assert (only["name"], only["is_default"]) == ("default", True)
        assert shares.ok("GET", "/types/default") == {"share_type": only}
        assert shares.ok("GET", f"/types/{DEFAULT_TYPE_ID}") == {"share_type": only}
        specs = shares.ok("GET", f"/types/{DEFAULT_TYPE_ID}/extra_specs")["extra_specs"]
        assert specs == only["extra_specs"]
        assert shares.call("GET", "/types/gold").status_code == 404


class TestActions:
    NOT_OFFERED: tuple[dict[str, Any], ...] = (
        {},
        {"unmanage": None},
        {"migration_start": {}},
        {"extend": {"new_size": 2}, "shrink": {"new_size": 1}},
        {"force_delete": {"really": True}},
        {"soft_delete": None},
        {"restore": None},
        {"revert": {"snapshot_id": "x"}},
    )

    def test_what_is_not_offered_is_a_400(self, shares: SharesApi) -> None:
        share_id = shares.create()["id"]
        for body in self.NOT_OFFERED:
            answer = shares.call("POST", f"/shares/{share_id}/action", body, who=ADMIN)
            assert answer.status_code == 400, body
            assert fault(answer)[0] == "badRequest"
        assert shares.status(share_id) == "available"


def test_every_route_has_a_policy_and_what_it_answers(shares: SharesApi) -> None:
    for route in shares.routes:
        assert route.policies, route.path
        assert route.method != "GET" or route.response_schema is not None, route.path


def test_with_the_project_in_the_path(shares: SharesApi) -> None:
    share_id = shares.create()["id"]
    answer = shares.api.call("GET", f"/p-one/shares/{share_id}")
    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["share"]["links"][0]["href"].endswith(f"/v2/p-one/shares/{share_id}")
