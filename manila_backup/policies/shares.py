# SPDX-License-Identifier: Apache-2.0
"""Rules of the small shares API of the ``local`` provider. Beside Manila they guard nothing."""

from __future__ import annotations

from oslo_policy import policy

from manila_backup.policies.base import ADMIN, MEMBER, READER, rule

CREATE = "share:create"
GET = "share:get"
GET_ALL = "share:get_all"
GET_ALL_PROJECT = "share:list_all_projects"
UPDATE = "share:update"
DELETE = "share:delete"
FORCE_DELETE = "share:force_delete"
EXTEND = "share:extend"
SHRINK = "share:shrink"
REVERT = "share:revert_to_snapshot"
SOFT_DELETE = "share:soft_delete"
RESET_STATUS = "share:reset_status"
RESET_TASK_STATE = "share:reset_task_state"
ACCESS_GET = "share_access_rule:get"
ACCESS_GET_ALL = "share_access_rule:index"
ACCESS_ALLOW = "share:allow_access"
ACCESS_DENY = "share:deny_access"
EXPORT_LOCATION_GET = "share_export_location:get"
EXPORT_LOCATION_GET_ALL = "share_export_location:index"
SNAPSHOT_CREATE = "share_snapshot:create"
SNAPSHOT_GET = "share_snapshot:get"
SNAPSHOT_GET_ALL = "share_snapshot:get_all"
SNAPSHOT_UPDATE = "share_snapshot:update"
SNAPSHOT_DELETE = "share_snapshot:delete"
TYPE_GET = "share_type:get"
TYPE_GET_ALL = "share_type:get_all"

_ALL, _ONE = "/shares", "/shares/{share_id}"
_ACTION = "/shares/{share_id}/action"
_SNAPSHOTS, _SNAPSHOT = "/snapshots", "/snapshots/{snapshot_id}"


def list_rules() -> list[policy.RuleDefault]:
    return [*_share_rules(), *_access_rules(), *_snapshot_rules(), *_type_rules()]


def _share_rules() -> list[policy.RuleDefault]:
    return [
        rule(CREATE, MEMBER, "Create a share.", ("POST", _ALL)),
        rule(GET, READER, "Show a share.", ("GET", _ONE)),
        rule(GET_ALL, READER, "List shares.", ("GET", _ALL), ("GET", f"{_ALL}/detail")),
        rule(
            GET_ALL_PROJECT,
            ADMIN,
            "List the shares of all projects.",
            ("GET", f"{_ALL}?all_tenants=1"),
        ),
        rule(UPDATE, MEMBER, "Set name, description and visibility.", ("PUT", _ONE)),
        rule(DELETE, MEMBER, "Delete a share.", ("DELETE", _ONE)),
        rule(
            FORCE_DELETE,
            ADMIN,
            "Delete a share or snapshot whatever its status.",
            ("POST", f"{_ACTION} (force_delete)"),
            ("POST", f"{_SNAPSHOT}/action (force_delete)"),
        ),
        rule(EXTEND, MEMBER, "Make a share larger.", ("POST", f"{_ACTION} (extend)")),
        rule(SHRINK, MEMBER, "Make a share smaller.", ("POST", f"{_ACTION} (shrink)")),
        rule(REVERT, MEMBER, "Set a share back to a snapshot.", ("POST", f"{_ACTION} (revert)")),
        rule(
            SOFT_DELETE,
            MEMBER,
            "Put a share into the recycle bin and take it out.",
            ("POST", f"{_ACTION} (soft_delete)"),
            ("POST", f"{_ACTION} (restore)"),
        ),
        rule(
            RESET_STATUS,
            ADMIN,
            "Set the status of a share or snapshot by hand.",
            ("POST", f"{_ACTION} (reset_status)"),
            ("POST", f"{_SNAPSHOT}/action (reset_status)"),
        ),
        rule(
            RESET_TASK_STATE,
            ADMIN,
            "Set the task state of a share by hand.",
            ("POST", f"{_ACTION} (reset_task_state)"),
        ),
    ]


def _access_rules() -> list[policy.RuleDefault]:
    return [
        rule(
            ACCESS_GET,
            READER,
            "Show an access rule.",
            ("GET", "/share-access-rules/{access_id}"),
        ),
        rule(
            ACCESS_GET_ALL,
            READER,
            "List the access rules of a share.",
            ("GET", "/share-access-rules"),
        ),
        rule(ACCESS_ALLOW, MEMBER, "Give access.", ("POST", f"{_ACTION} (allow_access)")),
        rule(ACCESS_DENY, MEMBER, "Take access away.", ("POST", f"{_ACTION} (deny_access)")),
        rule(
            EXPORT_LOCATION_GET,
            READER,
            "Show an export location of a share.",
            ("GET", f"{_ONE}/export_locations/{{export_location_id}}"),
        ),
        rule(
            EXPORT_LOCATION_GET_ALL,
            READER,
            "List the export locations of a share.",
            ("GET", f"{_ONE}/export_locations"),
        ),
    ]


def _snapshot_rules() -> list[policy.RuleDefault]:
    return [
        rule(SNAPSHOT_CREATE, MEMBER, "Take a snapshot.", ("POST", _SNAPSHOTS)),
        rule(SNAPSHOT_GET, READER, "Show a snapshot.", ("GET", _SNAPSHOT)),
        rule(
            SNAPSHOT_GET_ALL,
            READER,
            "List snapshots.",
            ("GET", _SNAPSHOTS),
            ("GET", f"{_SNAPSHOTS}/detail"),
        ),
        rule(SNAPSHOT_UPDATE, MEMBER, "Set name and description.", ("PUT", _SNAPSHOT)),
        rule(SNAPSHOT_DELETE, MEMBER, "Delete a snapshot.", ("DELETE", _SNAPSHOT)),
    ]


def _type_rules() -> list[policy.RuleDefault]:
    return [
        rule(TYPE_GET, READER, "Show a share type.", ("GET", "/types/{share_type_id}")),
        rule(TYPE_GET_ALL, READER, "List share types.", ("GET", "/types")),
    ]
