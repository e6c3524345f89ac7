# SPDX-License-Identifier: Apache-2.0
"""What the shares API needs of a provider whose shares have no API of their own elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

from manila_backup.share.local.records import LocalShare, LocalSnapshot


class ShareStore(Protocol):
    """Records of shares, and their trees."""

    def now(self) -> str:
        """The time as records have it."""
        ...

    def location(self, share_id: str) -> str:
        """What clients mount, or where they find the share."""
        ...

    def get(self, share_id: str) -> LocalShare:
        """:raises ShareNotFound:"""
        ...

    def shares(self) -> Iterator[LocalShare]:
        """All of them, in no particular order."""
        ...

    def create(self, share: LocalShare) -> LocalShare:
        """Make an empty share; durable when it returns."""
        ...

    def update(
        self, share_id: str, change: Callable[[LocalShare], LocalShare], *, touch: bool = True
    ) -> LocalShare:
        """Replace the share by ``change(share)``, as one step; ``change`` may raise to refuse, and
        may be called more than once.

        :raises ShareNotFound:
        """
        ...

    def begin_delete(self, share_id: str, *, force: bool = False) -> LocalShare:
        """Announce the deletion.

        :raises InvalidShare: something does not allow it.
        :raises ShareBusy: a task of the share holds it.
        """
        ...

    def finish_delete(self, share_id: str) -> None:
        """Do what was announced. Idempotent."""
        ...

    def resume(self) -> None:
        """Finish what processes that are gone have left announced. Idempotent; takes its time.

        :raises TransientError: the store is away.
        """
        ...


class SnapshotStore(Protocol):
    """Snapshots of the same shares; see :class:`~manila_backup.share.local.snapshots`."""

    def begin(self, snapshot: LocalSnapshot) -> Any: ...

    def finish(self, pending: Any) -> object: ...

    def get(self, snapshot_id: str) -> LocalSnapshot: ...

    def all(self) -> Iterator[LocalSnapshot]: ...

    def update(
        self, snapshot_id: str, change: Callable[[LocalSnapshot], LocalSnapshot]
    ) -> LocalSnapshot: ...

    def begin_delete(self, snapshot_id: str, *, force: bool = False) -> LocalSnapshot: ...

    def finish_delete(self, share_id: str, snapshot_id: str) -> None: ...


@runtime_checkable
class KeepsShares(Protocol):
    """A share provider that brings both, and so gets the shares API."""

    @property
    def store(self) -> ShareStore: ...

    @property
    def snapshots(self) -> SnapshotStore: ...
