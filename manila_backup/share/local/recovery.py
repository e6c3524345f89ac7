# SPDX-License-Identifier: Apache-2.0
"""What a kill has left in a local share store is put right when the store is opened.

Other processes may have the same store open and be at work in it: what somebody holds the work
lock of is left alone, and documents are looked at under the store's lock only. Nothing that could
be a user's data is removed unless a document says so.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from manila_backup.exception import ShareNotFound, ShareSnapshotNotFound
from manila_backup.share.local import files
from manila_backup.share.local.records import (
    LocalShare,
    LocalSnapshot,
    RecordDamaged,
    dump_store,
    is_uuid,
)
from manila_backup.share.local.snapshots import SNAPSHOT_DOCUMENT, LocalSnapshots, drop_empty
from manila_backup.share.local.store import SHARE_DOCUMENT, STORE_DOCUMENT, LocalShareStore

LOG = logging.getLogger(__name__)


def recover(store: LocalShareStore) -> None:
    """Finish what was begun: creations that never got a document, deletions, snapshots.

    Idempotent. Takes as long as the removal of what was being deleted.
    """
    with store.lock():
        if not (store.root / STORE_DOCUMENT).exists():
            files.write_document(store.root / STORE_DOCUMENT, dump_store())
    for share_id in sorted(filter(is_uuid, os.listdir(store.root))):
        with _oddities_logged(store.directory(share_id)):
            if _look_at_share(store, share_id).removing:
                store.finish_delete(share_id)
            else:
                _recover_snapshots(store, share_id)


def _look_at_share(store: LocalShareStore, share_id: str) -> LocalShare:
    directory = store.directory(share_id)
    with store.lock():
        if (directory / SHARE_DOCUMENT).exists():
            (directory / (SHARE_DOCUMENT + files.NEW_SUFFIX)).unlink(missing_ok=True)
        else:
            # A create got so far, or a deletion; neither leaves content without a document.
            store.drop_empty(directory)
        return store.get(share_id)


def _recover_snapshots(store: LocalShareStore, share_id: str) -> None:
    snapshots = LocalSnapshots(store)
    for snapshot_id in store.snapshot_ids(share_id):
        directory = snapshots.directory(share_id, snapshot_id)
        with _oddities_logged(directory):
            if _look_at_snapshot(store, snapshots, share_id, snapshot_id).removing:
                snapshots.finish_delete(share_id, snapshot_id)


def _look_at_snapshot(
    store: LocalShareStore, snapshots: LocalSnapshots, share_id: str, snapshot_id: str
) -> LocalSnapshot:
    directory = snapshots.directory(share_id, snapshot_id)
    with store.lock(), files.work_lock(directory) as abandoned:
        if not (directory / SNAPSHOT_DOCUMENT).exists():
            drop_empty(directory)
        snapshot = snapshots.read(share_id, snapshot_id)
        if abandoned:
            (directory / (SNAPSHOT_DOCUMENT + files.NEW_SUFFIX)).unlink(missing_ok=True)
        if not (abandoned and snapshot.copying):
            return snapshot
    # Nobody takes the copy up again between these lines: only ``begin`` starts one, of a snapshot
    # that is not there yet.
    return snapshots.begin_delete(snapshot_id, force=True)


@contextmanager
def _oddities_logged(directory: Path) -> Iterator[None]:
    """What is not as the store leaves it, even after a kill, is not touched and stops nothing."""
    try:
        yield
    except (ShareNotFound, ShareSnapshotNotFound, FileNotFoundError):
        pass
    except (OSError, RecordDamaged) as exc:
        LOG.warning("%s is left as it is: %s", directory, exc)
