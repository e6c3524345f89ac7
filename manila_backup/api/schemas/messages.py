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
    said,
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
        "resource_id": said(TEXT, "Id of the backup."),
        "resource_type": said(TEXT, "SHARE_BACKUP."),
        "request_id": TEXT,
        "action_id": TEXT,
        "detail_id": TEXT,
        "message_level": TEXT,
        "created_since": said(TEXT, "A time in ISO 8601. From 2.52."),
        "created_before": said(TEXT, "A time in ISO 8601. From 2.52."),
        "sort_key": {
            "type": "string",
            "enum": list(SORT_KEYS),
            "description": "Without it created_at.",
        },
        "sort_dir": SORT_DIR,
        "limit": LIMIT,
        "offset": OFFSET,
    }
)

_MESSAGE = exact(
    {
        "id": _STRING,
        "project_id": _STRING,
        "action_id": said(_STRING, "101 create, 102 restore, 103 delete."),
        "detail_id": said(_STRING, "101 failed, 102 cancelled, 103 done, but not completely."),
        "message_level": said(_STRING, "ERROR, WARNING or INFO."),
        "created_at": TIMESTAMP,
        "expires_at": TIMESTAMP,
        "request_id": said(NULLABLE_STRING, "Of the request that queued the operation."),
        "links": LINKS,
        "resource_type": _STRING,
        "resource_id": said(_STRING, "Id of the backup."),
        "user_message": said(_STRING, "What happened, and why."),
    }
)

MESSAGE_RESPONSE = wrapped("message", _MESSAGE)
LIST_RESPONSE = exact(
    {"messages": {"type": "array", "items": _MESSAGE}, "messages_links": LINKS}, "messages_links"
)
