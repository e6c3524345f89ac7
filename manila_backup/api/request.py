# SPDX-License-Identifier: Apache-2.0
"""What a handler is given, and what it may return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oslo_policy import policy as oslo_policy

from manila_backup import exception
from manila_backup.api.options import Settings
from manila_backup.api.versions import Version
from manila_backup.context import RequestContext
from manila_backup.share.base import ShareProvider

if TYPE_CHECKING:
    from manila_backup.data.rpcapi import Waker
    from manila_backup.db.backups import Backup
    from manila_backup.db.engine import Database


ENV_DRY_RUN = "manila_backup.dry_run"
"""Key of a WSGI environment, which no client can set: only check, change nothing."""


def no_manifest_check(backup: Backup) -> bool:
    """For an API that cannot reach the store: a backup is taken at its row's word.

    A row that names no published epoch has no manifest for certain.
    """
    return backup.published_epoch is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the process has, handed to every handler.

    ``manifest_exists`` says whether the store has a valid manifest for a backup; it may ask a data
    node and take seconds.
    """

    settings: Settings
    database: Database
    provider: ShareProvider
    waker: Waker
    enforcer: oslo_policy.Enforcer
    manifest_exists: Callable[[Backup], bool] = no_manifest_check


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequest:
    """One request that has passed everything that its route declares.

    ``body`` is the checked body (of an action: the value of its key), ``query`` the known
    parameters, converted. ``url`` is the collection's own address as the client wrote it, without
    query; ``base_url`` the part of it down to ``/v2`` and the project, if the client gave one.
    """

    context: RequestContext
    version: Version
    services: Services
    url: str
    base_url: str
    arguments: Mapping[str, str]
    """The query as it was sent, unknown parameters included; for links to the next page."""
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    dry_run: bool = False
    """Whether only to check; asked for by the gateway, of quota sets."""

    def allows(self, policy: str, target: Mapping[str, Any] | None = None) -> bool:
        """Whether the caller may; for what is merely shown or hidden."""
        return allows(self.services.enforcer, self.context, policy, target)

    def authorize(self, policy: str, target: Mapping[str, Any] | None = None) -> None:
        """:raises PolicyNotAuthorized:"""
        if not self.allows(policy, target):
            raise exception.PolicyNotAuthorized(action=policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A handler's answer where a mere body does not say all.

    Handlers otherwise return the body (a dict), or None for a response without one, and the route
    gives the status.
    """

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


def allows(
    enforcer: oslo_policy.Enforcer,
    context: RequestContext,
    policy: str,
    target: Mapping[str, Any] | None = None,
) -> bool:
    """Ask the enforcer; the target is the caller's own project unless another is given.

    :raises oslo_policy.policy.PolicyNotRegistered: a mistake of ours, not of the caller's.
    """
    what = dict(target or {"project_id": context.project_id, "user_id": context.user_id})
    try:
        return bool(enforcer.authorize(policy, what, context))
    except oslo_policy.InvalidScope:
        # A system or domain token where a project's is needed.
        return False
