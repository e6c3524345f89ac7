# SPDX-License-Identifier: Apache-2.0
"""SIGKILL before every single change that an operation makes, then what comes next."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from manila_backup.data.drivers.tree import TreeDriver
from manila_backup.exception import BackupNotStored
from tests.data.drivers.damage import epoch_path
from tests.data.drivers.killing import every_kill
from tests.data.drivers.operations import REF, Watch, back_up, other, restore
from tests.data.drivers.trees import clone, describe

pytestmark = pytest.mark.slow

AGAIN = other(epoch=REF.epoch + 1)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    source = tmp_path / "small"
    (source / "d").mkdir(parents=True)
    (source / "d" / "f").write_bytes(b"content")
    (source / "d" / "f").chmod(0o4711)
    os.link(source / "d" / "f", source / "link")
    (source / "s").symlink_to("d")
    os.setxattr(source / "d", "user.x", b"1")
    for path in (source / "d" / "f", source / "s", source / "d", source):
        os.utime(path, ns=(10**18, 10**18 + 5), follow_symlinks=False)
    return source


def is_stored(driver: TreeDriver) -> bool:
    try:
        driver.inspect(REF)
    except BackupNotStored:
        return False
    return True


def test_a_killed_backup_is_not_published_and_the_next_attempt_succeeds(
    small: Path, store: Path, target: Path
) -> None:
    driver = TreeDriver(str(store))
    for _ in every_kill(lambda: back_up(driver, small)):
        assert not is_stored(driver)
        assert list(driver.scan()) == []
        litter = [path for path, _ in driver.orphans()]
        assert all(path.startswith(REF.project_id) for path in litter)
        back_up(driver, small, AGAIN)
        driver.discard(REF, Watch().control)
        assert driver.verify(AGAIN, Watch().control).problems == ()
        assert list(driver.orphans()) == []
        driver.delete(REF, Watch().control)
        assert list(store.iterdir()) == []
    assert driver.verify(REF, Watch().control).problems == ()


def test_what_a_killed_backup_left_goes_with_delete(small: Path, store: Path) -> None:
    driver = TreeDriver(str(store))
    for _ in every_kill(lambda: back_up(driver, small)):
        driver.delete(REF, Watch().control)
        assert list(store.iterdir()) == []


def test_a_killed_delete_leaves_the_backup_whole_or_unpublished_and_goes_on_where_it_was(
    small: Path, store: Path
) -> None:
    driver = TreeDriver(str(store))
    back_up(driver, small)
    back_up(driver, small, AGAIN)
    clone(store, store.parent / "kept")
    for _ in every_kill(lambda: driver.delete(REF, Watch().control)):
        if is_stored(driver):
            assert driver.verify(REF, Watch().control).problems == ()
        driver.delete(REF, Watch().control)
        assert list(store.iterdir()) == []
        clone(store.parent / "kept", store)
    assert list(store.iterdir()) == []


def test_killed_again_and_again_a_delete_still_comes_to_its_end(small: Path, store: Path) -> None:
    driver = TreeDriver(str(store))
    back_up(driver, small)
    # Each run dies after one change more of what is left, and none starts from a clean state.
    runs = sum(1 for _ in every_kill(lambda: driver.delete(REF, Watch().control)))
    assert runs > 2
    assert list(store.iterdir()) == []


def test_a_killed_discard_does_not_touch_the_other_epoch(small: Path, store: Path) -> None:
    driver = TreeDriver(str(store))
    back_up(driver, small, AGAIN)
    kept = describe(epoch_path(store, AGAIN))
    back_up(driver, small)
    clone(epoch_path(store, REF), store.parent / "kept")
    for _ in every_kill(lambda: driver.discard(REF, Watch().control)):
        if is_stored(driver):
            assert driver.verify(REF, Watch().control).problems == ()
        driver.discard(REF, Watch().control)
        assert not epoch_path(store, REF).exists()
        clone(store.parent / "kept", epoch_path(store, REF))
    assert describe(epoch_path(store, AGAIN)) == kept
    assert driver.verify(AGAIN, Watch().control).problems == ()


def test_a_killed_restore_is_completed_by_the_next(
    small: Path, store: Path, tmp_path: Path
) -> None:
    driver = TreeDriver(str(store))
    back_up(driver, small)
    target = tmp_path / "live"

    def prepare() -> None:
        shutil.rmtree(target, ignore_errors=True)
        (target / "link").mkdir(parents=True)
        (target / "link" / "old").write_bytes(b"old")
        (target / "d").symlink_to("/etc")

    prepare()
    for _ in every_kill(lambda: restore(driver, target)):
        restore(driver, target)
        assert describe(target) == describe(small)
        prepare()
    assert describe(target) == describe(small)
