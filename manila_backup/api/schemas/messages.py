# SPDX-License-Identifier: Apache-2.0
"""Of ``/messages``."""

from __future__ import annotations

from typing import Any

from manila_backup.api.schemas.common import (
    LIMIT,
    LINKS,
    NULLABLE_STRING,
    OFFSET,
    SORT_DIR,
    TEXT,
    TIMESTAMP,
    exact,
    obj,
    wrapped,
)

_STRING: dict[str, Any] = {"type": "string"}

SORT_KEYS = (
    "id",
    "project_id",
    "request_id",
    "resource_type",
    "action_id",
    "detail_id",
    "resource_id",
    "message_level",
    "expires_at",
    "created_at",
)

LIST_QUERY = obj(
    {
        "resource_id": TEXT,
        "resource_type": TEXT,
        "request_id": TEXT,
        "action_id": TEXT,
        "detail_id": TEXT,
        "message_level": TEXT,
        # From 2.52.
        "created_since": TEXT,
        "created_before": TEXT,
        "sort_key": {"type": "string", "enum": list(SORT_KEYS)},
        "sort_dir": SORT_DIR,
        "limit": LIMIT,
        "offset": OFFSET,
    }
)

_MESSAGE = exact(
    {
        "id": _STRING,
        "project_id": _STRING,
        "action_id": _STRING,
        "detail_id": _STRING,
        "message_level": _STRING,
        "created_at": TIMESTAMP,
        "expires_at": TIMESTAMP,
        "request_id": NULLABLE_STRING,
        "links": LINKS,
        "resource_type": _STRING,
        "resource_id": _STRING,
        "user_message": _STRING,
    }
)

MESSAGE_RESPONSE = wrapped("message", _MESSAGE)
LIST_RESPONSE = exact(
    {"messages": {"type": "array", "items": _MESSAGE}, "messages_links": LINKS}, "messages_links"
)
