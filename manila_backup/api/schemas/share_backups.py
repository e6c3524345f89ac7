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
    said,
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
_TARGET: dict[str, Any] = {
    "type": ["string", "null"],
    "minLength": 1,
    "maxLength": 36,
    "description": "Id of the share to restore to; null for the one that was backed up.",
}

# --- requests -------------------------------------------------------------------------------------

CREATE = wrapped(
    "share_backup",
    obj(
        {
            "share_id": said(ID, "The share to back up."),
            "name": NAME,
            "description": NAME,
            # See backup_options.py.
            "backup_options": {
                "type": ["object", "null"],
                "maxProperties": 64,
                "description": "Which keys there may be is the driver's matter.",
            },
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
            "display_name": said(NAME, "Another word for name, which wins."),
            "display_description": said(NAME, "Another word for description, which wins."),
        }
    ),
)

_MODE: dict[str, Any] = {"type": "string", "enum": [mode.value for mode in RestoreMode]}

RESTORE_TO_SOURCE: dict[str, Any] = {}
"""Value of the action ``restore`` below 2.91: anything, and nothing is made of it."""

RESTORE = _TARGET
"""Value of the action ``restore`` from 2.91: null for the source share, or the target's id."""

RESTORES = wrapped(
    "restore",
    obj(
        {
            "mode": said(_MODE, "Without it exact: what the backup lacks is removed."),
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
        "name~": said(TEXT, "Part of the name."),
        "description~": said(TEXT, "Part of the description."),
        "status": TEXT,
        "share_id": said(TEXT, "The share that was backed up; it may be gone."),
        "topic": TEXT,
        "host": said(TEXT, "Of administrators only."),
        "project_id": said(TEXT, "Of administrators only."),
        "all_tenants": said(BOOLEAN, "Of administrators only; of others it is ignored."),
        "all_projects": said(BOOLEAN, "The same as all_tenants."),
        "sort_key": {
            "type": "string",
            "enum": sorted(SORT_COLUMNS),
            "description": "Without it created_at.",
        },
        "sort_dir": SORT_DIR,
        "limit": LIMIT,
        "offset": OFFSET,
        "marker": said(TEXT, "Id of the last backup of the page before."),
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
        "size": said(_COUNT, "Of the share, in GiB, when the backup was created."),
        "created_at": TIMESTAMP,
        "updated_at": NULLABLE_TIMESTAMP,
        "availability_zone": said(NULLABLE_STRING, "Of the share."),
        "progress": said(_PERCENT, "Of the backup: a number from 0 to 100."),
        "restore_progress": said(_PERCENT, "Of its newest restore: a number from 0 to 100."),
        "backup_type": said(NULLABLE_STRING, "From 2.85."),
        "host": said(NULLABLE_STRING, "For administrators."),
        "topic": said(NULLABLE_STRING, "For administrators."),
    },
    "backup_type",
    "host",
    "topic",
)

DETAIL_RESPONSE = wrapped("share_backup", _DETAIL)


def _list_response(item: dict[str, Any]) -> dict[str, Any]:
    return exact(
        {
            "share_backups": {"type": "array", "items": item},
            "share_backup_links": said(LINKS, "Where there is another page."),
        },
        "share_backup_links",
    )


LIST_RESPONSE = _list_response(_SUMMARY)
DETAIL_LIST_RESPONSE = _list_response(_DETAIL)

_OVERWRITTEN = said(_STRING, "The share that is written to.")
RESTORE_RESPONSE = wrapped("restore", exact({"backup_id": _STRING, "share_id": _OVERWRITTEN}))

RESTORES_RESPONSE = wrapped(
    "restore",
    exact(
        {
            "backup_id": _STRING,
            "share_id": _OVERWRITTEN,
            "mode": _MODE,
            "operation_id": said(_STRING, "See the operations of the backup."),
        }
    ),
)

_COUNTERS = {
    "files": "Regular files.",
    "directories": "Directories.",
    "others": "Symbolic links and special files.",
    "bytes": "Content that was written.",
    "skipped": "Entries that vanished or were refused while they were read.",
    "changed": "Files that others changed meanwhile; what is stored or restored may differ.",
    "losses": "What the target could not hold: an owner, an attribute.",
    "warnings": "Backup: mounts that were not entered. Restore: paths that could not be removed.",
    "deleted": "Entries that a restore or delete removed.",
}

_OPERATION = exact(
    {
        "id": _STRING,
        "kind": {"type": "string", "enum": [kind.value for kind in OperationKind]},
        "status": {"type": "string", "enum": [s.value for s in OperationStatus]},
        "phase": {
            "enum": [None, *(phase.value for phase in Phase)],
            "description": "How far it is; null while it does not run.",
        },
        "share_id": said(_STRING, "The share that is read or written to."),
        "mode": {
            "enum": [None, *(mode.value for mode in RestoreMode)],
            "description": "Of a restore.",
        },
        "progress": {"type": "integer", "minimum": 0, "maximum": 100},
        "progress_source": said(NULLABLE_STRING, "What progress is a percentage of."),
        "counters": exact({name: said(_COUNT, _COUNTERS[name]) for name in Counters.__slots__}),
        "fail_reason": NULLABLE_STRING,
        "cancel_requested": BOOLEAN,
        "attempts": said(_COUNT, "How often it was begun."),
        "request_id": said(NULLABLE_STRING, "Of the request that queued it."),
        "created_at": TIMESTAMP,
        "started_at": NULLABLE_TIMESTAMP,
        "updated_at": NULLABLE_TIMESTAMP,
        "finished_at": NULLABLE_TIMESTAMP,
        "host": said(NULLABLE_STRING, "For administrators: the data node that has or had it."),
    },
    "host",
)

OPERATIONS_RESPONSE = wrapped("operations", {"type": "array", "items": _OPERATION})
