# SPDX-License-Identifier: Apache-2.0
"""Every rule of the service with tokens of a real Keystone, which the real middleware checks: who
may, who may not.

A token of the whole system is of no use here, as in Manila: what there is belongs to projects, and
administrators are so by a role in any of them. The role ``service`` alone allows nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from manila_backup import policies
from manila_backup.api.options import Settings
from manila_backup.db import messages
from manila_backup.policies import base, shares
from tests.api.harness import Api
from tests.cloud.keystone import Keystone
from tests.cloud.users import (
    ADMIN,
    ALT_DEMO,
    DEMO,
    DEMO_READER,
    DOMAIN,
    PASSWORD,
    SERVICE,
    SYSTEM_ADMIN,
    SYSTEM_READER,
    User,
)

pytestmark = [pytest.mark.full, pytest.mark.acceptance]

ONLY_SERVICE = User(name="only_service", project="service", roles=("service",))
GUEST = User(name="guest", project="demo", roles=("guest",))
DEMO_ADMIN = User(name="demo_admin", project="demo", roles=("admin",))

ADMINS = frozenset({ADMIN, DEMO_ADMIN, SERVICE})
MEMBERS = ADMINS | {DEMO}
READERS = MEMBERS | {DEMO_READER}
NOBODIES = frozenset({GUEST, ONLY_SERVICE, SYSTEM_ADMIN, SYSTEM_READER})
WHO = sorted(READERS | NOBODIES | {ALT_DEMO}, key=lambda user: user.name)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What belongs to the project demo. ``maker`` makes it: the same service, which asks nobody
    for a token of Keystone."""

    api: Api
    maker: Api
    tokens: dict[User, str]
    project_id: str

    def share(self) -> str:
        return self.maker.share(self.project_id)

    def backup(self) -> str:
        return self.maker.available(self.share(), who=f"demo:{self.project_id}:member")

    def creating(self) -> str:
        return self.maker.create(self.share(), who=f"demo:{self.project_id}:member")

    def message(self) -> str:
        def write(session: Any) -> str:
            return messages.create(
                session,
                project_id=self.project_id,
                request_id=None,
                resource_id="6f0e9a9c-2f0e-4f57-8a39-5b3d1c7e2a10",
                action_id="001",
                detail_id="001",
                user_message="It did not work.",
            ).id

        return self.maker.database.write(write)

    def ask(self, who: User, method: str, path: str, body: Any = None) -> Any:
        return self.api.call(method, path, body, who=self.tokens[who])


@pytest.fixture(scope="module")
def tokens(keystone: Keystone) -> dict[User, str]:
    for user in (ONLY_SERVICE, GUEST, DEMO_ADMIN):
        keystone.add_user(user)
    return {user: keystone.token(user) for user in WHO}


def configured(keystone: Keystone, directory: Path) -> cfg.ConfigOpts:
    """As an operator does it."""
    path = directory / "manila-backup.conf"
    path.write_text(
        f"""\
[keystone_authtoken]
www_authenticate_uri = {keystone.url}
auth_url = {keystone.url}
auth_type = password
username = {SERVICE.name}
password = {PASSWORD}
project_name = {SERVICE.project}
user_domain_id = {DOMAIN}
project_domain_id = {DOMAIN}
service_token_roles = service
service_token_roles_required = true
"""
    )
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(path)], default_config_dirs=[])
    return conf


@pytest.fixture
def scene(
    keystone: Keystone, tokens: dict[User, str], make_api: Callable[..., Api], tmp_path: Path
) -> Scene:
    maker = make_api()
    settings = Settings(auth_strategy="keystone")
    conf = configured(keystone, tmp_path)
    api = replace(maker, settings=settings, conf=conf)
    project_id = keystone.project_id("demo")
    return Scene(api=api, maker=maker, tokens=tokens, project_id=project_id)


Ask = Callable[[Scene], tuple[Any, ...]]
"""Method, path and body of a request for what is demo's."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Who may is answered with ``ok``, a member of another project with ``foreign``, all others
    with 403."""

    ask: Ask
    may: frozenset[User]
    ok: int
    foreign: int


def _action(name: str, value: Any) -> Callable[[str], tuple[Any, ...]]:
    return lambda backup_id: ("POST", f"/share-backups/{backup_id}/action", {name: value})


def _of_backup(may: frozenset[User], ok: int, request: Callable[[str], tuple[Any, ...]]) -> Case:
    return Case(ask=lambda scene: request(scene.backup()), may=may, ok=ok, foreign=404)


def _of_quota(may: frozenset[User], method: str, ok: int, body: Any = None) -> Case:
    def ask(scene: Scene) -> tuple[Any, ...]:
        return method, f"/quota-sets/{scene.project_id}", body

    return Case(ask=ask, may=may, ok=ok, foreign=403)


def _new(scene: Scene) -> tuple[Any, ...]:
    return "POST", "/share-backups", {"share_backup": {"share_id": scene.share()}}


