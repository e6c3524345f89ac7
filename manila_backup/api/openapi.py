# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI 3.1 document, built from the route table and the schemas that requests are checked
with, so it cannot say anything else than what the service does.

Paths are shown without the project id that may stand after ``/v2``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from manila_backup import __name__ as package
from manila_backup.api import versions
from manila_backup.api.errors import CODE_HEADER
from manila_backup.api.request import ApiRequest
from manila_backup.api.route import Action, Route, RouteTable, by_path
from manila_backup.api.schemas.common import obj, wrapped
from manila_backup.api.validation import Schema

PATH = "/v2/openapi.json"
_VARIABLE = re.compile(r"<(?:[a-z]+:)?([a-z_]+)>")

ERROR: dict[str, Any] = {
    "type": "object",
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": obj(
        {
            "code": {"type": "integer"},
            "message": {"type": "string"},
            "retryAfter": {"type": "string"},
        },
        required=("code", "message"),
    ),
}
"""Manila's error body."""


def build(routes: RouteTable) -> dict[str, Any]:
    """The document for this table."""
    paths: dict[str, dict[str, Any]] = {}
    for (path, unversioned), same_path in by_path(routes).items():
        shown = _VARIABLE.sub(r"{\1}", path if unversioned else f"/v2{path}")
        item = paths.setdefault(shown, {})
        for method, same_method in _by_method(same_path).items():
            item[method.lower()] = _operation(shown, same_method)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{package}: share backups",
            "version": versions.text(versions.MAX_VERSION),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": ERROR},
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"}
            },
        },
    }


def routes(table: RouteTable) -> RouteTable:
    """The route that serves the document of ``table`` and of itself."""
    documents: list[dict[str, Any]] = []

    def show(request: ApiRequest) -> dict[str, Any]:
        return documents[0]

    own = Route(
        method="GET",
        path=PATH,
        unversioned=True,
        handler=show,
        response_schema={"type": "object"},
        summary="This document",
    )
    documents.append(build((*table, own)))
    return (own,)


def _by_method(same_path: list[Route]) -> dict[str, list[Route]]:
    found: dict[str, list[Route]] = {}
    for route in same_path:
        found.setdefault(route.method, []).append(route)
    return found


def _operation(path: str, same_method: list[Route]) -> dict[str, Any]:
    """One operation; routes that differ in their versions only are shown as one."""
    first = same_method[0]
    found: dict[str, Any] = {
        "operationId": f"{first.method.lower()}{re.sub('[^A-Za-z0-9]+', '_', path)}".rstrip("_"),
        "summary": first.summary,
        "description": " ".join(_description(route) for route in same_method),
        "parameters": [*_path_parameters(path), *_parameters(same_method)],
        "responses": _responses(same_method),
    }
    bodies = [body for route in same_method for body in _bodies(route)]
    if bodies:
        schema = bodies[0] if len(bodies) == 1 else {"anyOf": bodies}
        found["requestBody"] = {"required": True, "content": _json(schema)}
    if any(route.policies for route in same_method):
        found["security"] = [{"token": []}]
    return found


def _description(route: Route) -> str:
    if route.unversioned:
        return "Needs no version."
    span = f"{versions.text(route.min_version)} to {versions.text(route.max_version)}"
    actions = "".join(
        f" Action {action.name}: {action.summary} ({versions.text(action.min_version)} to "
        f"{versions.text(action.max_version)}; policy {action.policy})."
        for action in route.actions
    )
    policy = f" Policy {route.policy}." if route.policy else ""
    return f"Versions {span}.{policy}{actions}"


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        }
        for name in re.findall(r"{([a-z_]+)}", path)
    ]


def _parameters(same_method: list[Route]) -> list[dict[str, Any]]:
    if all(route.unversioned for route in same_method):
        return []
    found: list[dict[str, Any]] = [
        {
            "name": versions.VERSION_HEADER,
            "in": "header",
            "description": "The version of the API; none is 2.0.",
            "schema": {"type": "string", "pattern": r"^(latest|2\.(0|[1-9][0-9]?))$"},
        }
    ]
    if any(_experimental(route) for route in same_method):
        found.append(
            {
                "name": versions.EXPERIMENTAL_HEADER,
                "in": "header",
                "description": "Without it this does not exist.",
                "schema": {"type": "string", "enum": ["true"]},
            }
        )
    properties: dict[str, Any] = {}
    for route in same_method:
        properties |= route.query_schema.get("properties", {})
    found.extend({"name": name, "in": "query", "schema": properties[name]} for name in properties)
    return found


def _experimental(route: Route) -> bool:
    return route.experimental or any(action.experimental for action in route.actions)


def _bodies(route: Route) -> list[Schema]:
    if route.body_schema is not None:
        return [route.body_schema]
    return [wrapped(action.name, dict(action.value_schema)) for action in route.actions]


def _responses(same_method: list[Route]) -> dict[str, Any]:
    answers: dict[int, list[Route | Action]] = {}
    for route in same_method:
        for answer in route.actions or (route,):
            answers.setdefault(answer.status, []).append(answer)
    found = {str(status): _success(same_status) for status, same_status in answers.items()}
    statuses = {400, 403, 406, 500}
    if any(route.policies for route in same_method):
        statuses |= {401, 404, 503}
    if any(_bodies(route) for route in same_method):
        statuses |= {413, 415}
    if any(route.method != "GET" for route in same_method):
        statuses |= {409}
    for status in sorted(statuses):
        found[str(status)] = {
            "description": "An error",
            "headers": {
                CODE_HEADER: {
                    "description": "A stable code for programs",
                    "schema": {"type": "string"},
                }
            },
            "content": _json({"$ref": "#/components/schemas/Error"}),
        }
    return found


def _success(answers: Sequence[Route | Action]) -> dict[str, Any]:
    """Several answers with one status become alternatives.

    OpenAPI has no words for "a body or none": where only some answers have one, it is left open.
    """
    response: dict[str, Any] = {"description": "Done or accepted"}
    schemas: list[Schema] = []
    for answer in answers:
        if answer.response_schema is None:
            return response
        if answer.response_schema not in schemas:
            schemas.append(answer.response_schema)
    response["content"] = _json(schemas[0] if len(schemas) == 1 else {"anyOf": schemas})
    return response


def _json(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
