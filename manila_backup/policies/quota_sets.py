# SPDX-License-Identifier: Apache-2.0
"""Rules of ``/quota-sets`` and ``/limits``."""

from __future__ import annotations

from oslo_policy import policy

from manila_backup.policies.base import ADMIN, READER, rule

SHOW = "quota_set:show"
UPDATE = "quota_set:update"
DELETE = "quota_set:delete"
LIMITS = "limits:get"

_ONE = "/quota-sets/{project_id}"


def list_rules() -> list[policy.RuleDefault]:
    return [
        rule(
            SHOW,
            READER,
            "Show the quotas of a project, their use and their defaults.",
            ("GET", _ONE),
            ("GET", f"{_ONE}/detail"),
            ("GET", f"{_ONE}/defaults"),
        ),
        rule(UPDATE, ADMIN, "Set the quotas of a project.", ("PUT", _ONE)),
        rule(DELETE, ADMIN, "Give a project the default quotas again.", ("DELETE", _ONE)),
        rule(LIMITS, READER, "Show limits and use of the own project.", ("GET", "/limits")),
    ]
