# SPDX-License-Identifier: Apache-2.0
"""What a line of a route table says. Everything that can be said about a request without looking
at the database is said here, once: dispatch, validation, policies and the OpenAPI document are
all made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from manila_backup.api.validation import Schema, Validator
from manila_backup.api.versions import MAX_VERSION, MIN_VERSION, Version

Handler = Callable[..., Any]
"""``handler(request: ApiRequest, **path_variables)``; see :class:`~manila_backup.api.request.Reply`
for what it may return."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Action:
    """One key of the body of ``POST .../action``. ``value_schema`` is for the value of that key,
    which the handler finds as ``request.body``.
    """

    name: str
    handler: Handler
    policy: str
    value_schema: Schema
    min_version: Version = MIN_VERSION
    max_version: Version = MAX_VERSION
    experimental: bool = False
    status: int = 202
    response_schema: Schema | None = None
    summary: str = ""

    @cached_property
    def validator(self) -> Validator:
        return Validator(self.value_schema)


@dataclass(frozen=True, kw_only=True, eq=False)
class Route:
    """One method of one path.

    ``path`` is below ``/v2`` and in Werkzeug's syntax (``/share-backups/<id:backup_id>``); the same
    path with a project id in front answers too. With ``unversioned`` it is the whole path.
    ``policy`` is enforced before the body is looked at; None means that nobody need be known.
    A route has either a ``handler`` or ``actions``; of actions with the same name the first whose
    versions fit is taken. Several routes may share path and method when their versions differ.
    """

    method: str
    path: str
    handler: Handler | None = None
    actions: tuple[Action, ...] = ()
    policy: str | None = None
    body_schema: Schema | None = None
    query_schema: Schema = field(default_factory=dict)
    min_version: Version = MIN_VERSION
    max_version: Version = MAX_VERSION
    experimental: bool = False
    unversioned: bool = False
    status: int = 200
    response_schema: Schema | None = None
    summary: str = ""

    @property
    def policies(self) -> tuple[str, ...]:
        """All policies that a request to this route may need."""
        own = (self.policy,) if self.policy else ()
        return own + tuple(action.policy for action in self.actions)

    @cached_property
    def body_validator(self) -> Validator | None:
        return None if self.body_schema is None else Validator(self.body_schema)

    @cached_property
    def query_validator(self) -> Validator:
        return Validator(self.query_schema)

    def fits(self, version: Version) -> bool:
        return self.min_version <= version <= self.max_version


RouteTable = tuple[Route, ...]


def by_path(routes: RouteTable) -> Mapping[tuple[str, bool], list[Route]]:
    """Routes grouped by (path, unversioned), in the order of the table."""
    found: dict[tuple[str, bool], list[Route]] = {}
    for route in routes:
        found.setdefault((route.path, route.unversioned), []).append(route)
    return found


def all_actions(routes: RouteTable) -> Iterator[tuple[Route, Action]]:
    for route in routes:
        for action in route.actions:
            yield route, action
