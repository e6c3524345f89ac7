# SPDX-License-Identifier: Apache-2.0
"""The ``local`` share provider: shares of this machine, for the standalone mode and for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from oslo_config import cfg

from manila_backup.context import RequestContext
from manila_backup.exception import (
    GrantFailed,
    ShareBusy,
    ShareNotFound,
    ShareSnapshotNotFound,
    TransientError,
)
from manila_backup.share.local.access import with_service_rule, without_service_rule
from manila_backup.share.local.changes import as_seen, marked, unmarked
from manila_backup.share.local.options import GROUP
from manila_backup.share.local.records import LocalAccessRule, LocalShare, ShareMark
from manila_backup.share.local.snapshots import LocalSnapshots
from manila_backup.share.local.store import LocalShareStore
from manila_backup.types import AccessLevel, Grant, Mount, Share


class LocalShareProvider:
    """Fulfils :class:`~manila_backup.share.base.ShareProvider` over a :class:`LocalShareStore`.

    ``bind_mounts`` offers trees as bind mounts, which only root can make; without it they are
    offered as plain paths.
    """

    def __init__(self, store: LocalShareStore, *, bind_mounts: bool) -> None:
        self._store = store
        self._proto = "bind" if bind_mounts else "path"

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> LocalShareProvider:
        """As the options of group [local] say; they must be registered."""
        group = conf[GROUP]
        return cls(LocalShareStore(Path(group.shares_directory)), bind_mounts=group.bind_mounts)

    @property
    def store(self) -> LocalShareStore:
        """What the shares API works on."""
        return self._store

    @property
    def snapshots(self) -> LocalSnapshots:
        """The same for snapshots."""
        return LocalSnapshots(self._store)

    def get(self, context: RequestContext, share_id: str) -> Share:
        with _transient():
            share = self._store.get(share_id)
        has_snapshots = bool(self._store.snapshot_ids(share_id))
        return as_seen(share, context, has_snapshots=has_snapshots)

    def mark(self, share: Share, operation_id: str, status: str) -> None:
        wanted = ShareMark(operation_id=operation_id, status=status)

        def set_mark(current: LocalShare) -> LocalShare:
            self._refuse_while_snapshot_is_taken(current)
            return marked(current, wanted)

        with _transient():
            self._store.update(share.id, set_mark, touch=False)

    def _refuse_while_snapshot_is_taken(self, share: LocalShare) -> None:
        """A restore would give the snapshot a mixture of old and new files."""
        snapshots = LocalSnapshots(self._store)
        for snapshot_id in self._store.snapshot_ids(share.id):
            with suppress(ShareSnapshotNotFound):
                if snapshots.read(share.id, snapshot_id).copying:
                    reason = f"snapshot {snapshot_id} is being taken"
                    raise ShareBusy(share_id=share.id, reason=reason)

    def unmark(self, share_id: str, operation_id: str) -> None:
        with _transient(), suppress(ShareNotFound):
            self._store.update(share_id, lambda share: unmarked(share, operation_id), touch=False)

    def grant(self, share: Share, address: str, level: AccessLevel) -> Grant:
        found: list[LocalAccessRule] = []

        def add_rule(current: LocalShare) -> LocalShare:
            if current.removing:
                raise ShareNotFound(share_id=current.id)
            changed, rule = with_service_rule(current, address, level, self._store.now())
            found.append(rule)
            return changed

        try:
            with _transient():
                self._store.update(share.id, add_rule, touch=False)
        except ShareNotFound as exc:
            raise GrantFailed(share_id=share.id, what="given", reason="it is gone") from exc
        except GrantFailed:
            raise
        except TransientError as exc:
            raise GrantFailed(share_id=share.id, what="given", reason=str(exc)) from exc
        rule = found[-1]
        return Grant(
            share_id=share.id, address=address, level=level, ours=rule.ours, reference=rule.id
        )

    def revoke(self, grant: Grant) -> None:
        if not grant.ours:
            return
        try:
            with _transient():
                self._store.update(
                    grant.share_id, lambda share: without_service_rule(share, grant), touch=False
                )
        except ShareNotFound:
            return
        except TransientError as exc:
            raise GrantFailed(share_id=grant.share_id, what="revoked", reason=str(exc)) from exc

    def mounts(self, share: Share) -> list[Mount]:
        with _transient():
            if self._store.get(share.id).removing:
                raise ShareNotFound(share_id=share.id)
        return [Mount(proto=self._proto, export=str(self._store.tree(share.id)))]


@contextmanager
def _transient() -> Iterator[None]:
    """The disk's errors may pass: somebody makes room, a file system comes back."""
    try:
        yield
    except OSError as exc:
        raise TransientError(reason=f"The local share store cannot be used: {exc}") from exc
