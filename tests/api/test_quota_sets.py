# SPDX-License-Identifier: Apache-2.0
"""/quota-sets and /limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from manila_backup.quota.ledger import Limits
from tests.api.harness import ADMIN, P1, P2, READER, Api, fault


def put(api: Api, body: Any, project_id: str = P1, query: str = "", **more: Any) -> Any:
    path = f"/quota-sets/{project_id}{query}"
    return api.call("PUT", path, {"quota_set": body}, **{"who": ADMIN, **more})


def test_defaults_hold_until_a_project_has_its_own(make_api: Callable[..., Api]) -> None:
    api = make_api(quota_defaults=Limits(backups=3, backup_gigabytes=30))
    expected = {"quota_set": {"id": P1, "backups": 3, "backup_gigabytes": 30}}
    for suffix in ("", "/defaults"):
        assert api.call("GET", f"/quota-sets/{P1}{suffix}", who=READER).json == expected


def test_shipped_defaults_are_10_and_1000(api: Api) -> None:
    quotas = api.call("GET", f"/quota-sets/{P1}").json["quota_set"]
    assert (quotas["backups"], quotas["backup_gigabytes"]) == (10, 1000)


def test_put_sets_what_it_names_and_delete_gives_the_defaults_back(api: Api) -> None:
    answer = put(api, {"backups": 5, "tenant_id": P1})
    assert (answer.status_code, answer.json) == (
        200,
        {"quota_set": {"backups": 5, "backup_gigabytes": 1000}},
    )
    put(api, {"backup_gigabytes": -1})
    expected = {"id": P1, "backups": 5, "backup_gigabytes": -1}
    assert api.call("GET", f"/quota-sets/{P1}").json["quota_set"] == expected
    assert api.call("GET", f"/quota-sets/{P1}/defaults").json["quota_set"]["backups"] == 10
    assert api.call("GET", f"/quota-sets/{P2}", who=ADMIN).json["quota_set"]["backups"] == 10
    deleted = api.call("DELETE", f"/quota-sets/{P1}", who=ADMIN)
    assert (deleted.status_code, deleted.data) == (202, b"")
    assert api.call("GET", f"/quota-sets/{P1}").json["quota_set"]["backups"] == 10


def test_detail_tells_the_use(api: Api) -> None:
    api.create(api.share(size_gib=3))
    assert api.call("GET", f"/quota-sets/{P1}/detail").json["quota_set"] == {
        "id": P1,
        "backups": {"limit": 10, "in_use": 1, "reserved": 0},
        "backup_gigabytes": {"limit": 1000, "in_use": 3, "reserved": 0},
    }


def test_below_the_use_only_by_force(api: Api) -> None:
    api.create(api.share(size_gib=3))
    before = api.contents()
    refused = put(api, {"backups": 5, "backup_gigabytes": 2})
    assert "quota_set.backup_gigabytes" in fault(refused)[2]
    assert api.contents() == before
    assert put(api, {"backup_gigabytes": 2, "force": False}).status_code == 400
    assert put(api, {"backup_gigabytes": 2, "force": True}).status_code == 200
    assert put(api, {"backup_gigabytes": -1}).status_code == 200
    assert put(api, {"backup_gigabytes": 3}).status_code == 200


def test_quota_of_a_project_decides_over_its_requests(api: Api) -> None:
    put(api, {"backups": 0})
    body = {"share_backup": {"share_id": api.share()}}
    assert api.call("POST", "/share-backups", body).status_code == 413
    put(api, {"backups": -1})
    assert api.call("POST", "/share-backups", body).status_code == 202


@pytest.mark.parametrize("query", ["?user_id=u", "?share_type=t"])
def test_quotas_of_users_and_share_types_are_refused_not_ignored(api: Api, query: str) -> None:
    before = api.contents()
    assert put(api, {"backups": 1}, query=query).status_code == 400
    assert api.call("DELETE", f"/quota-sets/{P1}{query}", who=ADMIN).status_code == 400
    assert api.contents() == before


def test_our_figures_are_there_from_2_80(api: Api) -> None:
    old = api.call("GET", f"/quota-sets/{P1}", version="2.79", experimental=False)
    assert old.json == {"quota_set": {"id": P1}}
    assert put(api, {"backups": 1}, version="2.79").status_code == 400
    assert api.call("GET", f"/quota-sets/{P1}/detail", version="2.24").status_code == 404
    assert api.call("GET", f"/quota-sets/{P1}", version="2.6").status_code == 404
    new = api.call("GET", f"/quota-sets/{P1}", version="2.80", experimental=False)
    assert set(new.json["quota_set"]) == {"id", "backups", "backup_gigabytes"}


def test_members_may_not_change_quotas(api: Api) -> None:
    before = api.contents()
    assert put(api, {"backups": 99}, who="ann:p-one:member").status_code == 403
    assert api.call("DELETE", f"/quota-sets/{P1}").status_code == 403
    assert api.contents() == before


def test_limits_tell_limits_and_use(api: Api) -> None:
    api.create(api.share(size_gib=3))
    put(api, {"backups": 4})
    assert api.call("GET", "/limits", who=READER).json == {
        "limits": {
            "rate": [],
            "absolute": {
                "maxTotalShareBackups": 4,
                "maxTotalBackupGigabytes": 1000,
                "totalShareBackupsUsed": 1,
                "totalBackupGigabytesUsed": 3,
            },
        }
    }
    old = api.call("GET", "/limits", version="2.79").json
    assert old == {"limits": {"rate": [], "absolute": {}}}
