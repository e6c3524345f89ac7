# SPDX-License-Identifier: Apache-2.0
"""Snapshots of shares of an NFS server: none. The shares API is told so in the same words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn

from manila_backup.exception import Invalid, ShareSnapshotNotFound
from manila_backup.share.local.records import LocalSnapshot


class NoSnapshots:
    """Fulfils :class:`~manila_backup.share.stores.SnapshotStore`."""

    def begin(self, snapshot: LocalSnapshot) -> NoReturn:
        raise Invalid(reason="Shares of an NFS server have no snapshots here.")

    def finish(self, pending: object) -> NoReturn:
        raise AssertionError("none was begun")  # pragma: no cover

    def get(self, snapshot_id: str) -> NoReturn:
        raise ShareSnapshotNotFound(snapshot_id=snapshot_id)

    def all(self) -> Iterator[LocalSnapshot]:
        return iter(())

    def update(
        self, snapshot_id: str, change: Callable[[LocalSnapshot], LocalSnapshot]
    ) -> NoReturn:
        raise ShareSnapshotNotFound(snapshot_id=snapshot_id)

    def begin_delete(self, snapshot_id: str, *, force: bool = False) -> NoReturn:
        raise ShareSnapshotNotFound(snapshot_id=snapshot_id)

    def finish_delete(self, share_id: str, snapshot_id: str) -> None:
        return
