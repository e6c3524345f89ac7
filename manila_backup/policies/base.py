# SPDX-License-Identifier: Apache-2.0
"""Roles that the rules of all nouns are made of."""

from __future__ import annotations

from oslo_policy import policy

ADMIN = "rule:context_is_admin"
MEMBER = "rule:admin_or_project_member"
READER = "rule:admin_or_project_reader"

PROJECT = ["project"]
"""Every rule needs a token with the scope of a project."""


def list_rules() -> list[policy.RuleDefault]:
    return [
        policy.RuleDefault(
            name="context_is_admin",
            check_str="role:admin",
            description="Who is an administrator: sees and handles what is every project's.",
            scope_types=PROJECT,
        ),
        policy.RuleDefault(
            name="admin_or_project_member",
            check_str="rule:context_is_admin or (role:member and project_id:%(project_id)s)",
            description="Administrators, and members of the project that is concerned.",
            scope_types=PROJECT,
        ),
        policy.RuleDefault(
            name="admin_or_project_reader",
            check_str="rule:context_is_admin or (role:reader and project_id:%(project_id)s)",
            description="Administrators, and readers of the project that is concerned.",
            scope_types=PROJECT,
        ),
    ]


def rule(
    name: str, check: str, description: str, *operations: tuple[str, str]
) -> policy.DocumentedRuleDefault:
    """:param operations: (method, path) that the rule is for."""
    return policy.DocumentedRuleDefault(
        name=name,
        check_str=check,
        description=description,
        operations=[{"method": method, "path": path} for method, path in operations],
        scope_types=PROJECT,
    )
