# SPDX-License-Identifier: Apache-2.0
"""Filters, order and pages over what the store holds. All in memory: one machine's shares."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from manila_backup.api import views
from manila_backup.api.request import ApiRequest
from manila_backup.exception import InvalidInput

T = TypeVar("T")


def matches(query: Mapping[str, Any], values: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether each parameter of ``names`` that was given equals the value of that name; of
    ``name~`` and ``description~`` whether it is contained, whatever the case.
    """
    if any(name in query and query[name] != values.get(name) for name in names):
        return False
    return all(
        query[f"{name}~"].casefold() in (values.get(name) or "").casefold()
        for name in ("name", "description")
        if f"{name}~" in query
    )


def has_metadata(query: Mapping[str, Any], metadata: Mapping[str, str]) -> bool:
    """Whether ``?metadata={'key': 'value'}``, a Python literal as the client writes it, is met.

    :raises InvalidInput: it is no such literal.
    """
    if "metadata" not in query:
        return True
    try:
        wanted = ast.literal_eval(query["metadata"])
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        wanted = None
    if not isinstance(wanted, dict):
        raise InvalidInput(field="metadata", reason="must be a dictionary of strings.")
    return all(metadata.get(key) == value for key, value in wanted.items() if _is_text(key))


def _is_text(key: object) -> bool:
    if not isinstance(key, str):
        raise InvalidInput(field="metadata", reason="must be a dictionary of strings.")
    return True


def ordered(
    items: Iterable[T], query: Mapping[str, Any], value: Callable[[T, str], Any]
) -> list[T]:
    """In the order that was asked for, newest first otherwise; ties by id; nothing comes last."""
    key = query.get("sort_key", "created_at")
    found = sorted(items, key=lambda item: str(value(item, "id")))
    present = [item for item in found if value(item, key) is not None]
    absent = [item for item in found if value(item, key) is None]
    descending = query.get("sort_dir", "desc") == "desc"
    present.sort(key=lambda item: value(item, key), reverse=descending)
    return present + absent


def page_body(
    request: ApiRequest, key: str, items: Sequence[T], show: Callable[[T], dict[str, Any]]
) -> dict[str, Any]:
    """The page that was asked for, with the link to the next one and the count if wanted."""
    offset = request.query.get("offset", 0)
    page = items[offset : offset + views.page_size(request)]
    shown = [show(item) for item in page]
    body: dict[str, Any] = {key: shown}
    links = views.next_links(request, [str(item["id"]) for item in shown], by_marker=False)
    if links:
        body[f"{key}_links"] = links
    if request.query.get("with_count"):
        body["count"] = len(items)
    return body
