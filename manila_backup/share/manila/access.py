# SPDX-License-Identifier: Apache-2.0
"""Giving a data node's address access to a share, and taking it away with certainty."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from manilaclient import exceptions

from manila_backup.exception import GrantFailed, ShareNotFound, TransientError
from manila_backup.share.manila.client import RULE_LOCKS, ManilaApi
from manila_backup.share.manila.faults import faults, said
from manila_backup.share.manila.rules import GOING, LOCK_REASON, METADATA, Rule, Rules
from manila_backup.types import AccessLevel, Grant, Share

FIRST_LOOK_S = 0.25
LOOK_EVERY_S = 2.0


class Access:
    """:param timeout_s: how long Manila may take to apply or to remove a rule."""

    def __init__(
        self,
        api: ManilaApi,
        *,
        timeout_s: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._api = api
        self._rules = Rules(api)
        self._timeout_s = timeout_s
        self._sleep = sleep

    def grant(self, share: Share, address: str, level: AccessLevel) -> Grant:
        """:raises GrantFailed:"""
        with _failures(share.id, "given"):
            made = False
            for _ in self._looks("the access rule is not active"):
                rule = self._rule(share.id, address)
                if rule is None:
                    self._allow(share.id, address, level)
                    made = True
                elif self._works(share.id, rule, address, level, made=made):
                    return Grant(
                        share_id=share.id,
                        address=address,
                        level=level,
                        ours=rule.ours,
                        reference=rule.id,
                    )
        raise AssertionError("unreachable")  # pragma: no cover

    def revoke(self, grant: Grant) -> None:
        """:raises GrantFailed: it may still be there."""
        if not grant.ours:
            return
        try:
            with _failures(grant.share_id, "revoked"):
                self._until_gone(grant.share_id, grant.address)
        except _Gone:
            return

    # --- steps ------------------------------------------------------------------------------------

    def _rule(self, share_id: str, address: str) -> Rule | None:
        """What is there now, ours if there are two. Nothing is remembered of how it came to be, so
        an earlier attempt, or an answer of Manila's that was lost, makes no difference."""
        rules = self._rules.of_address(share_id, address)
        return rules[0] if rules else None

    def _works(
        self, share_id: str, rule: Rule, address: str, level: AccessLevel, *, made: bool
    ) -> bool:
        """Whether the rule gives what is needed; if not, and it is ours, make way for a better one.

        :param made: it was made just now, and not by an earlier attempt.
        """
        if rule.state in GOING:
            return False
        if not rule.ours:
            _refuse_insufficient(rule, address, level)
        elif rule.state == "error" and made:
            raise TransientError(reason=f"Manila could not put the rule for {address} into force")
        elif rule.state == "error" or not rule.suffices(level):
            self._deny(share_id, rule)
            return False
        return rule.state == "active"

    def _allow(self, share_id: str, address: str, level: AccessLevel) -> None:
        locks = {}
        if self._api.has(RULE_LOCKS):
            locks = {"lock_visibility": True, "lock_deletion": True, "lock_reason": LOCK_REASON}
        client = self._api.as_service()
        try:
            client.shares.allow(share_id, "ip", address, str(level), metadata=METADATA, **locks)
        except exceptions.CommandError as exc:  # the client's own check of the address
            raise TransientError(reason=f"{address}: {said(exc)}") from exc
        except exceptions.NotFound as exc:
            raise ShareNotFound(share_id=share_id) from exc
        except exceptions.BadRequest as exc:
            # Somebody was quicker, or an earlier try of this request has made it; or its locks
            # could not be made, and it works without them.
            if not self._rules.of_address(share_id, address):
                raise TransientError(reason=f"{address}: {said(exc)}") from exc

    def _until_gone(self, share_id: str, address: str) -> None:
        for _ in self._looks("the access rule is still there"):
            own = [rule for rule in self._rules.of_address(share_id, address) if rule.ours]
            if not own:
                return
            for rule in own:
                if rule.state not in GOING:
                    self._deny(share_id, rule)

    def _deny(self, share_id: str, rule: Rule) -> None:
        unrestrict = {"unrestrict": True} if self._api.has(RULE_LOCKS) else {}
        try:
            self._api.as_service().shares.deny(share_id, rule.id, **unrestrict)
        except exceptions.NotFound:
            return  # the rule, or the share: the next look tells

    def _looks(self, what: str) -> Iterator[None]:
        """At growing distances until the time is over.

        :raises TransientError: it is.
        """
        until_s = time.monotonic() + self._timeout_s
        pause_s = FIRST_LOOK_S
        while True:
            yield
            if time.monotonic() + pause_s > until_s:
                raise TransientError(reason=f"{what} within {self._timeout_s:g} s")
            self._sleep(pause_s)
            pause_s = min(pause_s * 1.5, LOOK_EVERY_S)


class _Gone(GrantFailed):
    """The share is; it has no rules."""


@contextmanager
def _failures(share_id: str, what: str) -> Iterator[None]:
    try:
        with faults(f"change the access rules of share {share_id}"):
            yield
    except ShareNotFound as exc:
        raise _Gone(share_id=share_id, what=what, reason="it is gone") from exc
    except TransientError as exc:
        if isinstance(exc, GrantFailed):
            raise
        raise GrantFailed(share_id=share_id, what=what, reason=str(exc)) from exc


def _refuse_insufficient(rule: Rule, address: str, level: AccessLevel) -> None:
    if not rule.suffices(level):
        reason = (
            f"the share has an access rule for {address} that allows {rule.level} only; "
            f"{level} is needed"
        )
        raise TransientError(reason=reason)
    if rule.state == "error":
        reason = f"the share's own access rule for {address} is in error"
        raise TransientError(reason=reason)
