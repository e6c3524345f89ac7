# SPDX-License-Identifier: Apache-2.0
"""What the local shares API takes, as schemas."""

from __future__ import annotations

from typing import Any

from manila_backup.api.schemas.common import (
    BOOLEAN,
    ID,
    LIMIT,
    NAME,
    OFFSET,
    SORT_DIR,
    TEXT,
    obj,
    wrapped,
)

MAX_PROPERTIES = 128
"""Of one share, snapshot or access rule: they are read whole with every listing."""

MAX_SIZE_GIB = 1 << 30

_NULL: dict[str, Any] = {"type": "null"}
_ID_OR_NULL: dict[str, Any] = {"type": ["string", "null"], "maxLength": 255}

SIZE: dict[str, Any] = {
    "type": ["integer", "string"],
    "pattern": "^[1-9][0-9]{0,9}$",
    "minimum": 1,
    "maximum": MAX_SIZE_GIB,
    "x-reason": "must be a number of GiB.",
}
"""The client sends numbers, other tools send digits."""

_YES = ("true", "True", "TRUE", "yes", "on", "1")
_NO = ("false", "False", "FALSE", "no", "off", "0")
FLAG: dict[str, Any] = {"enum": [True, False, *_YES, *_NO]}
"""The client's ``--public`` passes on whatever was typed."""

METADATA: dict[str, Any] = {
    "type": "object",
    "propertyNames": {"type": "string", "minLength": 1, "maxLength": 255},
    "additionalProperties": {"type": "string", "maxLength": 1023},
    "maxProperties": MAX_PROPERTIES,
}

SHARE_SORT_KEYS = (
    "id",
    "status",
    "size",
    "host",
    "share_proto",
    "availability_zone_id",
    "user_id",
    "project_id",
    "created_at",
    "updated_at",
    "display_name",
    "name",
    "share_type_id",
    "share_type",
    "share_network_id",
    "share_network",
    "snapshot_id",
    "snapshot",
)
SNAPSHOT_SORT_KEYS = (
    "id",
    "status",
    "size",
    "share_id",
    "user_id",
    "project_id",
    "progress",
    "name",
    "display_name",
    "created_at",
)
_PAGE = {"sort_dir": SORT_DIR, "limit": LIMIT, "offset": OFFSET, "with_count": BOOLEAN}

# --- requests -------------------------------------------------------------------------------------

# Keys that a real Manila knows and this one has no use for are taken only if they say nothing.
CREATE = wrapped(
    "share",
    obj(
        {
            "size": SIZE,
            "share_proto": {"type": "string", "maxLength": 255},
            "name": NAME,
            "display_name": NAME,
            "description": NAME,
            "display_description": NAME,
            "metadata": {**METADATA, "type": ["object", "null"]},
            "share_type": _ID_OR_NULL,
            "volume_type": _ID_OR_NULL,
            "is_public": FLAG,
            "availability_zone": _ID_OR_NULL,
            "scheduler_hints": {"type": ["object", "null"]},
            "snapshot_id": _NULL,
            "share_network_id": _NULL,
            "share_group_id": _NULL,
            "mount_point_name": _NULL,
            "encryption_key_ref": _NULL,
        },
        required=("size", "share_proto"),
    ),
)

_NAMES = {
    "name": NAME,
    "description": NAME,
    "display_name": NAME,
    "display_description": NAME,
}
UPDATE = wrapped("share", obj({**_NAMES, "is_public": FLAG}))
UPDATE_SNAPSHOT = wrapped("snapshot", obj(_NAMES))

CREATE_SNAPSHOT = wrapped(
    "snapshot",
    obj(
        {
            **_NAMES,
            "share_id": ID,
            "force": FLAG,
            "metadata": {**METADATA, "type": ["object", "null"]},
        },
        required=("share_id",),
    ),
)

SET_METADATA = wrapped("metadata", METADATA)

NOTHING: dict[str, Any] = {"type": ["null", "object"], "maxProperties": 0}
REVERT = obj({"snapshot_id": ID}, required=("snapshot_id",))
EXTEND = obj({"new_size": SIZE, "force": FLAG}, required=("new_size",))
SHRINK = obj({"new_size": SIZE}, required=("new_size",))
RESET_SHARE = obj(
    {
        "status": {
            "type": "string",
            "enum": [
                "creating",
                "available",
                "deleting",
                "error",
                "error_deleting",
                "migrating",
                "migrating_to",
                "server_migrating",
            ],
        }
    },
    required=("status",),
)
RESET_SNAPSHOT = obj(
    {
        "status": {
            "type": "string",
            "enum": ["creating", "available", "deleting", "error", "error_deleting"],
        }
    },
    required=("status",),
)
RESET_TASK_STATE = obj(
    {
        "task_state": {
            "enum": [
                None,
                "migration_starting",
                "migration_in_progress",
                "migration_completing",
                "migration_success",
                "migration_error",
                "migration_cancelled",
                "migration_driver_starting",
                "migration_driver_in_progress",
                "migration_driver_phase1_done",
                "data_copying_starting",
                "data_copying_in_progress",
                "data_copying_completing",
                "data_copying_completed",
                "data_copying_cancelled",
                "data_copying_error",
            ]
        }
    },
    required=("task_state",),
)

_LEVEL = {"type": "string", "enum": ["rw", "ro"]}
ALLOW_ACCESS = obj(
    {
        "access_type": {"type": "string", "enum": ["ip", "user"]},
        "access_to": {"type": "string", "minLength": 1, "maxLength": 255},
        "access_level": {**_LEVEL, "type": ["string", "null"], "enum": ["rw", "ro", None]},
        "metadata": {**METADATA, "type": ["object", "null"]},
    },
    required=("access_type", "access_to"),
)
DENY_ACCESS = obj({"access_id": ID, "unrestrict": FLAG}, required=("access_id",))
UPDATE_ACCESS = wrapped("update_access", obj({"access_level": _LEVEL}, required=("access_level",)))

SHARE_QUERY = obj(
    {
        **dict.fromkeys(
            (
                "name",
                "name~",
                "description",
                "description~",
                "status",
                "project_id",
                "user_id",
                "share_type_id",
                "share_proto",
                "availability_zone",
                "host",
                "share_server_id",
                "share_network_id",
                "share_group_id",
                "snapshot_id",
                "encryption_key_ref",
                "export_location_id",
            ),
            TEXT,
        ),
        "export_location_path": {"type": "string", "maxLength": 4096},
        "metadata": {"type": "string", "maxLength": 4096},
        "is_public": BOOLEAN,
        "is_soft_deleted": BOOLEAN,
        "all_tenants": BOOLEAN,
        "sort_key": {"type": "string", "enum": list(SHARE_SORT_KEYS)},
        **_PAGE,
    }
)
SNAPSHOT_QUERY = obj(
    {
        **dict.fromkeys(
            (
                "name",
                "name~",
                "description",
                "description~",
                "status",
                "share_id",
                "user_id",
                "project_id",
                "usage",
            ),
            TEXT,
        ),
        "metadata": {"type": "string", "maxLength": 4096},
        "all_tenants": BOOLEAN,
        "sort_key": {"type": "string", "enum": list(SNAPSHOT_SORT_KEYS)},
        **_PAGE,
    }
)
ACCESS_QUERY = obj(
    {
        "share_id": TEXT,
        "access_type": TEXT,
        "access_to": TEXT,
        "access_level": TEXT,
        "access_key": TEXT,
        "metadata": {"type": "string", "maxLength": 4096},
    },
    required=("share_id",),
)
