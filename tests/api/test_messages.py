# SPDX-License-Identifier: Apache-2.0
"""/messages: why an operation ended as it did."""

from __future__ import annotations

from typing import Any

import pytest
from manilaclient.common.constants import MESSAGE_SORT_KEY_VALUES

from manila_backup.db import messages
from tests.api.harness import ADMIN, OTHER, P1, P2, READER, Api, fault

CLIENT_READS = {
    "id",
    "resource_type",
    "resource_id",
    "action_id",
    "user_message",
    "message_level",
    "detail_id",
    "created_at",
    "expires_at",
    "request_id",
}
"""What ``openstack share message show`` prints."""


def add(api: Api, text: str, project_id: str = P1, **values: Any) -> str:
    def write(session: Any) -> str:
        return messages.create(
            session,
            **{
                "project_id": project_id,
                "request_id": None,
                "resource_id": "r",
                "action_id": "101",
                "detail_id": "101",
                "user_message": text,
                **values,
            },
        ).id

    return api.database.write(write)


def texts(api: Api, query: str = "", **more: Any) -> list[str]:
    answer = api.call("GET", f"/messages{query}", **more)
    assert answer.status_code == 200, answer.text
    return [message["user_message"] for message in answer.json["messages"]]


def test_failed_create_tells_its_tenant_why(api: Api) -> None:
    answer = api.call("POST", "/share-backups", {"share_backup": {"share_id": api.share()}})
    backup_id = answer.json["share_backup"]["id"]
    api.fail(backup_id, "Not enough free space on the backup share.")
    listed = api.call("GET", f"/messages?resource_id={backup_id}", who=READER)
    (message,) = listed.json["messages"]
    assert "Not enough free space on the backup share." in message["user_message"]
    assert message["resource_id"] == backup_id
    assert message["resource_type"] == "SHARE_BACKUP"
    assert message["message_level"] == "ERROR"
    assert message["request_id"] == answer.headers["X-Openstack-Request-Id"]
    assert set(message) >= CLIENT_READS
    shown = api.call("GET", f"/messages/{message['id']}", who=READER)
    assert shown.json == {"message": message}
    assert message["links"] == [
        {"rel": "self", "href": f"http://localhost/v2/messages/{message['id']}"}
    ]


def test_delete_answers_204_and_is_not_for_readers(api: Api) -> None:
    path = f"/messages/{add(api, 'x')}"
    assert fault(api.call("DELETE", path, who=READER))[1] == 403
    answer = api.call("DELETE", path)
    assert (answer.status_code, answer.data) == (204, b"")
    for method in ("GET", "DELETE"):
        assert fault(api.call(method, path))[1] == 404


@pytest.mark.parametrize(
    "name", ["resource_id", "resource_type", "request_id", "action_id", "detail_id"]
)
def test_list_filters(api: Api, name: str) -> None:
    add(api, "one", **{name: "wanted"})
    add(api, "two", **{name: "other"})
    assert texts(api, f"?{name}=wanted") == ["one"]


def test_list_filters_by_level(api: Api) -> None:
    add(api, "one", message_level="INFO")
    add(api, "two")
    assert texts(api, "?message_level=INFO") == ["one"]


def test_list_is_newest_first_in_pages(api: Api) -> None:
    for number in range(5):
        add(api, f"n{number}")
    assert texts(api) == ["n4", "n3", "n2", "n1", "n0"]
    assert texts(api, "?limit=2&offset=1") == ["n3", "n2"]
    answer = api.call("GET", "/messages?limit=2&offset=1")
    (link,) = answer.json["messages_links"]
    assert texts(api, link["href"].removeprefix("http://localhost/v2/messages")) == ["n1", "n0"]


def test_list_by_time(api: Api) -> None:
    ids = [add(api, f"n{number}") for number in range(3)]
    middle = api.call("GET", f"/messages/{ids[1]}").json["message"]["created_at"]
    assert texts(api, f"?created_since={middle}") == ["n2", "n1"]
    assert texts(api, f"?created_before={middle}") == ["n1", "n0"]
    assert texts(api, "?created_before=1999-01-01T00:00:00%2B02:00") == []
    assert texts(api, "?created_since=yesterday", version="2.51") == ["n2", "n1", "n0"]


@pytest.mark.parametrize("value", ["yesterday", "2026-99-01T00:00:00", "x" * 300])
def test_wrong_time_is_400(api: Api, value: str) -> None:
    assert "created_since" in fault(api.call("GET", f"/messages?created_since={value}"))[2]


@pytest.mark.parametrize("value", ["0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59"])
def test_times_at_the_ends_of_the_calendar_are_400(api: Api, value: str) -> None:
    assert api.call("GET", f"/messages?created_since={value}").status_code == 400


@pytest.mark.parametrize("key", MESSAGE_SORT_KEY_VALUES)
@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_every_sort_key_of_the_client_sorts(api: Api, key: str, direction: str) -> None:
    for number, request_id in enumerate(["b", None, "a"]):
        add(api, str(number), request_id=request_id, resource_id=f"r{2 - number}")
    answer = api.call("GET", f"/messages?sort_key={key}&sort_dir={direction}")
    values = [message[key] for message in answer.json["messages"] if message[key] is not None]
    assert values == sorted(values, reverse=direction == "desc")
    assert len(answer.json["messages"]) == 3


def test_administrators_see_all_messages(api: Api) -> None:
    add(api, "one")
    add(api, "two", P2)
    assert texts(api, who=ADMIN) == ["two", "one"]
    assert texts(api, who=OTHER) == ["two"]


def test_messages_exist_from_2_37(api: Api) -> None:
    assert api.call("GET", "/messages", version="2.36").status_code == 404
    assert api.call("GET", "/messages", version="2.37", experimental=False).status_code == 200
