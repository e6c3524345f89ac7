# SPDX-License-Identifier: Apache-2.0
"""The local share store: documents, compare-and-swap, deletion, and what a kill leaves behind."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from manila_backup.exception import InvalidShare, ShareBusy, ShareNotFound, TransientError
from manila_backup.share.local import files
from manila_backup.share.local.changes import BUSY_TASK_STATES, resized
from manila_backup.share.local.records import (
    LocalAccessRule,
    LocalShare,
    RecordDamaged,
    ShareMark,
)
from manila_backup.share.local.store import LocalShareStore
from manila_backup.types import AccessLevel
from tests.share.killing import each_kill

MARK = ShareMark(operation_id="op", status="backup_creating")


@pytest.fixture
def store(tmp_path: Path) -> LocalShareStore:
    return LocalShareStore(tmp_path / "shares")


def a_share(**changes: object) -> LocalShare:
    share = LocalShare(
        id=str(uuid.uuid4()),
        project_id="p",
        user_id="u",
        name="größe\n",
        description=None,
        size_gib=2,
        created_at="2026-11-21T10:00:00.000000",
    )
    return replace(share, **changes)  # type: ignore[arg-type]


def files_below(root: Path) -> set[str]:
    """Everything in the store but what every store has."""
    found = {str(path.relative_to(root)) for path in root.rglob("*")}
    return found - {"local-shares.lock", "store.json"}


def whole_share(share: LocalShare) -> set[str]:
    return {share.id, f"{share.id}/share.json", f"{share.id}/tree", f"{share.id}/snapshots"}


def test_a_share_comes_back_with_everything_it_has(store: LocalShareStore) -> None:
    rule = LocalAccessRule(
        id=str(uuid.uuid4()),
        access_type="ip",
        access_to="10.0.0.1",
        access_level=AccessLevel.RO,
        created_at="2026-11-21T10:00:00.000000",
        ours=True,
        metadata={"k": "v"},
    )
    share = a_share(mark=MARK, access_rules=(rule,), metadata={"a": "b"}, is_public=True)
    store.create(share)
    again = LocalShareStore(store.root)
    assert again.get(share.id) == share
    assert list(again.shares()) == [share]


def test_directories_keep_strangers_out_of_all_but_the_tree(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        store = LocalShareStore(tmp_path / "shares")
        share = store.create(a_share())
    finally:
        os.umask(before)
    directory = store.directory(share.id)
    modes = {
        str(path.relative_to(store.root.parent)).replace(share.id, "ID"): path.stat().st_mode
        & 0o7777
        for path in (store.root, directory, *directory.iterdir())
    }
    assert modes == {
        "shares": 0o700,
        "shares/ID": 0o711,
        "shares/ID/tree": 0o755,
        "shares/ID/snapshots": 0o700,
        "shares/ID/share.json": 0o600,
    }


@pytest.mark.parametrize("share_id", ["", ".", "..", "../../etc", "a/b", "A" * 36, "\0"])
def test_what_is_no_uuid_never_touches_a_path(store: LocalShareStore, share_id: str) -> None:
    with pytest.raises(ShareNotFound):
        store.directory(share_id)


def test_update_is_refused_by_raising_and_writes_only_changes(tmp_path: Path) -> None:
    store = LocalShareStore(tmp_path, now=lambda: datetime(2026, 11, 21, 12, tzinfo=UTC))
    share = store.create(a_share())
    document = store.directory(share.id) / "share.json"
    before = document.stat().st_ino
    with pytest.raises(ShareBusy):
        store.update(share.id, lambda current: _raise(ShareBusy(share_id="x", reason="y")))
    assert store.update(share.id, replace) == share
    assert document.stat().st_ino == before
    assert store.update(share.id, lambda current: replace(current, name="b")).updated_at == (
        "2026-11-21T12:00:00.000000"
    )
    # Replaced, never rewritten in place: a reader, or a kill, sees the one or the other.
    assert document.stat().st_ino != before


def _raise(error: Exception) -> LocalShare:
    raise error


@pytest.mark.parametrize("leave", ["nothing", "an empty mount point"])
def test_a_store_that_is_away_is_not_an_empty_one(store: LocalShareStore, leave: str) -> None:
    share = store.create(a_share())
    store.root.rename(store.root.with_name("unmounted"))
    if leave == "an empty mount point":
        store.root.mkdir()
    for use in (
        lambda: store.get(share.id),
        lambda: list(store.shares()),
        lambda: store.update(share.id, lambda old: replace(old, mark=None)),
        lambda: store.create(a_share()),
        lambda: store.begin_delete(share.id),
    ):
        with pytest.raises(TransientError, match="is not there"):
            use()
    assert files_below(store.root) == set()


def test_update_of_a_missing_share(store: LocalShareStore) -> None:
    with pytest.raises(ShareNotFound):
        store.update(str(uuid.uuid4()), lambda share: share)


_RACER = """
import dataclasses, pathlib, sys
from manila_backup.share.local.store import LocalShareStore
store = LocalShareStore(pathlib.Path(sys.argv[1]))
sys.stdin.readline()
for _ in range(100):
    store.update(sys.argv[2], lambda s: dataclasses.replace(s, size_gib=s.size_gib + 1))
