# SPDX-License-Identifier: Apache-2.0
"""Access rules as Manila shows them to the service user, and which of them are ours."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from manilaclient import exceptions
from manilaclient.v2.client import Client

from manila_backup.exception import ShareNotFound
from manila_backup.share.manila.client import LOCKS, ManilaApi
from manila_backup.types import AccessLevel

METADATA = {"manila_backup": "access of a data node"}
"""Made in one step with the rule, so it is there even if we are killed before the locks are."""

LOCK_REASON = "manila_backup: access of a data node"

GOING = frozenset({"queued_to_deny", "denying"})

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """``state`` in Manila's words: queued_to_apply, applying, active, error, queued_to_deny,
    denying."""

    id: str
    level: AccessLevel
    state: str
    ours: bool

    def suffices(self, level: AccessLevel) -> bool:
        return self.level in (level, AccessLevel.RW)


class Rules:
    """Looking at the rules of shares."""

    def __init__(self, api: ManilaApi) -> None:
        self._api = api

    def of_address(self, share_id: str, address: str) -> list[Rule]:
        """Those for the address alone, however it is written; ours first.

        :raises ShareNotFound: the share is gone.
        """
        client = self._api.as_service()
        found = [entry for entry in _listed(client, share_id) if _is_for(entry, address)]
        rules = [
            Rule(
                id=entry.id,
                level=AccessLevel(entry.access_level),
                state=entry.state,
                ours=self._ours(client, entry),
            )
            for entry in found
        ]
        return sorted(rules, key=lambda rule: not rule.ours)

    def _ours(self, client: Client, entry: Any) -> bool:
        """By a lock of ours, which nobody else can make. Or by metadata, which the tenant can set:
        who puts ours on a rule of his own has it taken away when we are done.
        """
        if METADATA.keys() <= (entry.metadata or {}).keys():
            return True
        if not self._api.has(LOCKS):
            return False
        mine = {"resource_id": entry.id, "user_id": self._api.user_id()}
        return bool(client.resource_locks.list(search_opts=mine))


def _listed(client: Client, share_id: str) -> list[Any]:
    try:
        return list(client.share_access_rules.access_list(share_id))
    except (exceptions.BadRequest, exceptions.NotFound) as exc:
        # Manila answers 400 here for a share that is gone.
        try:
            client.shares.get(share_id)
        except exceptions.NotFound:
            raise ShareNotFound(share_id=share_id) from exc
        raise


def _is_for(entry: Any, address: str) -> bool:
    network = _network(address)
    same = network is not None and _network(entry.access_to) == network
    return entry.access_type == "ip" and (same or entry.access_to == address)


def _network(address: str) -> Network | None:
    try:
        return ipaddress.ip_network(address, strict=False)
    except ValueError:
        return None
