# SPDX-License-Identifier: Apache-2.0
"""What the handlers of the local shares API work with."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from oslo_log import log as logging

from manila_backup.api.request import ApiRequest
from manila_backup.db import busy_shares
from manila_backup.db.engine import Database
from manila_backup.exception import ShareNotFound
from manila_backup.share.local.records import LocalShare
from manila_backup.share.stores import KeepsShares, ShareStore, SnapshotStore
from manila_backup.states import ShareStatus

LOG = logging.getLogger(__name__)

Job = Callable[[], object]

HELD = frozenset({ShareStatus.BACKUP_CREATING, ShareStatus.BACKUP_RESTORING})
"""What a share is while an operation of ours is queued or running."""


class BackgroundThreads:
    """Runs jobs that take longer than a client waits: removing trees, copying them.

    At most ``count`` at once, in daemon threads that end when no job is left. When the process
    ends, whatever they were at is put right by the next opening of the store.
    """

    def __init__(self, count: int = 2) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._jobs: deque[Job] = deque()
        self._running = 0

    def __call__(self, job: Job) -> None:
        with self._lock:
            self._jobs.append(job)
            if self._running < self._count:
                threading.Thread(target=self._work, name="shares", daemon=True).start()
                self._running += 1

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except Exception:
                LOG.exception("A job of the local shares API failed unexpectedly")

    def _next(self) -> Job | None:
        with self._lock:
            if self._jobs:
                return self._jobs.popleft()
            self._running -= 1
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalShares:
    """The store, and what it must be told of backups.

    ``busy`` gives the status of those of the given shares that are not available to us;
    ``forget_failed_restore`` drops ``backup_restoring_error`` of a share and nothing else;
    ``background`` runs a job some time, at once in tests.
    """

    store: ShareStore
    snapshots: SnapshotStore
    busy: Callable[[Iterable[str]], Mapping[str, ShareStatus]]
    forget_failed_restore: Callable[[str], object]
    background: Callable[[Job], None]

    def visible(self, request: ApiRequest, share_id: str) -> LocalShare:
        """:raises ShareNotFound: also for a private share of another project."""
        share = self.store.get(share_id)
        if not is_visible(request, share):
            raise ShareNotFound(share_id=share_id)
        return share

    def own(self, request: ApiRequest, share_id: str, policy: str) -> LocalShare:
        """A share that the caller may do ``policy`` to.

        :raises ShareNotFound: as :meth:`visible`.
        :raises PolicyNotAuthorized: it is a public share of another project.
        """
        share = self.visible(request, share_id)
        request.authorize(policy, {"project_id": share.project_id, "user_id": share.user_id})
        return share

    def held(self, share: LocalShare) -> str | None:
        """``backup_creating`` or ``backup_restoring`` while an operation is queued or running.

        The database knows first; the mark still knows when the database was lost.
        """
        status = self.busy([share.id]).get(share.id)
        if status in HELD:
            return str(status)
        return None if share.mark is None else share.mark.status

    def statuses(self, shares: Iterable[LocalShare]) -> dict[str, str]:
        """Share id -> the status that clients see."""
        found = {share.id: share for share in shares}
        busy = self.busy(found)
        return {share.id: shown_status(share, busy.get(share.id)) for share in found.values()}


def over_database(
    provider: KeepsShares, database: Database, background: Callable[[Job], None]
) -> LocalShares:
    """Over a provider's own shares and the rows of this service."""

    def busy(share_ids: Iterable[str]) -> Mapping[str, ShareStatus]:
        wanted = set(share_ids)
        with database.reader() as session:
            if len(wanted) == 1:
                return busy_shares.statuses(session, wanted)
            # Those of all shares are few, and a statement takes only so many parameters.
            found = busy_shares.all_statuses(session)
        return {share_id: found[share_id] for share_id in wanted & found.keys()}

    return LocalShares(
        store=provider.store,
        snapshots=provider.snapshots,
        busy=busy,
        forget_failed_restore=lambda share_id: database.write(
            lambda session: busy_shares.reset(session, share_id)
        ),
        background=background,
    )


def is_visible(request: ApiRequest, share: LocalShare) -> bool:
    context = request.context
    return bool(context.is_admin or share.is_public or share.project_id == context.project_id)


def shown_status(share: LocalShare, busy: ShareStatus | None) -> str:
    """What clients wait for: a running operation hides the share's own status, and a failed
    restore shows in a share that is otherwise well.
    """
    if busy in HELD:
        return str(busy)
    if share.mark is not None:
        return share.mark.status
    if busy is not None and share.status == "available":
        return str(busy)
    return share.status
