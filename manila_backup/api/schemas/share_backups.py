# SPDX-License-Identifier: Apache-2.0
"""Of ``/share-backups`` and its sub-resources."""

from __future__ import annotations

from typing import Any

from manila_backup.api.schemas.common import (
    BOOLEAN,
    ID,
    LIMIT,
    LINKS,
    NAME,
    NULLABLE_STRING,
    NULLABLE_TIMESTAMP,
    OFFSET,
    SORT_DIR,
    TEXT,
    TIMESTAMP,
    exact,
    obj,
    wrapped,
)
from manila_backup.db.backups import SORT_COLUMNS
from manila_backup.states import (
    RESETTABLE,
    BackupStatus,
    OperationKind,
    OperationStatus,
    Phase,
)
from manila_backup.types import Counters, RestoreMode

_STRING: dict[str, Any] = {"type": "string"}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_TARGET: dict[str, Any] = {"type": ["string", "null"], "minLength": 1, "maxLength": 36}

# --- requests -------------------------------------------------------------------------------------

CREATE = wrapped(
    "share_backup",
    obj(
        {
            "share_id": ID,
            "name": NAME,
            "description": NAME,
            # Which keys there may be is the driver's matter, see backup_options.py.
            "backup_options": {"type": ["object", "null"], "maxProperties": 64},
        },
        required=("share_id",),
    ),
)

UPDATE = wrapped(
    "share_backup",
    obj(
        {
            "name": NAME,
            "description": NAME,
            "display_name": NAME,
            "display_description": NAME,
        }
    ),
)

RESTORE_TO_SOURCE: dict[str, Any] = {}
"""Value of the action ``restore`` below 2.91: anything, and nothing is made of it."""

RESTORE = _TARGET
"""Value of the action ``restore`` from 2.91: null for the source share, or the target's id."""

RESTORES = wrapped(
    "restore",
    obj(
        {
            "mode": {"type": "string", "enum": [mode.value for mode in RestoreMode]},
            "target_share_id": _TARGET,
        }
    ),
)

RESET_STATUS = obj({"status": {"type": "string", "enum": sorted(RESETTABLE)}}, required=("status",))

CANCEL: dict[str, Any] = {"type": ["null", "object"], "maxProperties": 0}

LIST_QUERY = obj(
    {
        "name": TEXT,
        "description": TEXT,
        "name~": TEXT,
        "description~": TEXT,
        "status": TEXT,
        "share_id": TEXT,
        "topic": TEXT,
        "host": TEXT,
        "project_id": TEXT,
        "all_tenants": BOOLEAN,
        "all_projects": BOOLEAN,
        "sort_key": {"type": "string", "enum": sorted(SORT_COLUMNS)},
        "sort_dir": SORT_DIR,
        "limit": LIMIT,
        "offset": OFFSET,
        "marker": TEXT,
    }
)

# --- responses ------------------------------------------------------------------------------------

_STATUS = {"type": "string", "enum": [status.value for status in BackupStatus]}
_SUMMARY = exact({"id": _STRING, "name": NULLABLE_STRING, "share_id": _STRING, "status": _STATUS})
_PERCENT = {"type": "string", "pattern": "^(100|[1-9]?[0-9])$"}

_DETAIL = exact(
    {
        **_SUMMARY["properties"],
        "description": NULLABLE_STRING,
        "size": {"type": "integer", "minimum": 0},
        "created_at": TIMESTAMP,
        "updated_at": NULLABLE_TIMESTAMP,
        "availability_zone": NULLABLE_STRING,
        "progress": _PERCENT,
        "restore_progress": _PERCENT,
        # From 2.85.
        "backup_type": NULLABLE_STRING,
        # For administrators.
        "host": NULLABLE_STRING,
        "topic": NULLABLE_STRING,
    },
    "backup_type",
    "host",
    "topic",
)

DETAIL_RESPONSE = wrapped("share_backup", _DETAIL)


def _list_response(item: dict[str, Any]) -> dict[str, Any]:
    return exact(
        {"share_backups": {"type": "array", "items": item}, "share_backup_links": LINKS},
        "share_backup_links",
    )


LIST_RESPONSE = _list_response(_SUMMARY)
DETAIL_LIST_RESPONSE = _list_response(_DETAIL)

RESTORE_RESPONSE = wrapped("restore", exact({"backup_id": _STRING, "share_id": _STRING}))

RESTORES_RESPONSE = wrapped(
    "restore",
    exact(
        {
            "backup_id": _STRING,
            "share_id": _STRING,
            "mode": {"type": "string", "enum": [mode.value for mode in RestoreMode]},
            "operation_id": _STRING,
        }
    ),
)

OPERATIONS_RESPONSE = wrapped(
    "operations",
    {
        "type": "array",
        "items": exact(
            {
                "id": _STRING,
                "kind": {"type": "string", "enum": [kind.value for kind in OperationKind]},
                "status": {"type": "string", "enum": [s.value for s in OperationStatus]},
                "phase": {"enum": [None, *(phase.value for phase in Phase)]},
                "share_id": _STRING,
                "mode": {"enum": [None, *(mode.value for mode in RestoreMode)]},
                "progress": {"type": "integer", "minimum": 0, "maximum": 100},
                "progress_source": NULLABLE_STRING,
                "counters": exact(dict.fromkeys(Counters.__slots__, _COUNT)),
                "fail_reason": NULLABLE_STRING,
                "cancel_requested": BOOLEAN,
                "attempts": _COUNT,
                "request_id": NULLABLE_STRING,
                "created_at": TIMESTAMP,
                "started_at": NULLABLE_TIMESTAMP,
                "updated_at": NULLABLE_TIMESTAMP,
                "finished_at": NULLABLE_TIMESTAMP,
                # For administrators.
                "host": NULLABLE_STRING,
            },
            "host",
        ),
    },
)
