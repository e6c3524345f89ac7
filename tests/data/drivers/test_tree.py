# SPDX-License-Identifier: Apache-2.0
"""What is particular to the tree driver: the browsable tree, and what it refuses."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from manila_backup.data.drivers.durable import Disk
from manila_backup.data.drivers.stored import opened_stored
from manila_backup.data.drivers.tree import TreeDriver
from manila_backup.exception import (
    BackupNotStored,
    Cancelled,
    CopyFailed,
    InvalidBackup,
    InvalidShare,
    MountFailed,
)
from manila_backup.types import MountedTree, RestoreMode
from tests.data.drivers.damage import epoch_path
from tests.data.drivers.operations import REF, Watch, back_up, described, other, restore
from tests.data.drivers.trees import describe, fingerprint, mount_id, mounted


def test_the_stored_tree_can_be_browsed_and_holds_nothing_dangerous(
    store: Path, source: Path
) -> None:
    back_up(TreeDriver(str(store)), source)
    data = epoch_path(store, REF) / "data"
    kept, original = describe(data), describe(source)
    special = {path for path, fact in original.items() if not _is_plain(fact["mode"])}
    assert special
    assert set(kept) == set(original) - special
    for path, fact in kept.items():
        assert fact.get("content") == original[path].get("content")
        assert fact.get("target") == original[path].get("target")
        assert fact["mode"] == original[path]["mode"] & ~0o6000


def _is_plain(mode: int) -> bool:
    return stat.S_ISDIR(mode) or stat.S_ISREG(mode) or stat.S_ISLNK(mode)


def test_a_stored_tree_is_extracted_into_any_directory(
    store: Path, source: Path, tmp_path: Path
) -> None:
    driver = TreeDriver(str(store))
    back_up(driver, source)
    somewhere = tmp_path / "some" / "where"
    somewhere.mkdir(parents=True)
    restore(driver, somewhere, mode=RestoreMode.MERGE)
    assert describe(somewhere) == describe(source)


def test_a_cancel_that_comes_while_the_store_is_synced_is_not_published(
    store: Path, source: Path
) -> None:
    watch = Watch()

    class Slow(Disk):
        def syncfs(self, fd: int) -> None:
            super().syncfs(fd)
            watch.cancel_after = 0

    with pytest.raises(Cancelled):
        back_up(TreeDriver(str(store), disk=Slow()), source, watch=watch)
    assert watch.published == 0
    with pytest.raises(BackupNotStored):
        TreeDriver(str(store)).inspect(REF)


def test_a_catalog_that_is_being_checked_can_be_cancelled(store: Path, source: Path) -> None:
    back_up(TreeDriver(str(store)), source)
    fd = os.open(store, os.O_RDONLY)
    try:
        with opened_stored(fd, REF) as stored:
            stored.check_catalog(lambda: False)
            with pytest.raises(Cancelled):
                stored.check_catalog(lambda: True)
    finally:
        os.close(fd)


def test_passes_over_the_catalog_do_not_disturb_each_other(store: Path, source: Path) -> None:
    back_up(TreeDriver(str(store)), source)
    fd = os.open(store, os.O_RDONLY)
    try:
        with opened_stored(fd, REF) as stored:
            expected = [entry.path for entry in stored.entries()]
            both = zip(stored.entries(), stored.entries(), strict=True)
            assert [(one.path, two.path) for one, two in both] == [(p, p) for p in expected]
    finally:
        os.close(fd)
    assert sorted(expected) == expected
    assert set(expected) == set(describe(source))


def test_increments_are_refused(store: Path, source: Path) -> None:
    driver = TreeDriver(str(store))
    assert not driver.capabilities.incremental
    back_up(driver, source)
    with pytest.raises(InvalidBackup):
        driver.backup(described(other(epoch=9)), mounted(source), REF, Watch().control)


class TestTargets:
    def refused(self, driver: TreeDriver, tree: MountedTree, root: Path) -> BaseException:
        """The error of a restore into ``tree``; nothing below ``root`` was changed by it."""
        before = fingerprint(root)
        watch = Watch()
        with pytest.raises((CopyFailed, MountFailed, InvalidShare)) as caught:
            driver.restore(REF, tree, RestoreMode.EXACT, watch.control)
        assert fingerprint(root) == before
        assert watch.wrote == 0
        return caught.value

    @pytest.fixture
    def driver(self, store: Path, source: Path) -> TreeDriver:
        driver = TreeDriver(str(store))
        back_up(driver, source)
        return driver

    def test_a_target_that_was_mounted_read_only_is_refused(
        self, driver: TreeDriver, target: Path
    ) -> None:
        error = self.refused(driver, mounted(target, read_only=True), target)
        assert isinstance(error, CopyFailed)
        assert error.errno == errno.EROFS

    @pytest.mark.root
    def test_a_target_that_turned_read_only_is_refused(
        self, driver: TreeDriver, target: Path
    ) -> None:
        subprocess.run(["mount", "--bind", str(target), str(target)], check=True)
        try:
            options = ["mount", "-o", "remount,bind,ro", str(target)]
            subprocess.run(options, check=True)
            error = self.refused(driver, mounted(target), target)
        finally:
            subprocess.run(["umount", str(target)], check=True)
        assert isinstance(error, CopyFailed)
        assert error.errno == errno.EROFS

    @pytest.mark.parametrize("kind", ["another mount", "missing", "symlink", "file"])
    def test_what_is_not_the_mounted_share_is_refused(
        self, kind: str, driver: TreeDriver, target: Path
    ) -> None:
        path = target.parent / "path"
        plant: dict[str, Callable[[], object]] = {
            "another mount": path.mkdir,
            "missing": lambda: None,
            "symlink": lambda: path.symlink_to(target),
            "file": path.touch,
        }
        plant[kind]()
        wrong = mount_id(target) + (kind == "another mount")
        tree = MountedTree(path=str(path), mount_id=wrong, read_only=False)
        assert isinstance(self.refused(driver, tree, target), MountFailed)

    def test_the_store_itself_is_refused(self, driver: TreeDriver, store: Path) -> None:
        data = epoch_path(store, REF) / "data"
        for path in (store, data, data / "deep"):
            assert isinstance(self.refused(driver, mounted(path), store), InvalidShare)
