# SPDX-License-Identifier: Apache-2.0
"""What the local shares API answers, as schemas."""

from __future__ import annotations

from typing import Any

from manila_backup.api.schemas.common import (
    BOOLEAN,
    LINKS,
    NULLABLE_STRING,
    NULLABLE_TIMESTAMP,
    TIMESTAMP,
    exact,
    wrapped,
)

_STRING: dict[str, Any] = {"type": "string"}
_PROPERTIES: dict[str, Any] = {"type": "object", "additionalProperties": _STRING}
_SUMMARY = exact({"id": _STRING, "name": NULLABLE_STRING, "links": LINKS})

SHARE = exact(
    {
        **_SUMMARY["properties"],
        **dict.fromkeys(
            (
                "description",
                "user_id",
                "task_state",
                "host",
                "share_network_id",
                "share_server_id",
                "share_group_id",
                "source_share_group_snapshot_member_id",
                "snapshot_id",
                "replication_type",
                "scheduled_to_be_deleted_at",
                "source_backup_id",
                "mount_point_name",
                "encryption_key_ref",
            ),
            NULLABLE_STRING,
        ),
        **dict.fromkeys(
            (
                "project_id",
                "share_proto",
                "status",
                "availability_zone",
                "share_type",
                "share_type_name",
                "access_rules_status",
                "progress",
            ),
            _STRING,
        ),
        **dict.fromkeys(
            (
                "is_public",
                "is_soft_deleted",
                "has_replicas",
                "snapshot_support",
                "create_share_from_snapshot_support",
                "revert_to_snapshot_support",
                "mount_snapshot_support",
            ),
            BOOLEAN,
        ),
        "size": {"type": "integer"},
        "created_at": TIMESTAMP,
        "metadata": _PROPERTIES,
    }
)
SNAPSHOT = exact(
    {
        **_SUMMARY["properties"],
        "description": NULLABLE_STRING,
        "user_id": NULLABLE_STRING,
        **dict.fromkeys(("project_id", "share_id", "share_proto", "status"), _STRING),
        "size": {"type": "integer"},
        "share_size": {"type": "integer"},
        "created_at": TIMESTAMP,
        "metadata": _PROPERTIES,
    }
)
ACCESS = exact(
    {
        **dict.fromkeys(
            ("id", "share_id", "access_type", "access_to", "access_level", "state"), _STRING
        ),
        "access_key": NULLABLE_STRING,
        "created_at": TIMESTAMP,
        "updated_at": NULLABLE_TIMESTAMP,
        "metadata": _PROPERTIES,
    }
)
EXPORT_LOCATION = exact(
    {
        "id": _STRING,
        "path": _STRING,
        "preferred": BOOLEAN,
        "created_at": TIMESTAMP,
        "updated_at": NULLABLE_TIMESTAMP,
        "metadata": _PROPERTIES,
        # For administrators.
        "is_admin_only": BOOLEAN,
        "share_instance_id": _STRING,
    },
    "is_admin_only",
    "share_instance_id",
)
SHARE_TYPE = exact(
    {
        "id": _STRING,
        "name": _STRING,
        "description": NULLABLE_STRING,
        "is_default": BOOLEAN,
        "share_type_access:is_public": BOOLEAN,
        "required_extra_specs": _PROPERTIES,
        "extra_specs": _PROPERTIES,
    }
)


def _listing(key: str, item: dict[str, Any]) -> dict[str, Any]:
    links = f"{key}_links"
    return exact(
        {key: {"type": "array", "items": item}, links: LINKS, "count": {"type": "integer"}},
        links,
        "count",
    )


SHARE_RESPONSE = wrapped("share", SHARE)
SHARES_RESPONSE = _listing("shares", _SUMMARY)
SHARES_DETAIL_RESPONSE = _listing("shares", SHARE)
SNAPSHOT_RESPONSE = wrapped("snapshot", SNAPSHOT)
SNAPSHOTS_RESPONSE = _listing("snapshots", _SUMMARY)
SNAPSHOTS_DETAIL_RESPONSE = _listing("snapshots", SNAPSHOT)
METADATA_RESPONSE = wrapped("metadata", _PROPERTIES)
ACCESS_RESPONSE = wrapped("access", ACCESS)
ACCESS_LIST_RESPONSE = wrapped("access_list", {"type": "array", "items": ACCESS})
EXPORT_LOCATION_RESPONSE = wrapped("export_location", EXPORT_LOCATION)
EXPORT_LOCATIONS_RESPONSE = wrapped("export_locations", {"type": "array", "items": EXPORT_LOCATION})
SNAPSHOT_EXPORT_LOCATIONS_RESPONSE = wrapped(
    "share_snapshot_export_locations", {"type": "array", "maxItems": 0}
)
TYPE_RESPONSE = wrapped("share_type", SHARE_TYPE)
TYPES_RESPONSE = wrapped("share_types", {"type": "array", "items": SHARE_TYPE})
EXTRA_SPECS_RESPONSE = wrapped("extra_specs", _PROPERTIES)
