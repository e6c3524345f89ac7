# SPDX-License-Identifier: Apache-2.0
"""Snapshots of local shares, and what a kill in the middle of one leaves behind."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from manila_backup.context import service_context
from manila_backup.exception import (
    Invalid,
    InvalidShare,
    ShareBusy,
    ShareNotFound,
    ShareSnapshotNotFound,
)
from manila_backup.share.local.provider import LocalShareProvider
from manila_backup.share.local.records import LocalShare, LocalSnapshot, RecordDamaged, ShareMark
from manila_backup.share.local.snapshots import LocalSnapshots, TreeCopier
from manila_backup.share.local.store import LocalShareStore
from tests.share.killing import each_kill


def a_share() -> LocalShare:
    return LocalShare(
        id=str(uuid.uuid4()),
        project_id="p",
        user_id="u",
        name=None,
        description=None,
        size_gib=1,
        created_at="2026-11-21T10:00:00.000000",
    )


def a_snapshot(share: LocalShare) -> LocalSnapshot:
    return LocalSnapshot(
        id=str(uuid.uuid4()),
        share_id=share.id,
        project_id="p",
        user_id="u",
        name="before",
        description=None,
        size_gib=1,
        created_at="2026-11-21T10:00:00.000000",
    )


@pytest.fixture
def store(tmp_path: Path) -> LocalShareStore:
    return LocalShareStore(tmp_path / "shares")


@pytest.fixture
def snapshots(store: LocalShareStore) -> LocalSnapshots:
    return LocalSnapshots(store)


@pytest.fixture
def share(store: LocalShareStore) -> LocalShare:
    share = store.create(a_share())
    (store.tree(share.id) / "d").mkdir()
    (store.tree(share.id) / "d" / "file").write_text("content")
    return share


def below(path: Path) -> set[str]:
    return {str(found.relative_to(path)) for found in path.rglob("*")}


def copy_one_file(source_fd: int, target_fd: int) -> None:
    """Enough of a copier for the tests that are about everything around it."""
    os.mkdir("d", dir_fd=target_fd)
    fd = os.open("d/file", os.O_CREAT | os.O_WRONLY, dir_fd=target_fd)
    os.write(fd, b"content")
    os.close(fd)


def test_a_snapshot_keeps_the_tree_as_it_was(
    store: LocalShareStore, snapshots: LocalSnapshots, share: LocalShare
) -> None:
    tree = store.tree(share.id)
    (tree / "link").symlink_to("/etc/hostname")
    os.mkfifo(tree / "pipe")
    taken = snapshots.finish(snapshots.begin(a_snapshot(share)))
    assert taken.status == "available"
    (tree / "d" / "file").write_text("later")
    kept = snapshots.directory(share.id, taken.id) / "tree"
    assert below(kept) == {"d", "d/file", "link", "pipe"}
    assert (kept / "d" / "file").read_text() == "content"
    assert (kept / "link").readlink() == Path("/etc/hostname")
    assert snapshots.get(taken.id) == taken
    assert list(snapshots.all()) == [taken]


def test_creating_until_the_copy_is_there(store: LocalShareStore, share: LocalShare) -> None:
    seen: list[str] = []

    def copy(source_fd: int, target_fd: int) -> None:
        seen.extend(snapshot.status for snapshot in taking.all())

    taking = LocalSnapshots(store, copy)
    taking.finish(taking.begin(a_snapshot(share)))
    assert seen == ["creating"]


def test_a_failed_copy_ends_in_error_without_content(
    store: LocalShareStore, share: LocalShare, caplog: pytest.LogCaptureFixture
) -> None:
    def copy(source_fd: int, target_fd: int) -> None:
        copy_one_file(source_fd, target_fd)
        raise OSError(28, "No space left on device")

    snapshots = LocalSnapshots(store, copy)
    taken = snapshots.finish(snapshots.begin(a_snapshot(share)))
    assert snapshots.get(taken.id).status == "error"
    assert below(snapshots.directory(share.id, taken.id)) == {"snapshot.json"}
    assert "No space left" in caplog.text


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"status": "error"}, InvalidShare),
        ({"status": "deleting"}, InvalidShare),
        ({"mark": ShareMark(operation_id="o", status="backup_restoring")}, InvalidShare),
        ({"task_state": "migration_in_progress"}, ShareBusy),
    ],
)
def test_refused_unless_the_share_is_available(
    store: LocalShareStore,
    snapshots: LocalSnapshots,
    share: LocalShare,
    changes: dict[str, object],
    error: type[Exception],
) -> None:
    store.update(share.id, lambda old: replace(old, **changes))  # type: ignore[arg-type]
    with pytest.raises(error):
        snapshots.begin(a_snapshot(share))
    assert list(snapshots.all()) == []


def test_refused_for_a_share_that_is_not_there(
    store: LocalShareStore, snapshots: LocalSnapshots
) -> None:
    with pytest.raises(ShareNotFound):
        snapshots.begin(a_snapshot(a_share()))
    assert below(store.root) == {"local-shares.lock", "store.json"}


def test_a_share_cannot_be_marked_while_its_snapshot_is_taken(
    store: LocalShareStore, share: LocalShare
) -> None:
    provider = LocalShareProvider(store, bind_mounts=False)
    snapshots = LocalSnapshots(store, copy_one_file)
    pending = snapshots.begin(a_snapshot(share))
    seen = provider.get(service_context(), share.id)
    with pytest.raises(ShareBusy, match=pending.snapshot.id):
        provider.mark(seen, "o", "backup_restoring")
    snapshots.finish(pending)
    provider.mark(seen, "o", "backup_restoring")


def test_another_opening_leaves_a_copy_under_way_alone(
    store: LocalShareStore, share: LocalShare
) -> None:
    """The manage command is started while the service takes a snapshot."""
    copying, go_on = threading.Event(), threading.Event()

    def copy(source_fd: int, target_fd: int) -> None:
        copying.set()
        assert go_on.wait(30)
        copy_one_file(source_fd, target_fd)

    snapshots = LocalSnapshots(store, copy)
    pending = snapshots.begin(a_snapshot(share))
    thread = threading.Thread(target=lambda: snapshots.finish(pending))
    LocalShareStore(store.root)
    thread.start()
    assert copying.wait(30)
    LocalShareStore(store.root)
    go_on.set()
    thread.join()
    assert snapshots.get(pending.snapshot.id).status == "available"


class TestDelete:
    def test_nothing_is_left(
        self, store: LocalShareStore, share: LocalShare, snapshots: LocalSnapshots
    ) -> None:
        snapshots = LocalSnapshots(store, copy_one_file)
        taken = snapshots.finish(snapshots.begin(a_snapshot(share)))
        snapshots.begin_delete(taken.id)
        snapshots.finish_delete(share.id, taken.id)
        snapshots.finish_delete(share.id, taken.id)
        assert below(store.snapshots_directory(share.id)) == set()
        with pytest.raises(ShareSnapshotNotFound):
            snapshots.get(taken.id)

    @pytest.mark.parametrize("status", ["creating", "deleting", "error_deleting"])
    def test_needs_force(self, store: LocalShareStore, share: LocalShare, status: str) -> None:
        snapshots = LocalSnapshots(store, copy_one_file)
        taken = snapshots.finish(snapshots.begin(a_snapshot(share)))
        snapshots.update(taken.id, lambda old: replace(old, status=status))
        with pytest.raises(Invalid, match=status):
            snapshots.begin_delete(taken.id)
        snapshots.begin_delete(taken.id, force=True)
        snapshots.finish_delete(share.id, taken.id)
        assert list(snapshots.all()) == []

    def test_of_one_that_is_being_copied_comes_after_the_copy(
        self, store: LocalShareStore, share: LocalShare
    ) -> None:
        def copy(source_fd: int, target_fd: int) -> None:
            copy_one_file(source_fd, target_fd)
            snapshots.begin_delete(taken.id, force=True)
            snapshots.finish_delete(share.id, taken.id)
            assert snapshots.get(taken.id).status == "deleting"

        taken = a_snapshot(share)
        snapshots = LocalSnapshots(store, copy)
        snapshots.finish(snapshots.begin(taken))
        assert below(store.snapshots_directory(share.id)) == set()

    @pytest.mark.parametrize(
        "snapshot_id", ["", "..", "x/y", "6f0e9a9c-2f0e-4f57-8a39-5b3d1c7e2a10"]
    )
    def test_of_one_that_is_not_there(self, snapshots: LocalSnapshots, snapshot_id: str) -> None:
        with pytest.raises(ShareSnapshotNotFound):
            snapshots.begin_delete(snapshot_id)


@pytest.mark.slow
class TestKilled:
    """Each operation is killed before each of its steps; the next opening puts it right."""

    def _each(
        self,
        tmp_path: Path,
        copy: TreeCopier,
        work: Callable[[LocalSnapshots, LocalSnapshot], object],
    ) -> list[set[str]]:
        """What each kill leaves of the snapshot, after the store was opened again."""
        share = a_share()
        snapshot = a_snapshot(share)
        stores: dict[int, LocalShareStore] = {}

        def prepare(step: int) -> Callable[[], object]:
            stores[step] = LocalShareStore(tmp_path / str(step))
            stores[step].create(share)
            snapshots = LocalSnapshots(stores[step], copy)
            if work is delete:
                snapshots.finish(snapshots.begin(snapshot))
            return lambda: work(snapshots, snapshot)

        left = []
        for step in each_kill(prepare):
            store = LocalShareStore(stores[step].root)
            left.append(below(store.snapshots_directory(share.id)))
            snapshots = LocalSnapshots(store, copy)
            for found in snapshots.all():
                assert found.status == "available"
                delete(snapshots, found)
            snapshots.finish(snapshots.begin(snapshot))
            assert snapshots.get(snapshot.id).status == "available"
        name = snapshot.id
        whole = {name} | {
            f"{name}/{end}" for end in ("snapshot.json", "tree", "tree/d", "tree/d/file")
        }
        assert {frozenset(one) for one in left} == {frozenset(), frozenset(whole)}
        return left

    def test_create(self, tmp_path: Path) -> None:
        left = self._each(tmp_path, copy_one_file, create)
        assert [bool(one) for one in left] == sorted(bool(one) for one in left)

    def test_delete(self, tmp_path: Path) -> None:
        left = self._each(tmp_path, copy_one_file, delete)
        assert [not one for one in left] == sorted(not one for one in left)


def create(snapshots: LocalSnapshots, snapshot: LocalSnapshot) -> None:
    snapshots.finish(snapshots.begin(snapshot))


def delete(snapshots: LocalSnapshots, snapshot: LocalSnapshot) -> None:
    snapshots.begin_delete(snapshot.id)
    snapshots.finish_delete(snapshot.share_id, snapshot.id)


def test_a_status_set_by_hand_removes_nothing(store: LocalShareStore, share: LocalShare) -> None:
    snapshots = LocalSnapshots(store, copy_one_file)
    taken = snapshots.finish(snapshots.begin(a_snapshot(share)))
    for status in ("creating", "deleting", "error_deleting"):
        snapshots.update(taken.id, partial(replace, status=status))
        snapshots.finish_delete(share.id, taken.id)
        LocalShareStore(store.root)
        assert (snapshots.directory(share.id, taken.id) / "tree" / "d" / "file").exists()


def test_a_damaged_document_is_reported_and_nothing_removed(
    store: LocalShareStore, share: LocalShare, caplog: pytest.LogCaptureFixture
) -> None:
    snapshots = LocalSnapshots(store, copy_one_file)
    taken = snapshots.finish(snapshots.begin(a_snapshot(share)))
    (snapshots.directory(share.id, taken.id) / "snapshot.json").write_bytes(b"{")
    before = below(store.root)
    LocalShareStore(store.root)
    assert below(store.root) == before
    assert taken.id in caplog.text
    assert list(snapshots.all()) == []
    with pytest.raises(RecordDamaged):
        snapshots.get(taken.id)
