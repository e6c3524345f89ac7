# SPDX-License-Identifier: Apache-2.0
"""Bad input: a 4xx in Manila's format that names the field, and an unchanged database."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manila_backup import exception
from manila_backup.api import validation
from tests.api.harness import ADMIN, LATEST, MEMBER, Api, fault

HEADERS = {
    "X-OpenStack-Manila-API-Version": LATEST,
    "X-OpenStack-Manila-API-Experimental": "true",
    "X-Auth-Token": MEMBER,
    "Content-Type": "application/json",
}

CREATE = ("POST", "/share-backups")
UPDATE = ("PUT", "/share-backups/{id}")
ACTION = ("POST", "/share-backups/{id}/action")
RESTORES = ("POST", "/share-backups/{id}/restores")

S = "{share}"
WRONG_BODIES: list[tuple[tuple[str, str], Any, str]] = [
    (CREATE, {}, "body"),
    (CREATE, {"share_backup": None}, "share_backup"),
    (CREATE, {"share_backup": []}, "share_backup"),
    (CREATE, {"share_backup": "x"}, "share_backup"),
    (CREATE, {"share_backup": {}}, "share_backup"),
    (CREATE, {"backup": {"share_id": S}}, "body"),
    (CREATE, {"share_backup": {"share_id": S}, "more": 1}, "more"),
    (CREATE, {"share_backup": {"share_id": S, "colour": "red"}}, "share_backup.colour"),
    (CREATE, {"share_backup": {"share_id": S, "x\ny": 1}}, r"share_backup.'x\ny'"),
    (CREATE, {"share_backup": {"share_id": None}}, "share_backup.share_id"),
    (CREATE, {"share_backup": {"share_id": ""}}, "share_backup.share_id"),
    (CREATE, {"share_backup": {"share_id": 5}}, "share_backup.share_id"),
    (CREATE, {"share_backup": {"share_id": "x" * 37}}, "share_backup.share_id"),
    (CREATE, {"share_backup": {"share_id": [S]}}, "share_backup.share_id"),
    (CREATE, {"share_backup": {"share_id": S, "name": "x" * 256}}, "share_backup.name"),
    (CREATE, {"share_backup": {"share_id": S, "name": 1}}, "share_backup.name"),
    (CREATE, {"share_backup": {"share_id": S, "name": True}}, "share_backup.name"),
    (CREATE, {"share_backup": {"share_id": S, "name": {}}}, "share_backup.name"),
    (CREATE, {"share_backup": {"share_id": S, "name": "a\0b"}}, "share_backup.name"),
    (CREATE, {"share_backup": {"share_id": S, "name": "a\ud800"}}, "share_backup.name"),
    (CREATE, {"share_backup": {"share_id": S, "name": "\udfff"}}, "share_backup.name"),
    (CREATE, {"share_backup": {"share_id": S, "description": "\0"}}, "share_backup.description"),
    (
        CREATE,
        {"share_backup": {"share_id": S, "description": "é" * 256}},
        "share_backup.description",
    ),
    (
        CREATE,
        {"share_backup": {"share_id": S, "backup_options": "a=b"}},
        "share_backup.backup_options",
    ),
    (
        CREATE,
        {"share_backup": {"share_id": S, "backup_options": [1]}},
        "share_backup.backup_options",
    ),
    (
        CREATE,
        {"share_backup": {"share_id": S, "backup_options": {"x": 1}}},
        "share_backup.backup_options",
    ),
    (
        CREATE,
        {"share_backup": {"share_id": S, "backup_options": {"dummy": ["\ud800"]}}},
        "share_backup.backup_options.dummy[0]",
    ),
    (
        CREATE,
        {"share_backup": {"share_id": S, "backup_options": {"\ud800": 1}}},
        r"share_backup.backup_options.'\ud800'",
    ),
    (
        CREATE,
        {"share_backup": {"share_id": S, "backup_options": {f"k{n}": 1 for n in range(65)}}},
        "share_backup.backup_options",
    ),
    (UPDATE, {"name": "x"}, "body"),
    (UPDATE, {"share_backup": {"status": "error"}}, "share_backup.status"),
    (UPDATE, {"share_backup": {"project_id": "mine"}}, "share_backup.project_id"),
    (UPDATE, {"share_backup": {"display_name": "x" * 256}}, "share_backup.display_name"),
    (UPDATE, {"share_backup": {"display_description": 1}}, "share_backup.display_description"),
    (UPDATE, {"share_backup": {"name": "\ud800\udc00\ud800"}}, "share_backup.name"),
    (ACTION, {}, "body"),
    (ACTION, {"restore": None, "cancel": None}, "body"),
    (ACTION, {"explode": None}, "explode"),
    (ACTION, {"restore": 5}, "restore"),
    (ACTION, {"restore": ""}, "restore"),
    (ACTION, {"restore": {"target_share_id": S}}, "restore"),
    (ACTION, {"restore": "x" * 37}, "restore"),
    (ACTION, {"restore": "a\0"}, "restore"),
    (ACTION, {"cancel": "now"}, "cancel"),
    (ACTION, {"cancel": {"x": 1}}, "cancel"),
    (ACTION, {"reset_status": None}, "reset_status"),
    (ACTION, {"reset_status": "error"}, "reset_status"),
    (ACTION, {"reset_status": {}}, "reset_status"),
    (ACTION, {"reset_status": {"status": 1}}, "reset_status.status"),
    (ACTION, {"reset_status": {"status": "deleted"}}, "reset_status.status"),
    (ACTION, {"reset_status": {"status": "error", "x": 1}}, "reset_status.x"),
    (RESTORES, {}, "body"),
    (RESTORES, {"restore": None}, "restore"),
    (RESTORES, {"restore": {"mode": None}}, "restore.mode"),
    (RESTORES, {"restore": {"mode": "EXACT"}}, "restore.mode"),
    (RESTORES, {"restore": {"target_share_id": 1}}, "restore.target_share_id"),
    (RESTORES, {"restore": {"target_share_id": ""}}, "restore.target_share_id"),
    (RESTORES, {"restore": {"target": S}}, "restore.target"),
]


@pytest.fixture(scope="module")
def api(standing: Api) -> Api:
    return standing


@dataclass(frozen=True)
class Known:
    """A share that could be backed up, and a backup that could be restored."""

    share_id: str
    backup_id: str


@pytest.fixture(scope="module")
def known(api: Api) -> Known:
    return Known(share_id=api.share(), backup_id=api.available(api.share()))


def send(api: Api, where: tuple[str, str], data: bytes, backup_id: str) -> Any:
    method, path = where
    headers = {**HEADERS, "X-Auth-Token": "ann:p-one:member,admin"}
    return api.client.open(
        f"/v2{path}".replace("{id}", backup_id), method=method, data=data, headers=headers
    )


@pytest.mark.parametrize(
    ("where", "body", "field"),
    WRONG_BODIES,
    ids=[f"{where[1]}-{field}-{number}" for number, (where, _, field) in enumerate(WRONG_BODIES)],
)
def test_wrong_body_is_400_that_names_the_field(
    api: Api, known: Known, where: tuple[str, str], body: Any, field: str
) -> None:
    before = api.contents()
    data = json.dumps(body).replace(S, known.share_id).encode()
    name, code, message = fault(send(api, where, data, known.backup_id))
    assert (name, code) == ("badRequest", 400)
    assert message.startswith(f"Invalid input for field {field}: ")
    assert len(message) < 1000
    assert api.contents() == before


DEEP = 100_000
MALFORMED = {
    "nothing": b"",
    "space": b" ",
    "half": b'{"share_backup": {',
    "text": b"share_backup",
    "list": b"[]",
    "string": b'"x"',
    "number": b"5",
    "null": b"null",
    "nan": b'{"share_backup": {"share_id": "x", "name": NaN}}',
    "infinity": b'{"share_backup": -Infinity}',
    "not utf-8": b'{"share_backup": "\xff"}',
    "utf-16": '{"share_backup": {}}'.encode("utf-16"),
    "raw surrogate": b'{"share_backup": "\xed\xa0\x80"}',
    "trailing": b'{"share_backup": {}} x',
    "deep lists": b"[" * DEEP,
    "deep objects": b'{"a":' * 18_000 + b"1" + b"}" * 18_000,
    "deep inside": b'{"share_backup": ' + b"[" * 500 + b"]" * 500 + b"}",
    "huge integer": b'{"share_backup": ' + b"9" * 5000 + b"}",
    "nul byte": b'{"share_backup": "\x00"}',
}


@pytest.mark.parametrize("where", [CREATE, UPDATE, ACTION, RESTORES], ids=lambda w: w[1])
@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_body_is_400(api: Api, known: Known, where: tuple[str, str], kind: str) -> None:
    before = api.contents()
    name, code, message = fault(send(api, where, MALFORMED[kind], known.backup_id))
    assert (name, code) == ("badRequest", 400)
    assert message.startswith("Invalid input for field ")
    assert api.contents() == before


def test_body_of_10_mb_is_413_and_changes_nothing(api: Api, known: Known) -> None:
    before = api.contents()
    data = json.dumps({"share_backup": {"name": "x" * 10_000_000}}).encode()
    assert fault(send(api, UPDATE, data, known.backup_id))[:2] == ("overLimit", 413)
    assert api.contents() == before


QUOTAS: list[tuple[Any, str]] = [
    ({}, "body"),
    ({"quota_set": {}}, "quota_set"),
    ({"quota_set": {"force": True}}, "quota_set"),
    ({"quota_set": {"backups": "5"}}, "quota_set.backups"),
    ({"quota_set": {"backups": -2}}, "quota_set.backups"),
    ({"quota_set": {"backups": 2**31}}, "quota_set.backups"),
    ({"quota_set": {"backups": 1.5}}, "quota_set.backups"),
    ({"quota_set": {"backups": 1e308}}, "quota_set.backups"),
    ({"quota_set": {"backups": None}}, "quota_set.backups"),
    ({"quota_set": {"backups": True}}, "quota_set.backups"),
    ({"quota_set": {"backup_gigabytes": []}}, "quota_set.backup_gigabytes"),
    ({"quota_set": {"backups": 1, "force": "yes"}}, "quota_set.force"),
    ({"quota_set": {"backups": 1, "shares": 5}}, "quota_set.shares"),
]


@pytest.mark.parametrize(("body", "field"), QUOTAS)
def test_wrong_quota_is_400_that_names_the_field(api: Api, body: Any, field: str) -> None:
    before = api.contents()
    name, code, message = fault(api.call("PUT", "/quota-sets/p-one", body, who=ADMIN))
    assert (name, code) == ("badRequest", 400)
    assert message.startswith(f"Invalid input for field {field}: ")
    assert api.contents() == before


# --- by property ----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(body=st.dictionaries(st.sampled_from(["share_backup", "restore", "cancel", "x"]), JSON))
@settings(max_examples=60, deadline=None)
def test_no_json_object_gets_more_than_a_4xx(api: Api, body: Any) -> None:
    before = api.contents()
    data = json.dumps(body).encode()
    for where in (CREATE, ACTION, RESTORES):
        answer = send(api, where, data, "4f1e9a52-0000-4000-8000-000000000000")
        assert 400 <= fault(answer)[1] < 500
    assert api.contents() == before


@given(text=st.text(alphabet=st.characters(exclude_categories=[])))
def test_text_is_taken_exactly_when_it_can_be_stored(text: str) -> None:
    storable = "\0" not in text
    try:
        text.encode()
    except UnicodeEncodeError:
        storable = False
    if storable:
        validation.check_text({"a": [text]})
    else:
        with pytest.raises(exception.InvalidInput, match=r"a\[0\]"):
            validation.check_text({"a": [text]})


@given(path=st.lists(st.text(alphabet=st.characters(exclude_categories=[])) | st.integers(0, 9)))
def test_paths_in_messages_are_printable(path: list[Any]) -> None:
    shown = validation.join("body", path)
    assert shown.isascii()
    assert shown.isprintable()
