# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document, and the service held against it by generated requests."""

from __future__ import annotations

import itertools
import re
import warnings
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from manila_backup.api import openapi
from manila_backup.api.routes import ROUTES
from tests.api.harness import ADMIN, LATEST, Api

pytestmark = pytest.mark.slow

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

DOCUMENT = openapi.build((*ROUTES, *openapi.routes(ROUTES)))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
OPERATIONS = [(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item]
MEMBER = "ann:p-one:member"
TOKENS = (MEMBER, MEMBER, ADMIN, "rita:p-one:reader", "otto:p-two:member", "rubbish")


def test_document_is_valid_openapi() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_document_is_served_without_a_token(standing: Api) -> None:
    answer = standing.client.get("/v2/openapi.json", headers={"X-Auth-Token": "rubbish"})
    assert answer.json == DOCUMENT


def test_document_has_every_route() -> None:
    for route in ROUTES:
        shown = re.sub(r"<id:([a-z_]+)>", r"{\1}", route.path)
        path = shown if route.unversioned else f"/v2{shown}"
        operation = DOCUMENT["paths"][path][route.method.lower()]
        assert all(policy in operation["description"] for policy in route.policies)
        assert (route.policies != ()) == ("security" in operation)
        bodies = str(operation.get("requestBody"))
        assert all(action.name in bodies for action in route.actions)


def test_operation_ids_are_unique() -> None:
    ids = [
        operation["operationId"]
        for item in DOCUMENT["paths"].values()
        for operation in item.values()
    ]
    assert len(set(ids)) == len(ids)


def _populate(api: Api) -> None:
    """Backups in every status, so that generated requests meet something."""
    # Generated requests before these may have set one.
    api.call("DELETE", "/quota-sets/p-one", who=ADMIN)
    if len(api.call("GET", "/share-backups?status=available").json["share_backups"]) > 5:
        return
    for _ in range(3):
        backup_id = api.available(api.share())
        api.call("POST", f"/share-backups/{backup_id}/restores", {"restore": {"mode": "merge"}})
        api.create(api.share())
        api.fail(api.create(api.share()))
        for _ in range(3):
            api.available(api.share())


def _ids(api: Api, path: str, key: str) -> list[str]:
    return [item["id"] for item in api.call("GET", path, who=ADMIN).json[key]]


class Aim:
    """Gives generated requests what makes them reach the handlers, more often than not.

    Without it nearly all of them would end at a random version or an id that nobody has.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self.counter = itertools.count()
        self.backups = _ids(api, "/share-backups?all_tenants=1", "share_backups")
        self.messages = _ids(api, "/messages", "messages")
        # A turn of its own: by the request's number, some would always meet the same user.
        self.shares = itertools.cycle(share.id for share in api.store.shares())

    def at(self, case: Any) -> None:
        """Change the generated case in place; which way goes round and round."""
        number = next(self.counter)
        case.headers = dict(case.headers or {})
        case.headers["X-Auth-Token"] = TOKENS[number % len(TOKENS)]
        if number % 8:
            case.headers["X-OpenStack-Manila-API-Version"] = (LATEST, "2.80", "2.90")[number % 3]
            case.headers["X-OpenStack-Manila-API-Experimental"] = "true"
        known = {"backup_id": self.backups, "message_id": self.messages}
        for name, values in known.items():
            if name in case.path_parameters and number % 4:
                case.path_parameters[name] = values[number % len(values)]
        if "quota_project_id" in case.path_parameters and number % 4:
            case.path_parameters["quota_project_id"] = ("p-one", "p-two")[number % 2]
        self._aim_body(case.body, number)

    def _aim_body(self, body: Any, number: int) -> None:
        wanted = body.get("share_backup") if isinstance(body, dict) else None
        if isinstance(wanted, dict) and "share_id" in wanted and number % 2:
            wanted["share_id"] = next(self.shares)
            wanted.pop("backup_options", None)


def _run(api: Api, method: str, path: str, examples: int) -> list[int]:
    """Send that many generated requests of one operation; the statuses of the answers."""
    _populate(api)
    schema = schemathesis.openapi.from_wsgi("/v2/openapi.json", api.app)
    operation = schema[path][method]
    aim = Aim(api)
    statuses: list[int] = []
    modes = schemathesis.GenerationMode
    strategy = st.one_of(
        operation.as_strategy(generation_mode=modes.POSITIVE),
        operation.as_strategy(generation_mode=modes.NEGATIVE),
    )

    @given(case=strategy)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def send(case: Any) -> None:
        aim.at(case)
        response = case.call()
        statuses.append(response.status_code)
        case.validate_response(response, checks=CHECKS)

    send()
    return statuses


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_generated_requests_are_answered_as_documented(
    standing: Api, method: str, path: str
) -> None:
    _run(standing, method, path, examples=6)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_200_generated_requests_are_answered_as_documented(
    standing: Api, method: str, path: str
) -> None:
    statuses = _run(standing, method, path, examples=200)
    # What has no parameters can be asked in one way only.
    alone = not DOCUMENT["paths"][path][method.lower()]["parameters"]
    assert len(statuses) >= (1 if alone else 200)
    # They have not all ended at the door.
    assert any(status < 400 for status in statuses)
