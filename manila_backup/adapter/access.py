# SPDX-License-Identifier: Apache-2.0
"""The data node's access to a share: rules of our own, and the tenant's left as they are."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Sequence

from manila_backup.adapter.cloud import Cloud, CloudShare, Rule
from manila_backup.exception import GrantFailed
from manila_backup.types import AccessLevel

ACTIVE = "active"
ERROR = "error"

_FIRST_LOOK_S = 0.2
_SLOWEST_LOOK_S = 5.0
_ASK_AGAIN_S = 30.0
"""A denial that was asked for may be lost with the share's service, or have failed once."""


class Access:
    """Grants and revokes. ``timeout_s`` is how long the share's service may take."""

    def __init__(
        self, cloud: Cloud, *, timeout_s: float, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._cloud = cloud
        self._timeout_s = timeout_s
        self._sleep = sleep

    def missing(self, share: CloudShare, addresses: Sequence[str], level: AccessLevel) -> list[str]:
        """The addresses that need a rule of ours: those that the tenant has given none.

        A rule of the tenant for exactly this address is used if it suffices. (Manila takes no
        second one; a rule for a network that the address is in does not stand in the way.)
        :raises GrantFailed: the tenant's rule does not suffice; names the address.
        """
        theirs = {
            _network(rule.access_to): rule
            for rule in self._cloud.rules(share.id)
            if rule.access_type == "ip"
        }
        need = []
        for address in addresses:
            rule = theirs.get(_network(address))
            if rule is None:
                need.append(address)
            elif rule.state != ACTIVE or (level is AccessLevel.RW and rule.level != "rw"):
                raise GrantFailed(
                    share_id=share.id,
                    what="given",
                    reason=f"a rule of the share's owner for {address} gives only "
                    f"{rule.level!a} ({rule.state}); it has to be changed or removed",
                )
        return need

    def grant(self, share: CloudShare, rule_id: str, address: str, level: AccessLevel) -> None:
        """Make the rule ``rule_id``; returns when it works.

        :raises GrantFailed: it may have been made all the same; to be revoked.
        """
        self._cloud.add_rule(share.id, rule_id, address, level)
        for _ in self._looks():
            rule = self._rule(share.id, rule_id)
            if rule is None:
                raise _failed(share.id, "given", f"the rule for {address} was removed")
            if rule.state == ACTIVE:
                return
            if rule.state == ERROR:
                raise _failed(share.id, "given", f"the rule for {address} is in error")
        raise _failed(share.id, "given", f"the rule for {address} is not active in time")

    def revoke(self, share_id: str, rule_id: str) -> None:
        """Idempotent; returns when the rule is gone.

        :raises GrantFailed: it may still be there; to be called again.
        """
        asked_s = None
        for _ in self._looks():
            if self._rule(share_id, rule_id) is None:
                return
            if asked_s is None or time.monotonic() - asked_s >= _ASK_AGAIN_S:
                asked_s = time.monotonic()
                self._cloud.deny_rule(share_id, rule_id)
        raise _failed(share_id, "taken away", f"rule {rule_id} is still there")

    def _rule(self, share_id: str, rule_id: str) -> Rule | None:
        return next((rule for rule in self._cloud.rules(share_id) if rule.id == rule_id), None)

    def _looks(self) -> Looks:
        return Looks(self._timeout_s, self._sleep)


class Looks:
    """Iterates, with growing pauses, until the time is over; the last look comes after it."""

    def __init__(self, timeout_s: float, sleep: Callable[[float], None]) -> None:
        self._until_s = time.monotonic() + timeout_s
        self._sleep = sleep
        self._pause_s = 0.0
        self._last = False

    def __iter__(self) -> Looks:
        return self

    def __next__(self) -> None:
        if self._last:
            raise StopIteration
        self._sleep(self._pause_s)
        self._pause_s = min(max(_FIRST_LOOK_S, self._pause_s * 1.5), _SLOWEST_LOOK_S)
        self._last = time.monotonic() >= self._until_s


def _failed(share_id: str, what: str, reason: str) -> GrantFailed:
    return GrantFailed(share_id=share_id, what=what, reason=reason)


def _network(text: str) -> object:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return text
