# SPDX-License-Identifier: Apache-2.0
"""The samples of the REST reference are what the service says.

One scenario goes through every request of the route table; bodies and answers are compared with
``doc/samples/``, ids replaced by others that are always the same, times the fake clock's. After a
change of the API: ``MANILA_BACKUP_WRITE_SAMPLES=1 python -m pytest tests/api/test_samples.py``
writes them anew, and the diff is what has changed for clients.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from rest_samples import ERRORS, SAMPLES, Exchange, exchanges, sample_names
from werkzeug.test import TestResponse

from manila_backup import exception
from manila_backup.api.openapi import ERROR
from manila_backup.api.routes import ROUTES
from manila_backup.db import operations
from manila_backup.db.engine import Database
from manila_backup.states import Phase
from manila_backup.types import Counters
from tests.api.harness import ADMIN, P1, Api
from tests.db.builders import FakeClock

GIB = 2**30
WRITE = "MANILA_BACKUP_WRITE_SAMPLES"
EXCHANGES = {exchange.name: exchange for exchange in exchanges(ROUTES)}
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BACKUP = "share-backups-backup_id"
QUOTA = "quota-sets-quota_project_id"


@dataclass(kw_only=True)
class Recorder:
    """Sends requests by the names of their samples and remembers what went over the wire."""

    api: Api
    clock: FakeClock
    bodies: dict[str, Any] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)

    def send(self, name: str, body: Any = None, *, query: str = "", **more: Any) -> Any:
        """The parsed answer of a request that is granted. ``more`` are the ids in its path, and
        what :meth:`Api.call` takes."""
        exchange = EXCHANGES[name]
        ids = {key: more.pop(key) for key in list(more) if f"{{{key}}}" in exchange.path}
        answer = self._call(exchange, exchange.path.format(**ids) + query, body, **more)
        assert answer.status_code == exchange.status, answer.text
        self.done.add(name)
        if body is not None:
            self.bodies[f"{name}-request"] = body
        if exchange.response_schema is None:
            assert answer.data == b""
            return None
        self.bodies[f"{name}-response"] = answer.json
        return answer.json

    def _call(self, exchange: Exchange, path: str, body: Any, **more: Any) -> TestResponse:
        self.clock.advance(60)
        if exchange.route.unversioned:
            assert (body, more) == (None, {})
            return self.api.client.open(path, method=exchange.route.method)
        return self.api.call(exchange.route.method, path.removeprefix("/v2"), body, **more)

    def error(self, name: str, answer: TestResponse) -> None:
        assert name == f"error-{answer.status_code}"
        self.bodies[name] = answer.json

    def normalised(self) -> dict[str, Any]:
        """What was recorded, with the same ids in every run."""
        known: dict[str, str] = {}

        def always_the_same(found: re.Match[str]) -> str:
            number = f"manila_backup sample {len(known)}"
            return known.setdefault(found[0], str(uuid.uuid5(uuid.NAMESPACE_OID, number)))

        text = UUID.sub(always_the_same, json.dumps(self.bodies))
        return dict(json.loads(text))


@pytest.fixture
def recorder(database: Database, make_api: Callable[..., Api]) -> Recorder:
    clock = FakeClock(database)
    return Recorder(api=make_api(public_endpoint="https://share.example.org"), clock=clock)


def progress(wire: Recorder, backup_id: str) -> None:
    """A data node has taken the backup's operation and is in the middle of it."""
    held = wire.api.claim(backup_id)
    wire.clock.advance(60)
    counters = operations.dump_counters(Counters(files=1204, directories=77, bytes=48103424))
    wire.api.database.write(
        lambda session: operations.note(
            session,
            held,
            phase=Phase.COPYING,
            progress=41,
            progress_source="bytes",
            counters=counters,
        )
    )


def discover(wire: Recorder) -> None:
    wire.send("get-root")
    wire.send("get-v2")


def back_up(wire: Recorder) -> tuple[str, str]:
    """Two backups of one share; the ids of the share and of the newer one."""
    api = wire.api
    share = api.share(availability_zone="nova")
    api.available(share, name="sunday")
    wanted = {"share_id": share, "name": "monday", "description": "before the upgrade"}
    body = {"share_backup": wanted | {"backup_options": {}}}
    made = wire.send("post-share-backups", body)["share_backup"]
    progress(wire, made["id"])
    wire.send("get-share-backups-backup_id-operations", backup_id=made["id"])
    held = api.active(made["id"])
    assert held is not None
    wire.clock.advance(60)
    api.complete(made["id"], held)
    wire.send("get-share-backups", query="?limit=1")
    wire.send("get-share-backups-detail", query="?limit=1")
    wire.send(f"get-{BACKUP}", backup_id=made["id"])
    changes = {"name": "monday, 9 o'clock", "description": None}
    wire.send(f"put-{BACKUP}", {"share_backup": changes}, backup_id=made["id"])
    return share, str(made["id"])


