# SPDX-License-Identifier: Apache-2.0
"""Clients of exports: addresses and networks, as access rules and exports(5) write them.

Whatever text a rule has, only what :mod:`ipaddress` writes itself goes any further.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from manila_backup.share.local.records import LocalAccessRule, LocalShare
from manila_backup.types import AccessLevel


def client_of(access_to: str) -> str | None:
    """The one way to write this address or network; None if it is neither.

    An interface's name behind an address (``fe80::1%eth0``) says nothing on another machine, and
    could hold anything.
    """
    if "%" in access_to:
        return None
    try:
        network = ipaddress.ip_network(access_to, strict=False)
    except ValueError:
        return None
    whole = network.prefixlen == network.max_prefixlen
    return str(network.network_address if whole else network)


def client_of_rule(rule: LocalAccessRule) -> str | None:
    """None for rules of other types, which NFS cannot enforce."""
    return client_of(rule.access_to) if rule.access_type == "ip" else None


def wanted_level(record: LocalShare | None, client: str) -> AccessLevel | None:
    """What the rules of a share give to a client, the tenant's and ours together."""
    if record is None or record.removing:
        return None
    levels = {rule.access_level for rule in record.access_rules if client_of_rule(rule) == client}
    if not levels:
        return None
    return AccessLevel.RW if AccessLevel.RW in levels else AccessLevel.RO


def clients_of(records: Iterable[LocalShare]) -> set[str]:
    """All that any rule of any of the records names."""
    named = {client_of_rule(rule) for record in records for rule in record.access_rules}
    return {client for client in named if client is not None}


def with_path(client: str, path: str) -> str:
    """As exportfs(8) takes it on its command line: IPv6 in brackets, the prefix behind them."""
    address, slash, prefix = client.partition("/")
    shown = f"[{address}]" if ":" in address else address
    return f"{shown}{slash}{prefix}:{path}"


def file_part(client: str) -> str:
    """As part of a file's name; :func:`client_of_part` is the way back."""
    return client.replace(":", "-").replace("/", "_")


def client_of_part(part: str) -> str:
    return part.replace("-", ":").replace("_", "/")