CASES = {
    "share_backup:create": Case(ask=_new, may=MEMBERS, ok=202, foreign=404),
    "share_backup:get": _of_backup(READERS, 200, lambda one: ("GET", f"/share-backups/{one}")),
    "share_backup:get_all": Case(
        ask=lambda scene: ("GET", "/share-backups/detail"), may=READERS, ok=200, foreign=200
    ),
    "share_backup:update": _of_backup(
        MEMBERS, 200, lambda one: ("PUT", f"/share-backups/{one}", {"share_backup": {"name": "x"}})
    ),
    "share_backup:delete": _of_backup(
        MEMBERS, 202, lambda one: ("DELETE", f"/share-backups/{one}")
    ),
    "share_backup:restore": _of_backup(MEMBERS, 202, _action("restore", None)),
    "share_backup:cancel": Case(
        ask=lambda scene: _action("cancel", None)(scene.creating()),
        may=MEMBERS,
        ok=202,
        foreign=404,
    ),
    "share_backup:reset_status": Case(
        ask=lambda scene: _action("reset_status", {"status": "error"})(scene.backup()),
        may=ADMINS,
        ok=202,
        foreign=403,
    ),
    "share_backup:operations": _of_backup(
        READERS, 200, lambda one: ("GET", f"/share-backups/{one}/operations")
    ),
    "quota_set:show": _of_quota(READERS, "GET", 200),
    "quota_set:update": _of_quota(ADMINS, "PUT", 200, {"quota_set": {"backups": 5}}),
    "quota_set:delete": _of_quota(ADMINS, "DELETE", 202),
    "limits:get": Case(ask=lambda scene: ("GET", "/limits"), may=READERS, ok=200, foreign=200),
    "message:get": Case(
        ask=lambda scene: ("GET", f"/messages/{scene.message()}"),
        may=READERS,
        ok=200,
        foreign=404,
    ),
    "message:get_all": Case(
        ask=lambda scene: ("GET", "/messages"), may=READERS, ok=200, foreign=200
    ),
    "message:delete": Case(
        ask=lambda scene: ("DELETE", f"/messages/{scene.message()}"),
        may=MEMBERS,
        ok=204,
        foreign=404,
    ),
}

WITHIN_REQUESTS = {
    "share_backup:get_all_project",
    "share_backup:get_host",
    "share_backup:delete_any_status",
}
"""Rules that decide what a request means: each has a test of its own below."""


def test_every_rule_is_here() -> None:
    """The rules of the standalone service's own shares aside: beside a Manila there are none."""
    aside = {rule.name for rule in (*base.list_rules(), *shares.list_rules())}
    assert {rule.name for rule in policies.list_rules()} - aside == set(CASES) | WITHIN_REQUESTS


@pytest.mark.parametrize("name", CASES)
def test_who_may_and_who_may_not(scene: Scene, name: str) -> None:
    case = CASES[name]
    answered, expected = {}, {}
    for who in WHO:
        expected[who.name] = case.ok if who in case.may else 403
        if who == ALT_DEMO:
            expected[who.name] = case.foreign
        answered[who.name] = scene.ask(who, *case.ask(scene)).status_code
    assert answered == expected


def test_only_administrators_see_what_is_every_projects(scene: Scene) -> None:
    backup_id = scene.backup()
    for who in WHO:
        answer = scene.ask(who, "GET", "/share-backups?all_tenants=1")
        if who in NOBODIES:
            assert answer.status_code == 403, who
            continue
        found = [shown["id"] for shown in answer.json["share_backups"]]
        assert found == ([backup_id] if who in READERS else []), who


def test_only_administrators_see_the_host(scene: Scene) -> None:
    backup_id = scene.backup()
    for who in READERS:
        shown = scene.ask(who, "GET", f"/share-backups/{backup_id}").json["share_backup"]
        assert ("host" in shown) == (who in ADMINS), who


def test_only_administrators_delete_what_is_being_made(scene: Scene) -> None:
    for who in WHO:
        answer = scene.ask(who, "DELETE", f"/share-backups/{scene.creating()}")
        refused = {ALT_DEMO: 404, DEMO: 400}.get(who, 403)
        assert answer.status_code == (202 if who in ADMINS else refused), who


def test_beside_a_services_token_a_users_may_have_ended(
    make_api: Callable[..., Api], tmp_path: Path
) -> None:
    """So that what another service does for a user does not fail for having taken long. Only with
    the role that says that it is a service."""
    token_s = 8
    with Keystone(token_s=token_s) as keystone:
        api = make_api(auth_strategy="keystone", conf=configured(keystone, tmp_path))
        of_demo = keystone.token(DEMO)
        assert api.call("GET", "/limits", who=of_demo).status_code == 200
        time.sleep(token_s + 1)
        assert api.call("GET", "/limits", who=of_demo).status_code == 401
        for who, status in ((SERVICE, 200), (DEMO, 401)):
            beside = {"X-Service-Token": keystone.token(who)}
            answer = api.call("GET", "/limits", who=of_demo, headers=beside)
            assert answer.status_code == status, who
