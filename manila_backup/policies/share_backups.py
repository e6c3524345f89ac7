# SPDX-License-Identifier: Apache-2.0
"""Rules of ``/share-backups``."""

from __future__ import annotations

from oslo_policy import policy

from manila_backup.policies.base import ADMIN, MEMBER, READER, rule

CREATE = "share_backup:create"
GET = "share_backup:get"
GET_ALL = "share_backup:get_all"
GET_ALL_PROJECT = "share_backup:get_all_project"
GET_HOST = "share_backup:get_host"
UPDATE = "share_backup:update"
DELETE = "share_backup:delete"
DELETE_ANY_STATUS = "share_backup:delete_any_status"
RESTORE = "share_backup:restore"
CANCEL = "share_backup:cancel"
RESET_STATUS = "share_backup:reset_status"
OPERATIONS = "share_backup:operations"

_ALL, _ONE = "/share-backups", "/share-backups/{backup_id}"
_ACTION = "/share-backups/{backup_id}/action"


def list_rules() -> list[policy.RuleDefault]:
    return [
        rule(CREATE, MEMBER, "Back a share up.", ("POST", _ALL)),
        rule(GET, READER, "Show a backup.", ("GET", _ONE)),
        rule(
            GET_ALL,
            READER,
            "List the backups of the own project.",
            ("GET", _ALL),
            ("GET", f"{_ALL}/detail"),
        ),
        rule(
            GET_ALL_PROJECT,
            ADMIN,
            "List the backups of all projects, and reach those of other projects at all.",
            ("GET", f"{_ALL}?all_tenants=1"),
            ("GET", f"{_ALL}/detail?all_tenants=1"),
        ),
        rule(
            GET_HOST,
            ADMIN,
            "See host and topic of a backup.",
            ("GET", _ONE),
            ("GET", f"{_ALL}/detail"),
        ),
        rule(UPDATE, MEMBER, "Set name and description of a backup.", ("PUT", _ONE)),
        rule(DELETE, MEMBER, "Delete a backup.", ("DELETE", _ONE)),
        rule(
            DELETE_ANY_STATUS,
            ADMIN,
            "Delete a backup whatever its status, cancelling what runs on it.",
            ("DELETE", _ONE),
        ),
        rule(
            RESTORE,
            MEMBER,
            "Restore a backup to its share or to another.",
            ("POST", f"{_ACTION} (restore)"),
            ("POST", f"{_ONE}/restores"),
        ),
        rule(CANCEL, MEMBER, "Cancel what runs on a backup.", ("POST", f"{_ACTION} (cancel)")),
        rule(
            RESET_STATUS,
            ADMIN,
            "Set the status of a backup by hand.",
            ("POST", f"{_ACTION} (reset_status)"),
        ),
        rule(
            OPERATIONS,
            READER,
            "See the operations of a backup: phase, progress, counters, reason of a failure.",
            ("GET", f"{_ONE}/operations"),
        ),
    ]
