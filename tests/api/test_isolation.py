# SPDX-License-Identifier: Apache-2.0
"""Projects do not learn of each other's backups, and cannot touch them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.harness import MEMBER, OTHER, P1, P2, Api, fault

UNKNOWN = "4f1e9a52-0000-4000-8000-000000000000"

REQUESTS: dict[str, tuple[str, str, Any]] = {
    "show": ("GET", "", None),
    "update": ("PUT", "", {"share_backup": {"name": "mine"}}),
    "delete": ("DELETE", "", None),
    "restore": ("POST", "/action", {"restore": None}),
    "cancel": ("POST", "/action", {"cancel": None}),
    "restores": ("POST", "/restores", {"restore": {}}),
    "operations": ("GET", "/operations", None),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_foreign_backup_is_answered_as_one_that_does_not_exist(api: Api, name: str) -> None:
    backup_id = api.available(api.share(), name="secret")
    method, suffix, body = REQUESTS[name]
    before = api.contents()
    theirs = api.call(method, f"/share-backups/{backup_id}{suffix}", body, who=OTHER)
    nobodys = api.call(method, f"/share-backups/{UNKNOWN}{suffix}", body, who=OTHER)
    assert theirs.status_code == nobodys.status_code == 404
    assert fault(theirs)[2].replace(backup_id, UNKNOWN) == fault(nobodys)[2]
    assert api.contents() == before
    # The same request of the owner is not refused for being somebody's.
    assert api.call(method, f"/share-backups/{backup_id}{suffix}", body).status_code != 404


def test_foreign_backup_to_the_callers_own_share_is_404(api: Api) -> None:
    backup_id = api.available(api.share(), name="secret")
    mine = api.share(P2)
    before = api.contents()
    for path, body in (
        ("/action", {"restore": mine}),
        ("/restores", {"restore": {"target_share_id": mine}}),
    ):
        answer = api.call("POST", f"/share-backups/{backup_id}{path}", body, who=OTHER)
        assert fault(answer)[1] == 404
    assert api.contents() == before


def test_lists_show_the_own_project_only(api: Api) -> None:
    share_id = api.share(is_public=True)
    backup_id = api.available(share_id, name="secret")
    for query in (
        "",
        f"?share_id={share_id}",
        "?name~=secret",
        "?all_tenants=1",
        f"?id={backup_id}",
    ):
        for kind in ("", "/detail"):
            answer = api.call("GET", f"/share-backups{kind}{query}", who=OTHER)
            assert answer.json == {"share_backups": []}


def test_marker_of_another_project_is_404(api: Api) -> None:
    backup_id = api.available(api.share())
    assert fault(api.call("GET", f"/share-backups?marker={backup_id}", who=OTHER))[1] == 404


def test_messages_of_another_project_are_404(api: Api) -> None:
    api.fail(api.create(api.share()))
    (message,) = api.call("GET", "/messages").json["messages"]
    assert api.call("GET", "/messages", who=OTHER).json == {"messages": []}
    for method in ("GET", "DELETE"):
        answer = api.call(method, f"/messages/{message['id']}", who=OTHER)
        assert fault(answer)[1] == 404
    assert api.call("GET", f"/messages/{message['id']}", who=MEMBER).status_code == 200


@pytest.mark.parametrize("suffix", ["", "/detail", "/defaults"])
def test_quotas_of_another_project_are_403(api: Api, suffix: str) -> None:
    assert fault(api.call("GET", f"/quota-sets/{P1}{suffix}", who=OTHER))[1] == 403
    assert api.call("GET", f"/quota-sets/{P2}{suffix}", who=OTHER).status_code == 200


def test_limits_are_the_own_projects(api: Api) -> None:
    api.create(api.share())
    mine = api.call("GET", "/limits", who=OTHER).json["limits"]["absolute"]
    assert mine["totalShareBackupsUsed"] == 0
