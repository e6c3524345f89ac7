# SPDX-License-Identifier: Apache-2.0
"""What the adapter needs of Manila, which holds the rows of shares, rules and backups.

``driver`` implements it with Manila's own objects; nobody else knows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from manila_backup.types import AccessLevel


class CallKind(StrEnum):
    BACKUP = "backup"
    RESTORE = "restore"
    DELETE = "delete"


BUSY_BACKUP = {
    CallKind.BACKUP: "creating",
    CallKind.RESTORE: "restoring",
    CallKind.DELETE: "deleting",
}
"""Status of a backup from the request until manila-data writes down how it ended."""

BUSY_SHARE = {CallKind.BACKUP: "backup_creating", CallKind.RESTORE: "backup_restoring"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudShare:
    """``exports`` are paths as the share's driver gave them, the one to be used first."""

    id: str
    project_id: str
    name: str | None
    status: str
    proto: str
    size_gib: int
    exports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudBackup:
    """``version`` changes with every change of the row, to the second."""

    id: str
    project_id: str
    user_id: str | None
    share_id: str
    status: str
    size_gib: int
    name: str | None
    description: str | None
    availability_zone: str | None
    created_at: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """An access rule. ``state`` is Manila's: active, error, queued_to_apply, ..."""

    id: str
    access_type: str
    access_to: str
    level: str
    state: str


class Cloud(Protocol):
    """Every call is a transaction of its own."""

    def share(self, share_id: str) -> CloudShare | None: ...

    def backup(self, backup_id: str) -> CloudBackup | None: ...

    def rules(self, share_id: str) -> list[Rule]: ...

    def add_rule(self, share_id: str, rule_id: str, address: str, level: AccessLevel) -> None:
        """Write the rule down under this id and ask the share's service to apply it."""
        ...

    def deny_rule(self, share_id: str, rule_id: str) -> None:
        """Ask the share's service to take it away. Idempotent; may be asked again."""
        ...

    def settle(
        self,
        kind: CallKind,
        backup_id: str,
        share_id: str,
        *,
        succeeded: bool | None,
        reason: str | None,
        version: str | None,
    ) -> None:
        """Write down how a call ended, as manila-data does, unless that is done already: only rows
        that still are busy with it are changed, and, with a ``version``, only if they still have
        it. ``succeeded`` None: it was interrupted, and counts as failed; a delete is asked for
        again.
        """
        ...

    def forgotten_backups(self, before_s: float) -> list[CloudBackup]:
        """Backups that this host's manila-data has begun to make and nobody has touched since the
        time ``before_s`` (seconds since 1970).
        """
        ...
