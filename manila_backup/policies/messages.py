# SPDX-License-Identifier: Apache-2.0
"""Rules of ``/messages``."""

from __future__ import annotations

from oslo_policy import policy

from manila_backup.policies.base import MEMBER, READER, rule

GET = "message:get"
GET_ALL = "message:get_all"
DELETE = "message:delete"


def list_rules() -> list[policy.RuleDefault]:
    return [
        rule(GET, READER, "Show a user message.", ("GET", "/messages/{message_id}")),
        rule(GET_ALL, READER, "List the user messages of the own project.", ("GET", "/messages")),
        rule(DELETE, MEMBER, "Delete a user message.", ("DELETE", "/messages/{message_id}")),
    ]
