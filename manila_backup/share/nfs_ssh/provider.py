# SPDX-License-Identifier: Apache-2.0
"""The ``nfs_ssh`` share provider: shares of a plain NFS server, managed through SSH."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from oslo_config import cfg

from manila_backup.context import RequestContext
from manila_backup.exception import GrantFailed, ShareNotFound, TransientError
from manila_backup.share.local.access import with_service_rule, without_service_rule
from manila_backup.share.local.changes import as_seen, marked, unmarked
from manila_backup.share.local.records import LocalAccessRule, LocalShare, ShareMark
from manila_backup.share.nfs_ssh.clients import client_of
from manila_backup.share.nfs_ssh.exports import Entry
from manila_backup.share.nfs_ssh.options import settings_from_conf
from manila_backup.share.nfs_ssh.server import Server
from manila_backup.share.nfs_ssh.snapshots import NoSnapshots
from manila_backup.share.nfs_ssh.store import ExportedAlready, NfsSshStore
from manila_backup.types import AccessLevel, Grant, Mount, Share


class NfsSshShareProvider:
    """Fulfils :class:`~manila_backup.share.base.ShareProvider` over a :class:`NfsSshStore`.

    A grant of ours is a rule in the share's record and an entry of exportfs. The rule is there
    first, and goes first: what is in force is brought in line with it, by this call or, after a
    kill, by the next one for the same address.
    """

    def __init__(self, store: NfsSshStore, *, mount_options: tuple[str, ...] = ()) -> None:
        self._store = store
        self._mount_options = mount_options

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> NfsSshShareProvider:
        """As the options of group [nfs_ssh] say; they must be registered.

        :raises ValueError: one is missing or wrong; the message names it.
        """
        ssh, settings = settings_from_conf(conf)
        return cls(NfsSshStore(Server(ssh), settings), mount_options=settings.mount_options)

    @property
    def store(self) -> NfsSshStore:
        """What the shares API works on."""
        return self._store

    @property
    def snapshots(self) -> NoSnapshots:
        return NoSnapshots()

    def get(self, context: RequestContext, share_id: str) -> Share:
        return as_seen(self._store.get(share_id), context, has_snapshots=False)

    def mark(self, share: Share, operation_id: str, status: str) -> None:
        mark = ShareMark(operation_id=operation_id, status=status)
        self._store.update(share.id, lambda current: marked(current, mark), touch=False)

    def unmark(self, share_id: str, operation_id: str) -> None:
        with suppress(ShareNotFound):
            self._store.update(
                share_id, lambda current: unmarked(current, operation_id), touch=False
            )

    def grant(self, share: Share, address: str, level: AccessLevel) -> Grant:
        """As the contract says; what the server's administrator has exported to the address by
        himself counts as a rule of the tenant's.
        """
        client = client_of(address)
        if client is None:
            raise GrantFailed(
                share_id=share.id, what="given", reason=f"{address} is not an address"
            )
        with _failures(share.id, "given"):
            try:
                rule = self._rule(share.id, client, address, level)
            except ExportedAlready:
                self._refuse_insufficient(share.id, address, level)
                return Grant(share_id=share.id, address=address, level=level, ours=False)
        return Grant(
            share_id=share.id, address=address, level=level, ours=rule.ours, reference=rule.id
        )

    def _rule(
        self, share_id: str, client: str, address: str, level: AccessLevel
    ) -> LocalAccessRule:
        """The rule that lets the address in, added to the record if need be, and in force."""
        found: list[LocalAccessRule] = []

        def add(current: LocalShare) -> LocalShare:
            if current.removing:
                raise ShareNotFound(share_id=current.id)
            changed, rule = with_service_rule(current, address, level, self._store.now())
            found.append(rule)
            return changed

        self._store.update(share_id, add, touch=False, also=(client,))
        return found[-1]

    def _refuse_insufficient(self, share_id: str, address: str, level: AccessLevel) -> None:
        entry = self._store.foreign(share_id, client_of(address) or address)
        if entry is None:
            raise TransientError(reason=f"the server's own export to {address} has just changed")
        lacking = _lacking(entry, level)
        if lacking:
            raise TransientError(
                reason=f"the server's administrator exports it to {address} without {lacking}"
            )

    def revoke(self, grant: Grant) -> None:
        client = client_of(grant.address)
        if not grant.ours or client is None:
            return
        with _failures(grant.share_id, "revoked"):
            # Also if the rule is gone, or the share: they go before what they have put into force.
            try:
                self._store.update(
                    grant.share_id,
                    lambda share: without_service_rule(share, grant),
                    touch=False,
                    also=(client,),
                )
            except ShareNotFound:
                with suppress(ShareNotFound):
                    self._store.follow(grant.share_id, [client])

    def mounts(self, share: Share) -> list[Mount]:
        if self._store.get(share.id).removing:
            raise ShareNotFound(share_id=share.id)
        export = self._store.location(share.id)
        return [Mount(proto="nfs", export=export, options=self._mount_options)]


def _lacking(entry: Entry, level: AccessLevel) -> str:
    """What an entry that is not ours lacks, in words of exports(5); empty if it suffices."""
    if entry.level not in (level, AccessLevel.RW):
        return level.value
    return "no_root_squash" if "no_root_squash" not in entry.options else ""


@contextmanager
def _failures(share_id: str, what: str) -> Iterator[None]:
    """:raises GrantFailed: for whatever may pass, and for a share that is gone."""
    try:
        yield
    except GrantFailed:
        raise
    except ShareNotFound as exc:
        raise GrantFailed(share_id=share_id, what=what, reason="it is gone") from exc
    except TransientError as exc:
        raise GrantFailed(share_id=share_id, what=what, reason=str(exc)) from exc
