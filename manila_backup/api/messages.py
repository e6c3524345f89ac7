# SPDX-License-Identifier: Apache-2.0
"""Handlers of ``/messages``: what tenants are told about operations that did not go well."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from oslo_utils import timeutils

from manila_backup import exception
from manila_backup.api import views
from manila_backup.api.request import ApiRequest
from manila_backup.api.route import Route, RouteTable
from manila_backup.api.schemas import messages as schemas
from manila_backup.db import messages
from manila_backup.db.clock import iso
from manila_backup.db.messages import Message
from manila_backup.policies import messages as policies

MESSAGES = (2, 37)
SINCE_AND_BEFORE = (2, 52)


def _project(request: ApiRequest) -> str | None:
    """Whose messages the caller sees: administrators everybody's, as in Manila."""
    return None if request.context.is_admin else request.context.project_id


def _view(request: ApiRequest, message: Message) -> dict[str, Any]:
    return {
        "id": message.id,
        "project_id": message.project_id,
        "action_id": message.action_id,
        "detail_id": message.detail_id,
        "message_level": message.message_level,
        "created_at": iso(message.created_at_us),
        "expires_at": iso(message.expires_at_us),
        "request_id": message.request_id,
        "links": [{"rel": "self", "href": f"{request.base_url}/messages/{message.id}"}],
        "resource_type": message.resource_type,
        "resource_id": message.resource_id,
        "user_message": message.user_message,
    }


def index(request: ApiRequest) -> dict[str, Any]:
    """Sorted and cut here: a project's messages are few, and none is older than 30 days."""
    query = request.query
    with request.services.database.reader() as session:
        found = messages.find(
            session,
            project_id=_project(request),
            resource_id=query.get("resource_id"),
            resource_type=query.get("resource_type"),
            request_id=query.get("request_id"),
            action_id=query.get("action_id"),
            detail_id=query.get("detail_id"),
            message_level=query.get("message_level"),
        )
    since, before = _time(request, "created_since"), _time(request, "created_before")
    found = [
        message
        for message in found
        if (since is None or message.created_at_us >= since)
        and (before is None or message.created_at_us <= before)
    ]
    _sort(request, found)
    offset = query.get("offset", 0)
    page = found[offset : offset + views.page_size(request)]
    body: dict[str, Any] = {"messages": [_view(request, message) for message in page]}
    links = views.next_links(request, [message.id for message in page], by_marker=False)
    if links:
        body["messages_links"] = links
    return body


def _time(request: ApiRequest, name: str) -> int | None:
    """:raises InvalidInput: not a time in ISO 8601."""
    text = request.query.get(name)
    if text is None or request.version < SINCE_AND_BEFORE:
        return None
    try:
        parsed = timeutils.normalize_time(timeutils.parse_isotime(text))
    except (ValueError, OverflowError):
        raise exception.InvalidInput(field=name, reason="must be a time in ISO 8601.") from None
    return int((parsed - _EPOCH) / timedelta(microseconds=1))


_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - naive UTC, as normalize_time gives it


def _sort(request: ApiRequest, found: list[Message]) -> None:
    key = request.query.get("sort_key", "created_at")
    column = f"{key}_us" if key in {"created_at", "expires_at"} else key

    def order(message: Message) -> tuple[bool, Any]:
        value = getattr(message, column)
        return value is not None, value

    found.sort(key=lambda message: message.id)
    found.sort(key=order, reverse=request.query.get("sort_dir", "desc") == "desc")


def show(request: ApiRequest, message_id: str) -> dict[str, Any]:
    with request.services.database.reader() as session:
        message = messages.get(session, message_id, project_id=_project(request))
    return {"message": _view(request, message)}


def delete(request: ApiRequest, message_id: str) -> None:
    request.services.database.write(
        lambda session: messages.remove(session, message_id, project_id=_project(request))
    )


ROUTES: RouteTable = (
    Route(
        method="GET",
        path="/messages",
        handler=index,
        policy=policies.GET_ALL,
        query_schema=schemas.LIST_QUERY,
        response_schema=schemas.LIST_RESPONSE,
        min_version=MESSAGES,
        summary="List user messages",
    ),
    Route(
        method="GET",
        path="/messages/<id:message_id>",
        handler=show,
        policy=policies.GET,
        response_schema=schemas.MESSAGE_RESPONSE,
        min_version=MESSAGES,
        summary="Show a user message",
    ),
    Route(
        method="DELETE",
        path="/messages/<id:message_id>",
        handler=delete,
        policy=policies.DELETE,
        status=204,
        min_version=MESSAGES,
        summary="Delete a user message",
    ),
)
