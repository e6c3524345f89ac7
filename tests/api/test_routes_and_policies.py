# SPDX-License-Identifier: Apache-2.0
"""Every line of the route table: its policies exist, are asked, and are documented."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from typing import Any

import pytest
from oslo_config import cfg
from oslo_policy import generator

from manila_backup import policies
from manila_backup.api.route import Action, Route
from manila_backup.api.routes import ROUTES
from tests.api.harness import ADMIN, NOBODY, READER, Api, fault

PUBLIC = {"/", "/v2/"}
WITH_POLICY = [route for route in ROUTES if route.path not in PUBLIC]
ACTIONS = [(route, action) for route in ROUTES for action in route.actions]


@pytest.fixture(scope="module")
def api(standing: Api) -> Api:
    return standing


def names() -> set[str]:
    return {rule.name for rule in policies.list_rules()}


def concrete(path: str) -> str:
    return re.sub(r"<id:[a-z_]+>", "some-id", path)


def title(item: Route | Action) -> str:
    return f"{item.method} {item.path}" if isinstance(item, Route) else item.name


@pytest.mark.parametrize("route", WITH_POLICY, ids=title)
def test_every_route_has_policies_that_exist(route: Route) -> None:
    assert route.policies
    assert set(route.policies) <= names()


def test_only_version_documents_are_public() -> None:
    assert {route.path for route in ROUTES if not route.policies} == PUBLIC


def valid_body(schema: Any) -> Any:
    """The smallest body that the schema takes."""
    if "properties" in schema:
        return {key: valid_body(schema["properties"][key]) for key in schema["required"]}
    if "enum" in schema:
        return schema["enum"][0]
    return None if schema.get("type") != "string" else "x"


@pytest.mark.parametrize("route", [r for r in WITH_POLICY if r.handler], ids=title)
def test_every_route_asks_its_policy_before_anything_else(api: Api, route: Route) -> None:
    body = None if route.body_schema is None else valid_body(route.body_schema)
    path = concrete(route.path)
    before = api.contents()
    assert fault(api.call(route.method, path, body, who=NOBODY))[:2] == ("forbidden", 403)
    if body is not None:
        refused = api.call(route.method, path, {"wrong": 1}, who=NOBODY)
        assert fault(refused)[1] == 403
    assert api.contents() == before
    assert api.call(route.method, path, body, who=ADMIN).status_code != 403


@pytest.mark.parametrize(("route", "action"), ACTIONS, ids=title)
def test_every_action_asks_its_policy(api: Api, route: Route, action: Action) -> None:
    path = concrete(route.path)
    low, high = action.min_version, action.max_version
    body = {action.name: valid_body(action.value_schema)}
    for major, minor in (low, high):
        version = f"{major}.{minor}"
        refused = api.call(route.method, path, body, who=NOBODY, version=version)
        assert fault(refused)[:2] == ("forbidden", 403)
        granted = api.call(route.method, path, body, who=ADMIN, version=version)
        assert granted.status_code == 404  # some-id


@pytest.mark.parametrize("route", [r for r in WITH_POLICY if r.method != "GET"], ids=title)
def test_readers_change_nothing(api: Api, route: Route) -> None:
    bodies = [{a.name: valid_body(a.value_schema)} for a in route.actions]
    if route.body_schema is not None:
        bodies = [valid_body(route.body_schema)]
    for body in bodies or [None]:
        answer = api.call(route.method, concrete(route.path), body, who=READER)
        assert fault(answer)[1] == 403


def test_every_share_backup_route_is_experimental_from_2_80() -> None:
    for route in ROUTES:
        if route.path.startswith("/share-backups"):
            assert route.experimental
            assert route.min_version == (2, 80)
            assert all(action.experimental for action in route.actions)


def test_every_rule_names_an_operation_and_a_scope() -> None:
    for rule in policies.list_rules():
        assert rule.scope_types == ["project"], rule.name
        assert rule.description, rule.name
        if ":" in rule.name:
            assert rule.operations, rule.name


def test_no_rule_twice() -> None:
    found = [rule.name for rule in policies.list_rules()]
    assert len(found) == len(set(found))


def test_sample_generator_finds_the_rules() -> None:
    printed = io.StringIO()
    with redirect_stdout(printed):
        generator.generate_sample(["--namespace", "manila_backup"], cfg.ConfigOpts())
    for name in names():
        assert f'"{name}":' in printed.getvalue()


def test_policy_file_of_the_site_wins(make_api: Any, tmp_path: Any) -> None:
    (tmp_path / "policy.yaml").write_text('"share_backup:create": "role:backup_operator"\n')
    (tmp_path / "my.conf").write_text(f"[oslo_policy]\npolicy_file = {tmp_path}/policy.yaml\n")
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(tmp_path / "my.conf")], default_config_dirs=[])
    api = make_api(conf=conf)
    body = {"share_backup": {"share_id": api.share()}}
    assert api.call("POST", "/share-backups", body).status_code == 403
    operator = "bob:p-one:backup_operator"
    assert api.call("POST", "/share-backups", body, who=operator).status_code == 202


def test_entry_point_enforcer_has_the_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    enforcer = policies.get_enforcer()
    assert names() <= set(enforcer.registered_rules)