def restore(wire: Recorder, backup_id: str) -> None:
    api, action = wire.api, f"post-{BACKUP}-action"
    wire.send(f"{action}-restore", {"restore": None}, backup_id=backup_id, version="2.90")
    api.finish(backup_id)
    target = api.share(name="another")
    wire.send(f"{action}-restore-2.91", {"restore": target}, backup_id=backup_id)
    api.finish(backup_id)
    body = {"restore": {"mode": "merge", "target_share_id": None}}
    wire.send(f"post-{BACKUP}-restores", body, backup_id=backup_id)
    wire.send(f"{action}-cancel", {"cancel": None}, backup_id=backup_id)


def be_told(wire: Recorder, share: str) -> None:
    """A backup fails; its user message is read and deleted."""
    api = wire.api
    failed = api.create(share, name="tuesday")
    full = exception.NotEnoughSpace(where="the backup share", needed=17 * GIB, free=3 * GIB)
    api.fail(failed, str(full))
    listed = wire.send("get-messages", query=f"?resource_id={failed}")["messages"]
    wire.send("get-messages-message_id", message_id=listed[0]["id"])
    wire.send("delete-messages-message_id", message_id=listed[0]["id"])


def limit(wire: Recorder) -> None:
    project = {"quota_project_id": P1}
    wire.send(f"get-{QUOTA}-defaults", **project)
    wire.send("get-limits")
    body = {"quota_set": {"backups": 3, "backup_gigabytes": 500}}
    wire.send(f"put-{QUOTA}", body, who=ADMIN, **project)
    wire.send(f"get-{QUOTA}", **project)
    wire.send(f"get-{QUOTA}-detail", **project)
    body = {"share_backup": {"share_id": wire.api.share()}}
    wire.error("error-413", wire.api.call("POST", "/share-backups", body))
    wire.send(f"delete-{QUOTA}", who=ADMIN, **project)


def end(wire: Recorder, backup_id: str) -> None:
    body = {"reset_status": {"status": "error"}}
    wire.send(f"post-{BACKUP}-action-reset_status", body, backup_id=backup_id, who=ADMIN)
    wire.send(f"delete-{BACKUP}", backup_id=backup_id)
    wire.api.finish(backup_id)
    wire.error("error-404", wire.api.call("GET", f"/share-backups/{backup_id}"))


@pytest.fixture
def recorded(recorder: Recorder) -> dict[str, Any]:
    """Bodies and answers of the whole scenario, by the names of their samples."""
    discover(recorder)
    share, backup_id = back_up(recorder)
    restore(recorder, backup_id)
    be_told(recorder, share)
    limit(recorder)
    end(recorder, backup_id)
    assert recorder.done == set(EXCHANGES), "a request of the route table is not in the scenario"
    return recorder.normalised()


def written(name: str, body: Any) -> str:
    return json.dumps(body, indent=2) + "\n"


def test_samples_are_what_the_service_says(recorded: dict[str, Any]) -> None:
    if os.environ.get(WRITE):
        SAMPLES.mkdir(exist_ok=True)
        for old in SAMPLES.iterdir():
            old.unlink()
        for name, body in recorded.items():
            (SAMPLES / f"{name}.json").write_text(written(name, body))
    found = {path.stem: path.read_text() for path in SAMPLES.glob("*.json")}
    assert found == {name: written(name, body) for name, body in recorded.items()}


def test_there_is_a_sample_of_each_body_and_no_other() -> None:
    assert {path.name for path in SAMPLES.iterdir()} == {
        f"{name}.json" for name in sample_names(ROUTES)
    }


def schemas() -> dict[str, Any]:
    """Sample -> what it has to be."""
    found: dict[str, Any] = dict.fromkeys(ERRORS, ERROR)
    for exchange in EXCHANGES.values():
        if exchange.request_sample is not None:
            found[exchange.request_sample] = exchange.request_schema
        if exchange.response_sample is not None:
            found[exchange.response_sample] = exchange.response_schema
    return found


@pytest.mark.parametrize("name", sorted(schemas()))
def test_sample_is_valid(name: str) -> None:
    sample = json.loads((SAMPLES / f"{name}.json").read_text())
    Draft202012Validator(schemas()[name]).validate(sample)


def test_samples_have_no_keys_of_administrators(recorded: dict[str, Any]) -> None:
    """They are a member's, but for what only administrators may."""
    assert "host" not in recorded[f"get-{BACKUP}-response"]["share_backup"]
