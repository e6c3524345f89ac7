# SPDX-License-Identifier: Apache-2.0
"""What the conformance suite needs besides a provider: the side of the share's owner.

Each provider brings one harness; the suite in ``test_provider_contract.py`` runs over all.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from manila_backup.context import RequestContext
from manila_backup.share.base import ShareProvider
from manila_backup.share.local.access import visible_rules, with_tenant_rule, without_tenant_rule
from manila_backup.share.local.changes import resized
from manila_backup.share.local.provider import LocalShareProvider
from manila_backup.share.local.records import LocalAccessRule, LocalShare, LocalSnapshot
from manila_backup.share.local.snapshots import LocalSnapshots
from manila_backup.share.local.store import LocalShareStore
from manila_backup.types import AccessLevel

OWNER = RequestContext(user_id="u-owner", project_id="p-owner", roles=["member"])
STRANGER = RequestContext(user_id="u-other", project_id="p-other", roles=["member"])
ADMIN = RequestContext(user_id="u-admin", project_id="p-admin", roles=["admin"])

Rules = set[tuple[str, str]]
"""(address, level) pairs."""


class ProviderHarness(Protocol):
    provider: ShareProvider
    owner: RequestContext
    """Of whom :meth:`create_share` makes shares."""
    stranger: RequestContext
    """Of another project."""
    admin: RequestContext
    takes_snapshots: bool
    """Whether the provider's shares can have snapshots at all."""

    def create_share(self, *, is_public: bool = False, size_gib: int = 1) -> str:
        """A new available share of the owner's project; its id."""
        ...

    def remove_share(self, share_id: str) -> None:
        """As its owner does, to the end."""
        ...

    def set_busy(self, share_id: str) -> None:
        """Let a task of the provider hold the share."""
        ...

    def take_snapshot(self, share_id: str) -> None: ...

    def add_rule(self, share_id: str, address: str, level: AccessLevel) -> str:
        """As its owner does; the rule's id."""
        ...

    def remove_rule(self, share_id: str, rule_id: str) -> None: ...

    def tenant_sees(self, share_id: str) -> Rules:
        """The rules as the owner lists them."""
        ...

    def in_force(self, share_id: str) -> Rules:
        """All rules, the service's included."""
        ...

    def disturbances(self, share_id: str) -> Mapping[str, Callable[[], object]]:
        """What an owner may try that would change or remove the share; each raises if refused."""
        ...

    def put_away(self) -> None:
        """Make the provider unreachable."""
        ...


class LocalHarness:
    """The local provider over a store in a temporary directory."""

    owner, stranger, admin = OWNER, STRANGER, ADMIN
    takes_snapshots = True

    def __init__(self, root: Path) -> None:
        self.store = LocalShareStore(root)
        self.provider: ShareProvider = LocalShareProvider(self.store, bind_mounts=False)
        self._snapshots = LocalSnapshots(self.store, copy=lambda source_fd, target_fd: None)

    def create_share(self, *, is_public: bool = False, size_gib: int = 1) -> str:
        share = LocalShare(
            id=str(uuid.uuid4()),
            project_id="p-owner",
            user_id="u-owner",
            name="data",
            description=None,
            size_gib=size_gib,
            created_at=self.store.now(),
            is_public=is_public,
        )
        return self.store.create(share).id

    def remove_share(self, share_id: str) -> None:
        self.store.begin_delete(share_id)
        self.store.finish_delete(share_id)

    def set_busy(self, share_id: str) -> None:
        self.store.update(share_id, lambda share: replace(share, task_state="migration_starting"))

    def take_snapshot(self, share_id: str) -> None:
        snapshot = LocalSnapshot(
            id=str(uuid.uuid4()),
            share_id=share_id,
            project_id="p-owner",
            user_id="u-owner",
            name=None,
            description=None,
            size_gib=1,
            created_at=self.store.now(),
        )
        self._snapshots.finish(self._snapshots.begin(snapshot))

    def add_rule(self, share_id: str, address: str, level: AccessLevel) -> str:
        rule = LocalAccessRule(
            id=str(uuid.uuid4()),
            access_type="ip",
            access_to=address,
            access_level=level,
            created_at=self.store.now(),
        )
        self.store.update(share_id, lambda share: with_tenant_rule(share, rule))
        return rule.id

    def remove_rule(self, share_id: str, rule_id: str) -> None:
        self.store.update(share_id, lambda share: without_tenant_rule(share, rule_id))

    def tenant_sees(self, share_id: str) -> Rules:
        rules = visible_rules(self.store.get(share_id))
        return {(rule.access_to, rule.access_level.value) for rule in rules}

    def in_force(self, share_id: str) -> Rules:
        rules = self.store.get(share_id).access_rules
        return {(rule.access_to, rule.access_level.value) for rule in rules}

    def disturbances(self, share_id: str) -> Mapping[str, Callable[[], object]]:
        return {
            "delete": lambda: self.store.begin_delete(share_id),
            "force_delete": lambda: self.store.begin_delete(share_id, force=True),
            "extend": lambda: self.store.update(share_id, lambda share: resized(share, 9)),
            "shrink": lambda: self.store.update(share_id, lambda share: resized(share, 1)),
            "snapshot": lambda: self.take_snapshot(share_id),
        }

    def put_away(self) -> None:
        # A link that leads to itself: ELOOP for whoever comes, root included.
        aside = self.store.root.with_name("aside")
        self.store.root.rename(aside)
        self.store.root.symlink_to(self.store.root)
