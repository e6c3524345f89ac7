# SPDX-License-Identifier: Apache-2.0
"""The real application with the shares API, over real directories and a real database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from werkzeug.routing import Map, Rule
from werkzeug.test import Client, TestResponse

from manila_backup.api.app import build_app
from manila_backup.api.local.routes import build_routes
from manila_backup.api.local.service import over_database
from manila_backup.api.route import RouteTable
from manila_backup.api.wsgi import IdConverter
from tests.api.harness import LATEST, MEMBER, Api


class Later:
    """Jobs for the background, run when the test says so; at once unless ``paused``."""

    def __init__(self) -> None:
        self.paused = False
        self._waiting: list[Callable[[], object]] = []

    def __call__(self, job: Callable[[], object]) -> None:
        self._waiting.append(job)
        if not self.paused:
            self.run()

    def run(self) -> None:
        while self._waiting:
            self._waiting.pop(0)()


class SharesApi:
    """Requests to the service; every successful answer is held against its route's schema."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.store = api.store
        self.later = Later()
        self.local = over_database(api.provider, api.database, self.later)
        self.routes: RouteTable = build_routes(self.local)
        self.app = build_app(
            api.settings, api.database, api.provider, api.waker, extra_routes=self.routes
        )
        api.app = self.app
        api.client = Client(self.app)
        self._map = Map(
            [Rule(route.path, methods=[route.method], endpoint=route) for route in self.routes],
            converters={"id": IdConverter},
        ).bind("localhost")

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        who: str = MEMBER,
        version: str = LATEST,
        headers: Mapping[str, str] | None = None,
    ) -> TestResponse:
        answer = self.api.call(
            method, path, body, who=who, version=version, experimental=False, headers=headers
        )
        if answer.status_code < 300:
            self._check(method, path, body, answer)
        return answer

    def _check(self, method: str, path: str, body: Any, answer: TestResponse) -> None:
        route, _ = self._map.match(path.partition("?")[0], method=method)
        wanted = route
        if route.actions:
            (name,) = body
            wanted = next(action for action in route.actions if action.name == name)
        assert answer.status_code == wanted.status
        if wanted.response_schema is None:
            assert answer.data == b""
        else:
            Draft202012Validator(wanted.response_schema).validate(answer.json)

    def ok(self, method: str, path: str, body: Any = None, *, who: str = MEMBER) -> Any:
        """The answer's body, of a request that must succeed."""
        answer = self.call(method, path, body, who=who)
        assert answer.status_code < 300, answer.text
        return answer.json if answer.data else None

    def create(self, *, who: str = MEMBER, **values: Any) -> dict[str, Any]:
        """Create a share; its view."""
        body = {"share": {"size": 1, "share_proto": "NFS", **values}}
        shown: dict[str, Any] = self.ok("POST", "/shares", body, who=who)["share"]
        return shown

    def act(self, share_id: str, action: str, value: Any = None, *, who: str = MEMBER) -> Any:
        return self.call("POST", f"/shares/{share_id}/action", {action: value}, who=who)

    def status(self, share_id: str) -> str:
        return str(self.ok("GET", f"/shares/{share_id}")["share"]["status"])

    def names(self, query: str = "", *, who: str = MEMBER) -> list[str]:
        """Names of the shares listed; the short and the detailed listing agree."""
        found = [
            [share["name"] for share in self.ok("GET", f"{path}{query}", who=who)["shares"]]
            for path in ("/shares", "/shares/detail")
        ]
        assert found[0] == found[1]
        return found[0]

    def snapshot(self, share_id: str, *, who: str = MEMBER, **values: Any) -> dict[str, Any]:
        body = {"snapshot": {"share_id": share_id, **values}}
        shown: dict[str, Any] = self.ok("POST", "/snapshots", body, who=who)["snapshot"]
        return shown

    def allow(self, share_id: str, address: str = "10.0.0.1", **values: Any) -> dict[str, Any]:
        answer = self.act(
            share_id, "allow_access", {"access_type": "ip", "access_to": address, **values}
        )
        assert answer.status_code == 200, answer.text
        rule: dict[str, Any] = answer.json["access"]
        return rule