"""


def test_two_processes_on_one_store_lose_no_update(store: LocalShareStore) -> None:
    share = store.create(a_share(size_gib=1))
    command = [sys.executable, "-c", _RACER, str(store.root), share.id]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(2)]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(b"go\n")
        racer.stdin.flush()
    for racer in racers:
        racer.communicate()
        assert racer.returncode == 0
    assert store.get(share.id).size_gib == 201


class TestRefusals:
    @pytest.mark.parametrize("status", ["available", "error", "inactive"])
    def test_delete_is_accepted(self, store: LocalShareStore, status: str) -> None:
        share = store.create(a_share(status=status))
        assert store.begin_delete(share.id).status == "deleting"

    @pytest.mark.parametrize("status", ["creating", "deleting", "error_deleting", "extending"])
    def test_delete_needs_force(self, store: LocalShareStore, status: str) -> None:
        share = store.create(a_share(status=status))
        with pytest.raises(InvalidShare, match=status):
            store.begin_delete(share.id)
        store.begin_delete(share.id, force=True)
        store.finish_delete(share.id)
        assert files_below(store.root) == set()

    @pytest.mark.parametrize("force", [False, True])
    def test_delete_while_a_backup_operation_holds_the_share(
        self, store: LocalShareStore, force: bool
    ) -> None:
        share = store.create(a_share(mark=MARK))
        with pytest.raises(InvalidShare, match="backup_creating"):
            store.begin_delete(share.id, force=force)

    @pytest.mark.parametrize("force", [False, True])
    @pytest.mark.parametrize("task_state", sorted(BUSY_TASK_STATES))
    def test_delete_while_a_task_holds_the_share(
        self, store: LocalShareStore, task_state: str, force: bool
    ) -> None:
        share = store.create(a_share(task_state=task_state))
        with pytest.raises(ShareBusy, match=task_state):
            store.begin_delete(share.id, force=force)

    def test_delete_with_snapshots(self, store: LocalShareStore) -> None:
        share = store.create(a_share())
        (store.snapshots_directory(share.id) / str(uuid.uuid4())).mkdir()
        with pytest.raises(InvalidShare, match="snapshots"):
            store.begin_delete(share.id, force=True)

    @pytest.mark.parametrize(
        "changes",
        [{"status": "error"}, {"status": "extending"}, {"mark": MARK}],
    )
    def test_resize_needs_an_available_share(
        self, store: LocalShareStore, changes: dict[str, object]
    ) -> None:
        share = store.create(a_share(**changes))
        with pytest.raises(InvalidShare):
            store.update(share.id, lambda current: resized(current, 5))

    def test_resize_while_a_task_holds_the_share(self, store: LocalShareStore) -> None:
        share = store.create(a_share(task_state="data_copying_completed"))
        with pytest.raises(ShareBusy):
            store.update(share.id, lambda current: resized(current, 5))

    def test_a_task_that_has_ended_holds_nothing(self, store: LocalShareStore) -> None:
        share = store.create(a_share(task_state="data_copying_error"))
        assert store.update(share.id, lambda current: resized(current, 5)).size_gib == 5


class TestDelete:
    def test_nothing_is_left(self, store: LocalShareStore) -> None:
        share, other = store.create(a_share()), store.create(a_share())
        fill(store.tree(share.id))
        store.begin_delete(share.id)
        assert store.get(share.id).status == "deleting"
        store.finish_delete(share.id)
        store.finish_delete(share.id)
        assert files_below(store.root) == whole_share(other)

    def test_only_what_was_announced_is_removed(self, store: LocalShareStore) -> None:
        share = store.create(a_share())
        store.finish_delete(share.id)
        assert files_below(store.root) == whole_share(share)

    def test_a_deletion_that_another_is_at_is_left_to_it(self, store: LocalShareStore) -> None:
        share = store.create(a_share())
        store.begin_delete(share.id)
        with files.work_lock(store.directory(share.id)) as ours:
            assert ours
            LocalShareStore(store.root).finish_delete(share.id)
            assert files_below(store.root) == whole_share(share)
        store.finish_delete(share.id)
        assert files_below(store.root) == set()

    @pytest.mark.root
    def test_a_mount_in_the_tree_stops_it(
        self, store: LocalShareStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        share = store.create(a_share())
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "file").write_text("x")
        inside = store.tree(share.id) / "a" / "mounted"
        inside.mkdir(parents=True)
        subprocess.run(["mount", "--bind", precious, inside], check=True)
        try:
            store.begin_delete(share.id)
            store.finish_delete(share.id)
        finally:
            where = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
            subprocess.run(
                ["umount", next(path for path in where if path.startswith(str(store.root)))],
                check=True,
            )
        assert (precious / "file").read_text() == "x"
        assert store.get(share.id).status == "error_deleting"
        assert share.id in caplog.text
        LocalShareStore(store.root)
        assert files_below(store.root) == set()


def fill(tree: Path) -> None:
    (tree / "d" / "e").mkdir(parents=True)
    (tree / "d" / "e" / "file").write_text("content")
    (tree / "d" / "link").symlink_to("/etc")
    os.mkfifo(tree / "pipe")


@pytest.mark.slow
class TestKilled:
    """Each operation is killed before each of its steps; the next opening puts it right."""

    def test_create(self, tmp_path: Path) -> None:
        share = a_share()
        stores: dict[int, LocalShareStore] = {}

        def work(step: int) -> Callable[[], object]:
            stores[step] = LocalShareStore(tmp_path / str(step))
            return lambda: stores[step].create(share)

        ends = set()
        for step in each_kill(work):
            store = LocalShareStore(stores[step].root)
            ends.add(len(files_below(store.root)))
            assert files_below(store.root) in (set(), whole_share(share))
            if not files_below(store.root):
                store.create(share)
            assert store.get(share.id) == share
        assert ends == {0, 4}

    def test_update(self, tmp_path: Path) -> None:
        share = a_share()
        stores: dict[int, LocalShareStore] = {}

        def work(step: int) -> Callable[[], object]:
            stores[step] = LocalShareStore(tmp_path / str(step))
            stores[step].create(share)
            return lambda: stores[step].update(share.id, lambda old: replace(old, name="new"))

        names = set()
        for step in each_kill(work):
            # Whoever reads before the store is opened again sees one or the other, too.
            assert stores[step].get(share.id).name in {"größe\n", "new"}
            store = LocalShareStore(stores[step].root)
            assert files_below(store.root) == whole_share(share)
            names.add(store.get(share.id).name)
            assert store.update(share.id, lambda old: replace(old, name="again")).name == "again"
        assert names == {"größe\n", "new"}

    def test_delete(self, tmp_path: Path) -> None:
        stores: dict[int, LocalShareStore] = {}
        share = a_share()

        def work(step: int) -> Callable[[], object]:
            stores[step] = LocalShareStore(tmp_path / str(step))
            stores[step].create(share)
            fill(stores[step].tree(share.id))
            return lambda: delete(stores[step], share.id)

        gone = []
        for step in each_kill(work):
            store = LocalShareStore(stores[step].root)
            gone.append(not files_below(store.root))
            if not gone[-1]:
                assert store.get(share.id) == share
                assert (store.tree(share.id) / "d" / "e" / "file").read_text() == "content"
        # From the moment it is announced on there is no way back.
        assert gone == sorted(gone)
        assert set(gone) == {False, True}

    def test_recovery_of_a_delete(self, tmp_path: Path) -> None:
        share = a_share()
        roots: dict[int, Path] = {}

        def work(step: int) -> Callable[[], object]:
            store = LocalShareStore(tmp_path / str(step))
            roots[step] = store.root
            store.create(share)
            fill(store.tree(share.id))
            store.begin_delete(share.id)
            return lambda: LocalShareStore(store.root)

        for step in each_kill(work):
            LocalShareStore(roots[step])
            assert files_below(roots[step]) == set()


def delete(store: LocalShareStore, share_id: str) -> None:
    store.begin_delete(share_id)
    store.finish_delete(share_id)


class TestOpening:
    @pytest.mark.parametrize("status", ["creating", "deleting", "error_deleting"])
    def test_a_status_set_by_hand_removes_nothing(
        self, store: LocalShareStore, status: str
    ) -> None:
        share = store.create(a_share(status=status))
        store.finish_delete(share.id)
        LocalShareStore(store.root)
        assert files_below(store.root) == whole_share(share)

    def test_a_directory_without_document_but_with_content_is_left(
        self, store: LocalShareStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        # Somebody restored the store from a backup of his own and missed a file.
        share = store.create(a_share())
        fill(store.tree(share.id))
        (store.directory(share.id) / "share.json").unlink()
        before = files_below(store.root)
        again = LocalShareStore(store.root)
        assert files_below(store.root) == before
        assert share.id in caplog.text
        assert list(again.shares()) == []

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b"\xff",
            b'{"format": "x"}',
            b'{"format": "manila-backup-local-share"}',
            b'{"format": "manila-backup-local-share", "version": 1}',
            b'{"format": "manila-backup-local-share", "version": 1, "access_rules": [1]}',
        ],
    )
    def test_a_damaged_document_is_reported_and_nothing_removed(
        self, store: LocalShareStore, content: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        share, good = store.create(a_share()), store.create(a_share())
        fill(store.tree(share.id))
        (store.directory(share.id) / "share.json").write_bytes(content)
        before = files_below(store.root)
        again = LocalShareStore(store.root)
        assert files_below(store.root) == before
        assert share.id in caplog.text
        with pytest.raises(RecordDamaged, match=share.id):
            again.get(share.id)
        assert list(again.shares()) == [good]

    def test_a_later_version_is_refused_by_name(self, store: LocalShareStore) -> None:
        share = store.create(a_share())
        path = store.directory(share.id) / "share.json"
        document = json.loads(path.read_text())
        path.write_text(json.dumps(document | {"version": 2}))
        with pytest.raises(RecordDamaged, match="version is 2"):
            store.get(share.id)

    def test_unknown_keys_are_ignored(self, store: LocalShareStore) -> None:
        share = store.create(a_share(mark=MARK))
        path = store.directory(share.id) / "share.json"
        document = json.loads(path.read_text())
        path.write_text(json.dumps(document | {"news": 1, "mark": document["mark"] | {"x": 2}}))
        assert store.get(share.id) == share

    def test_foreign_names_are_not_touched(self, store: LocalShareStore) -> None:
        (store.root / "lost+found").mkdir()
        (store.root / "notes.txt").write_text("mine")
        (store.root / str(uuid.uuid4())).write_text("a file with a share's name")
        before = files_below(store.root)
        assert list(LocalShareStore(store.root).shares()) == []
        assert files_below(store.root) == before

    def test_no_warning_without_a_reason(
        self, store: LocalShareStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        store.create(a_share())
        with caplog.at_level(logging.INFO):
            LocalShareStore(store.root)
        assert caplog.records == []

    def test_an_empty_new_document_disappears(self, store: LocalShareStore) -> None:
        # Killed between opening the new document and writing it.
        share = store.create(a_share())
        (store.directory(share.id) / "share.json.new").touch()
        LocalShareStore(store.root)
        assert files_below(store.root) == whole_share(share)
