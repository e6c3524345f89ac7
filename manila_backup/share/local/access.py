# SPDX-License-Identifier: Apache-2.0
"""Access rules of local shares: the tenant's, and the service's own, which tenants never see.

Rules are recorded, not enforced: whoever may enter the directory may enter the share. They are here
so that what works against this provider works against a real one. All functions are pure; they
are for :meth:`~manila_backup.share.local.store.LocalShareStore.update`.
"""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Callable
from dataclasses import replace

from manila_backup.exception import GrantFailed, Invalid, InvalidShare, NotFound
from manila_backup.share.local.records import LocalAccessRule, LocalShare
from manila_backup.types import AccessLevel, Grant

MAX_RULES = 1000
"""Of one share: they are read whole with every listing."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class AccessRuleNotFound(NotFound):
    message = "Access rule {access_id} could not be found."


def visible_rules(share: LocalShare) -> tuple[LocalAccessRule, ...]:
    """The rules that tenants see and may take away."""
    return tuple(rule for rule in share.access_rules if not rule.ours)


def with_tenant_rule(share: LocalShare, rule: LocalAccessRule) -> LocalShare:
    """:raises InvalidShare: the share is not available.
    :raises Invalid: the tenant already has a rule for the same type and address.
    """
    _refuse_unless_available(share)
    if len(share.access_rules) >= MAX_RULES:
        raise Invalid(reason=f"A share has at most {MAX_RULES} access rules.")
    for old in visible_rules(share):
        if old.access_type == rule.access_type and _same(old.access_to, rule.access_to):
            reason = f"Share access {rule.access_type}:{rule.access_to} exists."
            raise Invalid(reason=reason)
    return replace(share, access_rules=(*share.access_rules, rule))


def without_tenant_rule(share: LocalShare, access_id: str) -> LocalShare:
    """:raises InvalidShare: the share is not available.
    :raises AccessRuleNotFound: the share has no such rule that tenants see.
    """
    if access_id not in {rule.id for rule in visible_rules(share)}:
        raise AccessRuleNotFound(access_id=access_id)
    _refuse_unless_available(share)
    rules = tuple(rule for rule in share.access_rules if rule.id != access_id)
    return replace(share, access_rules=rules)


def with_changed_rule(
    share: LocalShare, access_id: str, change: Callable[[LocalAccessRule], LocalAccessRule]
) -> LocalShare:
    """:raises InvalidShare: the share is not available.
    :raises AccessRuleNotFound: the share has no such rule that tenants see.
    """
    if access_id not in {rule.id for rule in visible_rules(share)}:
        raise AccessRuleNotFound(access_id=access_id)
    _refuse_unless_available(share)
    rules = tuple(change(rule) if rule.id == access_id else rule for rule in share.access_rules)
    return replace(share, access_rules=rules)


def with_service_rule(
    share: LocalShare, address: str, level: AccessLevel, now: str
) -> tuple[LocalShare, LocalAccessRule]:
    """The share with a rule that lets ``address`` in, and that rule, which may be a tenant's.

    :raises GrantFailed: the tenant's rule for this address does not suffice, or it is no address.
    """
    network = _network(address)
    if network is None:
        reason = f"{address} is not an address"
        raise GrantFailed(share_id=share.id, what="given", reason=reason)
    same = [rule for rule in share.access_rules if _is_for(rule, network)]
    for rule in same:
        if rule.ours:
            # Never less than before: another operation may still work through this rule.
            enough = rule if _suffices(rule, level) else replace(rule, access_level=level)
            rules = tuple(enough if old.id == rule.id else old for old in share.access_rules)
            return replace(share, access_rules=rules), enough
    for rule in same:
        if _suffices(rule, level):
            return share, rule
        reason = (
            f"the share has an access rule for {address} that allows {rule.access_level} only; "
            f"{level} is needed"
        )
        raise GrantFailed(share_id=share.id, what="given", reason=reason)
    rule = LocalAccessRule(
        id=str(uuid.uuid4()),
        access_type="ip",
        access_to=address,
        access_level=level,
        created_at=now,
        ours=True,
    )
    return replace(share, access_rules=(*share.access_rules, rule)), rule


def without_service_rule(share: LocalShare, grant: Grant) -> LocalShare:
    """The share without the rule of ``grant``, which has no reference if it was written down
    before it was made. Tenants' rules stay."""
    network = _network(grant.address)

    def is_granted(rule: LocalAccessRule) -> bool:
        same_address = network is not None and _is_for(rule, network)
        return rule.ours and (rule.id == grant.reference or same_address)

    rules = tuple(rule for rule in share.access_rules if not is_granted(rule))
    return replace(share, access_rules=rules)


def _refuse_unless_available(share: LocalShare) -> None:
    # A mark or a task does not matter: access goes on working under both.
    if share.status != "available":
        raise InvalidShare(reason=f"its status is {share.status}, it must be available.")


def _suffices(rule: LocalAccessRule, level: AccessLevel) -> bool:
    return rule.access_level in (level, AccessLevel.RW)


def _is_for(rule: LocalAccessRule, network: Network) -> bool:
    return rule.access_type == "ip" and _network(rule.access_to) == network


def _same(one: str, other: str) -> bool:
    network = _network(one)
    return one == other or (network is not None and network == _network(other))


def _network(text: str) -> Network | None:
    """Addresses compare equal however they are written: ``::1``, ``::1/128``."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
