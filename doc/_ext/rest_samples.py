# SPDX-License-Identifier: Apache-2.0
"""Which requests the REST reference has, and which samples belong to each.

Both come from the table of routes. The files are ``doc/samples/<name>-request.json`` and
``<name>-response.json``; ``tests/api/test_samples.py`` proves that there is each of them, no other,
and that they are what the service says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from manila_backup.api.route import Action, Route, RouteTable
from manila_backup.api.schemas.common import wrapped
from manila_backup.api.validation import Schema
from manila_backup.api.versions import Version, text

SAMPLES = Path(__file__).resolve().parent.parent / "samples"

ERRORS = ("error-404", "error-413")
"""Samples of error bodies, which belong to no route."""

_VARIABLE = re.compile(r"<(?:[a-z]+:)?([a-z_]+)>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request and its answer: a route, or one action of a route. ``name`` begins the names of
    its samples."""

    route: Route
    action: Action | None
    name: str

    @property
    def _said(self) -> Route | Action:
        return self.action or self.route

    @property
    def path(self) -> str:
        below = "" if self.route.unversioned else "/v2"
        return below + _VARIABLE.sub(r"{\1}", self.route.path)

    @property
    def summary(self) -> str:
        return self._said.summary

    @property
    def policy(self) -> str | None:
        return self._said.policy

    @property
    def versions(self) -> tuple[Version, Version] | None:
        """First and last; None where no version is looked at."""
        if self.route.unversioned:
            return None
        return self._said.min_version, self._said.max_version

    @property
    def experimental(self) -> bool:
        return self._said.experimental

    @property
    def status(self) -> int:
        return self._said.status

    @property
    def request_schema(self) -> Schema | None:
        if self.action is not None:
            return wrapped(self.action.name, dict(self.action.value_schema))
        return self.route.body_schema

    @property
    def response_schema(self) -> Schema | None:
        return self._said.response_schema

    @property
    def request_sample(self) -> str | None:
        return None if self.request_schema is None else f"{self.name}-request"

    @property
    def response_sample(self) -> str | None:
        return None if self.response_schema is None else f"{self.name}-response"

    @property
    def samples(self) -> list[str]:
        return [name for name in (self.request_sample, self.response_sample) if name]


def exchanges(routes: RouteTable) -> Iterator[Exchange]:
    """All of a table, in its order; one for each action instead of the route that has them.

    What has the same method and path from another version on has that version in its name.
    """
    seen: set[str] = set()
    for route in routes:
        slug = re.sub(r"[^A-Za-z0-9_]+", "-", _VARIABLE.sub(r"\1", route.path)).strip("-")
        stem = f"{route.method.lower()}-{slug or 'root'}"
        for action in route.actions or (None,):
            name = stem if action is None else f"{stem}-{action.name}"
            if name in seen:
                name = f"{name}-{text((action or route).min_version)}"
            seen.add(name)
            yield Exchange(route=route, action=action, name=name)


def sample_names(routes: RouteTable) -> set[str]:
    """Every sample that there must be."""
    found = {name for exchange in exchanges(routes) for name in exchange.samples}
    return found | set(ERRORS)


def read_sample(name: str) -> str:
    return (SAMPLES / f"{name}.json").read_text()
