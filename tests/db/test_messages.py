# SPDX-License-Identifier: Apache-2.0
"""User messages: each project its own, newest first, for thirty days."""

from __future__ import annotations

from typing import Any

import pytest

from manila_backup import exception
from manila_backup.db import messages
from manila_backup.db.engine import Database
from manila_backup.db.messages import Message
from tests.db.builders import NOON_US, OTHER_PROJECT, PROJECT, FakeClock, committed, ids

S = 1_000_000

pytestmark = pytest.mark.every_database


def put_message(database: Database, **changes: Any) -> Message:
    ordinary: dict[str, Any] = {
        "project_id": PROJECT,
        "request_id": "req-1",
        "resource_id": "backup-1",
        "action_id": "101",
        "detail_id": "101",
        "user_message": "create backup: ä",
    }
    with database.writer() as session:
        return messages.create(session, **(ordinary | changes))


def find(database: Database, **where: Any) -> list[str]:
    with database.reader() as session:
        return ids(messages.find(session, **({"project_id": PROJECT} | where)))


def test_what_was_told_is_read_back(database: Database, clock: FakeClock) -> None:
    made = put_message(database)
    assert made == Message(
        id=made.id,
        project_id=PROJECT,
        request_id="req-1",
        resource_type="SHARE_BACKUP",
        resource_id="backup-1",
        action_id="101",
        detail_id="101",
        message_level="ERROR",
        user_message="create backup: ä",
        created_at_us=NOON_US,
        expires_at_us=NOON_US + 30 * 24 * 3600 * S,
    )
    with database.reader() as session:
        assert messages.get(session, made.id, project_id=PROJECT) == made
        assert messages.get(session, made.id, project_id=None) == made
        assert messages.find(session, project_id=PROJECT) == [made]


def test_projects_are_kept_apart(database: Database) -> None:
    mine = put_message(database)
    foreign = put_message(database, project_id=OTHER_PROJECT)
    assert find(database) == [mine.id]
    assert set(find(database, project_id=None)) == {mine.id, foreign.id}
    before = committed(database)
    with pytest.raises(exception.MessageNotFound), database.reader() as session:
        messages.get(session, foreign.id, project_id=PROJECT)
    with pytest.raises(exception.MessageNotFound), database.writer() as session:
        messages.remove(session, foreign.id, project_id=PROJECT)
    assert committed(database) == before


def test_newest_first_in_pages(database: Database, clock: FakeClock) -> None:
    made = []
    for number in range(7):
        made.append(put_message(database).id)
        clock.advance(number % 2)  # some at the same time
    whole = find(database)
    assert set(whole) == set(made)
    with database.reader() as session:
        times = [message.created_at_us for message in messages.find(session, project_id=PROJECT)]
    assert times == sorted(times, reverse=True)
    paged: list[str] = []
    for _ in whole:
        paged += find(database, limit=2, offset=len(paged))
    assert paged == whole
    assert find(database, offset=5) == whole[5:]
    assert find(database, limit=0) == []


@pytest.mark.parametrize(
    "name",
    ["resource_id", "resource_type", "request_id", "action_id", "detail_id", "message_level"],
)
def test_filters(database: Database, name: str) -> None:
    put_message(database)
    wanted = put_message(database, **{name: "other"})
    assert find(database, **{name: "other"}) == [wanted.id]
    assert find(database, **{name: "none"}) == []
    assert len(find(database, **{name: None})) == 2


def test_filters_add_up(database: Database) -> None:
    put_message(database, action_id="102")
    put_message(database, detail_id="102")
    both = put_message(database, action_id="102", detail_id="102")
    assert find(database, action_id="102", detail_id="102") == [both.id]


@pytest.mark.parametrize("project_id", [PROJECT, None])
def test_remove_is_for_one_and_once(database: Database, project_id: str | None) -> None:
    kept, gone = put_message(database), put_message(database)
    with database.writer() as session:
        messages.remove(session, gone.id, project_id=project_id)
    assert find(database) == [kept.id]
    with pytest.raises(exception.MessageNotFound), database.writer() as session:
        messages.remove(session, gone.id, project_id=project_id)
    with pytest.raises(exception.MessageNotFound), database.reader() as session:
        messages.get(session, gone.id, project_id=project_id)


def test_purge_takes_what_has_expired_by_the_databases_clock(
    database: Database, clock: FakeClock
) -> None:
    old = put_message(database)
    clock.advance(60)
    young = put_message(database)
    for now_us, left in (
        (old.expires_at_us, [young.id, old.id]),
        (old.expires_at_us + 1, [young.id]),
        (young.expires_at_us + 1, []),
    ):
        clock.now_us = now_us
        with database.writer() as session:
            messages.purge(session)
        assert find(database) == left
