# SPDX-License-Identifier: Apache-2.0
"""The local share store: shares that are directories of this machine. Its truth is files.

::

    <root>/local-shares.lock
    <root>/store.json                   says that this is a store, and not an empty mount point
    <root>/<share_id>/share.json        the share, its access rules and its mark
    <root>/<share_id>/tree/             its content; belongs to the share's users
    <root>/<share_id>/snapshots/<snapshot_id>/snapshot.json, tree/

Several stores, in threads and processes, may be open on one root. Documents are replaced
atomically under one lock of the whole store, which is held for milliseconds; what takes longer
(removing and copying trees) is done outside it, announced in the document before and protected by
a :class:`~manila_backup.share.local.files.WorkLock`. So a kill leaves at most: a directory
without a document, a ``.new`` document, or a document that says ``removing`` (or, of a snapshot,
``copying``) with nobody working on it. ``recovery.recover`` puts all of these right.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from oslo_concurrency import lockutils

from manila_backup.exception import ShareNotFound, TransientError
from manila_backup.share.local import files
from manila_backup.share.local.changes import being_removed
from manila_backup.share.local.records import (
    LocalShare,
    RecordDamaged,
    dump_share,
    is_uuid,
    load_share,
)

LOG = logging.getLogger(__name__)

STORE_DOCUMENT = "store.json"
SHARE_DOCUMENT = "share.json"
TREE = "tree"
SNAPSHOTS = "snapshots"


def utc_now() -> datetime:
    return datetime.now(UTC)


class LocalShareStore:
    """The shares below one root. Instances may be shared between threads."""

    def __init__(self, root: Path, *, now: Callable[[], datetime] = utc_now) -> None:
        """Open the store, made (0700) if it is not there, and put right what a kill has left."""
        from manila_backup.share.local import recovery

        self.root = root.absolute()
        self._now = now
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        recovery.recover(self)

    def now(self) -> str:
        """The time as the documents have it."""
        return self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")

    def lock(self) -> AbstractContextManager[object]:
        """The lock of the whole store. Not reentrant."""
        lock: AbstractContextManager[object] = lockutils.lock(
            "local-shares.lock", external=True, lock_path=str(self.root), do_log=False
        )
        return lock

    def refuse_if_away(self) -> None:
        """Its disk may be unmounted: that a share is not found then must not read as gone.

        :raises TransientError:
        """
        if not (self.root / STORE_DOCUMENT).exists():
            raise TransientError(reason=f"The local share store {self.root} is not there.")

    # --- paths ------------------------------------------------------------------------------------

    def directory(self, share_id: str) -> Path:
        """:raises ShareNotFound: ``share_id`` is not a UUID and never becomes part of a path."""
        if not is_uuid(share_id):
            raise ShareNotFound(share_id=share_id)
        return self.root / share_id

    def tree(self, share_id: str) -> Path:
        """The directory with the share's content."""
        return self.directory(share_id) / TREE

    def location(self, share_id: str) -> str:
        """What clients are told of where the share is."""
        return str(self.tree(share_id))

    # --- shares -----------------------------------------------------------------------------------

    def create(self, share: LocalShare) -> LocalShare:
        """Make an empty share; durable when it returns.

        :raises TransientError: the store is away.
        """
        directory = self.directory(share.id)
        with self.lock():
            self.refuse_if_away()
            directory.mkdir()
            try:
                (directory / SNAPSHOTS).mkdir(mode=0o700)
                (directory / TREE).mkdir()
                # Whatever the umask is.
                (directory / TREE).chmod(0o755)
                directory.chmod(0o711)
                self.write(share)
                files.sync_directory(self.root)
            except BaseException:
                with suppress(OSError):
                    self.drop_empty(directory)
                raise
        return share

    def get(self, share_id: str) -> LocalShare:
        """:raises ShareNotFound:
        :raises RecordDamaged:
        :raises TransientError: the store is away.
        """
        path = self.directory(share_id) / SHARE_DOCUMENT
        try:
            return load_share(str(path), files.read_document(path))
        except (FileNotFoundError, NotADirectoryError) as exc:
            self.refuse_if_away()
            raise ShareNotFound(share_id=share_id) from exc

    def shares(self) -> Iterator[LocalShare]:
        """All shares in no particular order; damaged ones are logged and left out.

        Reads one small file per share.
        :raises TransientError: the store is away.
        """
        self.refuse_if_away()
        for name in os.listdir(self.root):
            if not is_uuid(name):
                continue
            try:
                yield self.get(name)
            except ShareNotFound:
                continue
            except RecordDamaged as exc:
                LOG.warning("%s", exc)

    def update(
        self, share_id: str, change: Callable[[LocalShare], LocalShare], *, touch: bool = True
    ) -> LocalShare:
        """Replace the share by ``change(share)``, as one step; ``change`` may raise to refuse.

        ``change`` runs under the store's lock and sees the share as it is. ``touch`` sets
        ``updated_at``. A share that ``change`` returns unchanged is not written.
        :raises ShareNotFound:
        """
        with self.lock():
            before = self.get(share_id)
            after = change(before)
            if after == before:
                return before
            if touch:
                after = replace(after, updated_at=self.now())
            self.write(after)
            return after

    def write(self, share: LocalShare) -> None:
        """Store the document. The caller holds the lock and knows what it overwrites."""
        files.write_document(self.directory(share.id) / SHARE_DOCUMENT, dump_share(share))

    # --- deletion ---------------------------------------------------------------------------------

    def begin_delete(self, share_id: str, *, force: bool = False) -> LocalShare:
        """Announce the deletion; :meth:`finish_delete` does it, or the next start of the store.

        Refused as :func:`~manila_backup.share.local.changes.being_removed` says.
        """

        def announce(share: LocalShare) -> LocalShare:
            has_snapshots = bool(self.snapshot_ids(share_id))
            return being_removed(share, force=force, has_snapshots=has_snapshots)

        return self.update(share_id, announce)

    def finish_delete(self, share_id: str) -> None:
        """Remove what ``begin_delete`` has announced. Idempotent; left to whoever is already at it.

        What cannot be removed (a mount inside the tree, an immutable file) is logged and leaves
        the share in ``error_deleting``; another deletion, or the next start, tries again.
        """
        directory = self.directory(share_id)
        with files.work_lock(directory) as ours:
            if not ours or not self._is_removing(share_id):
                return
            try:
                files.remove_tree(directory, TREE)
                with self.lock():
                    self.drop_empty(directory)
            except OSError as exc:
                LOG.warning("Share %s could not be removed: %s", share_id, exc)
                self._fail_delete(share_id)

    def resume(self) -> None:
        """Nothing: what a kill has left is put right when the store is opened."""

    def drop_empty(self, directory: Path) -> None:
        """Remove a share's directory that has no content (any more). The caller holds the lock.

        :raises OSError: there is something in it; then its document is still there, too.
        """
        for name in (TREE, SNAPSHOTS, files.REMOVING):
            with suppress(FileNotFoundError):
                (directory / name).rmdir()
        for name in (SHARE_DOCUMENT, SHARE_DOCUMENT + files.NEW_SUFFIX):
            (directory / name).unlink(missing_ok=True)
        directory.rmdir()
        files.sync_directory(self.root)

    def _is_removing(self, share_id: str) -> bool:
        try:
            return self.get(share_id).removing
        except ShareNotFound:
            return False

    def _fail_delete(self, share_id: str) -> None:
        with suppress(ShareNotFound):
            self.update(share_id, lambda share: replace(share, status="error_deleting"))

    # --- what snapshots need to know --------------------------------------------------------------

    def snapshots_directory(self, share_id: str) -> Path:
        return self.directory(share_id) / SNAPSHOTS

    def snapshot_ids(self, share_id: str) -> tuple[str, ...]:
        """The ids of the share's snapshots, whatever their status; none if there is no share."""
        try:
            names = os.listdir(self.snapshots_directory(share_id))
        except FileNotFoundError:
            return ()
        return tuple(sorted(name for name in names if is_uuid(name)))
