# SPDX-License-Identifier: Apache-2.0
"""GET and PUT of /share-backups and /share-backups/{id}, and the operations of a backup."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from manilaclient.common.constants import BACKUP_SORT_KEY_VALUES

from manila_backup.data.endings import Outcome
from manila_backup.db import operations
from manila_backup.states import OperationEvent
from manila_backup.types import Counters
from tests.api.harness import ADMIN, MEMBER, OTHER, P1, P2, READER, Api, fault
from tests.api.test_create import UPSTREAM_KEYS


def listed(api: Api, query: str = "", who: str = MEMBER, **more: Any) -> list[str]:
    """Names of the backups in the answer, in its order."""
    answer = api.call("GET", f"/share-backups{query}", who=who, **more)
    assert answer.status_code == 200, answer.text
    return [item["name"] for item in answer.json["share_backups"]]


# --- show -----------------------------------------------------------------------------------------


def test_show_has_exactly_upstreams_keys(api: Api) -> None:
    path = f"/share-backups/{api.available(api.share())}"
    for version, more in (("2.80", set()), ("2.84", set()), ("2.85", {"backup_type"})):
        answer = api.call("GET", path, version=version, who=READER)
        assert set(answer.json) == {"share_backup"}
        assert set(answer.json["share_backup"]) == UPSTREAM_KEYS | more
        as_admin = api.call("GET", path, version=version, who=ADMIN)
        assert set(as_admin.json["share_backup"]) == UPSTREAM_KEYS | more | {"host", "topic"}


def test_show_tells_progress_in_strings(api: Api) -> None:
    backup_id = api.available(api.share())
    shown = api.call("GET", f"/share-backups/{backup_id}").json["share_backup"]
    assert (shown["progress"], shown["restore_progress"]) == ("100", "0")
    assert shown["status"] == "available"
    assert shown["backup_type"] == "nfs"


def test_show_with_the_project_in_the_path(api: Api) -> None:
    backup_id = api.available(api.share())
    answer = api.call("GET", f"/{P1}/share-backups/{backup_id}")
    assert answer.json["share_backup"]["id"] == backup_id


def test_show_by_name_is_404_as_clients_expect(api: Api) -> None:
    api.available(api.share(), name="nightly")
    assert fault(api.call("GET", "/share-backups/nightly"))[:2] == ("itemNotFound", 404)


# --- update ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "name", "description"),
    [
        ({"name": "new"}, "new", "old text"),
        ({"description": "new"}, "old", "new"),
        ({"display_name": "new"}, "new", "old text"),
        ({"display_description": "new"}, "old", "new"),
        ({"name": None}, None, "old text"),
        ({"description": None}, "old", None),
        ({"name": "", "description": ""}, "", ""),
        ({"name": "wins", "display_name": "loses"}, "wins", "old text"),
        ({"name": None, "display_name": "loses"}, None, "old text"),
        ({}, "old", "old text"),
        ({"name": "é" * 255}, "é" * 255, "old text"),
    ],
)
def test_update_sets_name_and_description(
    api: Api, sent: dict[str, Any], name: str | None, description: str | None
) -> None:
    backup_id = api.available(api.share(), name="old", description="old text")
    answer = api.call("PUT", f"/share-backups/{backup_id}", {"share_backup": sent})
    assert answer.status_code == 200
    shown = answer.json["share_backup"]
    assert set(shown) == UPSTREAM_KEYS | {"backup_type"}
    assert (shown["name"], shown["description"]) == (name, description)
    assert (shown["updated_at"] is not None) or not sent
    row = api.row(backup_id)
    assert (row.name, row.description) == (name, description)


def test_readers_may_not_update(api: Api) -> None:
    backup_id = api.available(api.share())
    answer = api.call("PUT", f"/share-backups/{backup_id}", {"share_backup": {}}, who=READER)
    assert fault(answer)[1] == 403


# --- list -----------------------------------------------------------------------------------------


def test_list_summary_and_detail_have_upstreams_keys(api: Api) -> None:
    api.available(api.share())
    (summary,) = api.call("GET", "/share-backups").json["share_backups"]
    assert set(summary) == {"id", "name", "share_id", "status"}
    (detail,) = api.call("GET", "/share-backups/detail").json["share_backups"]
    assert set(detail) == UPSTREAM_KEYS | {"backup_type"}
    (as_admin,) = api.call(
        "GET", "/share-backups/detail?all_tenants=1", who=ADMIN, version="2.80"
    ).json["share_backups"]
    assert set(as_admin) == UPSTREAM_KEYS | {"host", "topic"}


def test_list_is_newest_first(api: Api) -> None:
    for name in ("first", "second", "third"):
        api.create(api.share(), name=name)
    assert listed(api) == ["third", "second", "first"]


def test_list_filters(api: Api) -> None:
    share_id = api.share()
    api.available(share_id, name="nightly 1%", description="of the week")
    api.create(share_id, name="nightly 10", description="of the month")
    api.create(api.share(), name="weekly_", description="of the month")
    assert listed(api, "?name=weekly_") == ["weekly_"]
    assert listed(api, "?description=of+the+month") == ["weekly_", "nightly 10"]
    assert listed(api, f"?share_id={share_id}") == ["nightly 10", "nightly 1%"]
    assert listed(api, "?status=available") == ["nightly 1%"]
    assert listed(api, "?name~=nightly") == ["nightly 10", "nightly 1%"]
    assert listed(api, "?description~=week") == ["nightly 1%"]
    assert listed(api, "?topic=manila-backup-data&status=creating") == ["weekly_", "nightly 10"]
    assert listed(api, "?topic=other") == []
    assert listed(api, "?status=no-such-status") == []


def test_like_filters_take_percent_and_underscore_for_themselves(api: Api) -> None:
    for name in ("1%", "10", "a_b", "axb"):
        api.create(api.share(), name=name)
    assert listed(api, "?name~=1%25") == ["1%"]
    assert listed(api, "?name~=a_b") == ["a_b"]


def test_list_by_a_share_that_is_gone(api: Api) -> None:
    share_id = api.share()
    api.available(share_id, name="kept")
    api.store.begin_delete(share_id)
    api.store.finish_delete(share_id)
    assert listed(api, f"?share_id={share_id}") == ["kept"]
    assert listed(api, "?share_id=never-was") == []


def test_unknown_parameters_are_ignored(api: Api) -> None:
    api.create(api.share(), name="one")
    assert listed(api, "?colour=red&with_count=true&limit=&name=") == ["one"]


def test_every_sort_key_of_the_client_sorts(api: Api) -> None:
    ids = [api.create(api.share(size_gib=size), name=f"n{size}") for size in (2, 3, 1)]
    for key in (*BACKUP_SORT_KEY_VALUES, "created_at", "updated_at", "availability_zone"):
        for direction in ("asc", "desc"):
            answer = api.call("GET", f"/share-backups/detail?sort_key={key}&sort_dir={direction}")
            items = answer.json["share_backups"]
            assert sorted(item["id"] for item in items) == sorted(ids)
            values = [item[key] for item in items if item.get(key) is not None]
            assert values == sorted(values, reverse=direction == "desc")


def test_pages_by_limit_and_offset(api: Api) -> None:
    for number in range(5):
        api.create(api.share(), name=f"n{number}")
    assert listed(api, "?limit=2&sort_key=name&sort_dir=asc") == ["n0", "n1"]
    assert listed(api, "?limit=2&offset=2&sort_key=name&sort_dir=asc") == ["n2", "n3"]
    assert listed(api, "?offset=4&sort_key=name&sort_dir=asc") == ["n4"]
    assert listed(api, "?offset=9") == []
    assert len(listed(api, "?limit=0")) == 5


@pytest.mark.parametrize("prefix", ["", f"/{P1}"])
@pytest.mark.parametrize("kind", ["", "/detail"])
def test_links_lead_through_all_pages(api: Api, kind: str, prefix: str) -> None:
    for number in range(5):
        api.create(api.share(), name=f"n{number}", description="x")
    path = f"{prefix}/share-backups{kind}?limit=2&sort_key=description&description=x"
    seen: list[str] = []
    while True:
        answer = api.call("GET", path)
        seen += [item["name"] for item in answer.json["share_backups"]]
        links = answer.json.get("share_backup_links")
        if links is None:
            break
        (link,) = links
        assert link["rel"] == "next"
        url = urlsplit(link["href"])
        assert f"{url.scheme}://{url.netloc}" == "http://localhost"
        query = parse_qs(url.query)
        assert query["limit"] == ["2"]
        assert query["description"] == ["x"]
        path = f"{url.path.removeprefix('/v2')}?{url.query}"
    assert sorted(seen) == [f"n{number}" for number in range(5)]


def test_no_link_after_the_last_page(api: Api) -> None:
    api.create(api.share())
    assert "share_backup_links" not in api.call("GET", "/share-backups?limit=2").json
    assert "share_backup_links" not in api.call("GET", "/share-backups").json


def test_links_use_the_public_endpoint(make_api: Callable[..., Api]) -> None:
    api = make_api(public_endpoint="https://backup.example.org/sfs/")
    api.create(api.share())
    (link,) = api.call("GET", "/share-backups?limit=1").json["share_backup_links"]
    assert link["href"].startswith("https://backup.example.org/sfs/v2/share-backups?limit=1&")


def test_marker_goes_on_after_that_backup(api: Api) -> None:
    ids = [api.create(api.share(), name=f"n{number}") for number in range(3)]
    query = f"?sort_key=name&sort_dir=asc&marker={ids[0]}"
    assert listed(api, query) == ["n1", "n2"]
    assert fault(api.call("GET", "/share-backups?marker=unknown"))[1] == 404


def test_pages_are_cut_to_the_configured_limit(make_api: Callable[..., Api]) -> None:
    api = make_api(max_limit=2)
    for number in range(3):
        api.create(api.share(), name=f"n{number}")
    assert listed(api) == listed(api, "?limit=100") == ["n2", "n1"]
    assert "share_backup_links" in api.call("GET", "/share-backups").json


def test_only_administrators_list_other_projects(api: Api) -> None:
    api.create(api.share(), name="one")
    api.create(api.share(P2), name="two", who=OTHER)
    for query in ("", "?all_tenants=1", "?all_projects=1", f"?all_tenants=1&project_id={P2}"):
        assert listed(api, query) == ["one"]
        assert listed(api, query, who=READER) == ["one"]
    assert listed(api, "", who=ADMIN) == []
    assert listed(api, "?all_tenants=1", who=ADMIN) == ["two", "one"]
    assert listed(api, "?all_projects=true", who=ADMIN) == ["two", "one"]
    assert listed(api, f"?project_id={P2}", who=ADMIN) == ["two"]
    assert listed(api, f"?all_tenants=1&project_id={P1}", who=ADMIN) == ["one"]
    assert listed(api, "?all_tenants=0", who=ADMIN) == []


def test_host_filters_for_administrators_only(api: Api) -> None:
    backup_id = api.available(api.share(), name="one")
    from manila_backup.db.models import BackupRow

    with api.database.writer() as session:
        session.get_one(BackupRow, backup_id).host = "node-1"
    assert listed(api, "?all_tenants=1&host=node-1", who=ADMIN) == ["one"]
    assert listed(api, "?all_tenants=1&host=node-2", who=ADMIN) == []
    # Filtering by it would tell members where their backup is.
    assert listed(api, "?host=node-2") == ["one"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=1.5", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=%D9%A3", "limit"),
        ("offset=-1", "offset"),
        ("offset=x", "offset"),
        ("sort_key=colour", "sort_key"),
        ("sort_dir=up", "sort_dir"),
        ("all_tenants=perhaps", "all_tenants"),
        ("name=%00", "name"),
        ("name~=a%00b", "name~"),
        ("status=" + "x" * 256, "status"),
        ("marker=" + "x" * 256, "marker"),
    ],
)
@pytest.mark.parametrize("kind", ["", "/detail"])
def test_bad_parameters_are_400_by_name(standing: Api, kind: str, query: str, field: str) -> None:
    name, code, message = fault(standing.call("GET", f"/share-backups{kind}?{query}"))
    assert (name, code) == ("badRequest", 400)
    assert message.startswith(f"Invalid input for field {field}:")


# --- operations -----------------------------------------------------------------------------------


def test_operations_tell_phase_progress_counters_and_reason(api: Api) -> None:
    share_id = api.share()
    backup_id = api.create(share_id)
    held = api.claim(backup_id)
    api.database.write(
        lambda session: operations.note(
            session, held, phase="copying", progress=41, progress_source="bytes"
        )
    )
    path = f"/share-backups/{backup_id}/operations"
    (running,) = api.call("GET", path, who=READER).json["operations"]
    assert (running["kind"], running["status"]) == ("create", "running")
    assert (running["phase"], running["progress"]) == ("copying", 41)
    assert running["progress_source"] == "bytes"
    assert running["started_at"] is not None
    assert running["finished_at"] is None
    assert "host" not in running
    reason = "data/x: Input/output error (errno 5)"
    counters = Counters(files=7, bytes=99, skipped=2)
    api.end(held, Outcome(event=OperationEvent.FAIL, reason=reason, counters=counters))
    (failed,) = api.call("GET", path, who=ADMIN).json["operations"]
    assert (failed["status"], failed["fail_reason"]) == ("failed", reason)
    assert failed["counters"]["files"] == 7
    assert failed["counters"]["skipped"] == 2
    assert failed["host"] == "node-1"
    assert failed["finished_at"] is not None


def test_operations_are_newest_first(api: Api) -> None:
    backup_id = api.available(api.share())
    api.call("POST", f"/share-backups/{backup_id}/restores", {"restore": {"mode": "merge"}})
    kinds = [
        (item["kind"], item["mode"])
        for item in api.call("GET", f"/share-backups/{backup_id}/operations").json["operations"]
    ]
    assert kinds == [("restore", "merge"), ("create", None)]
