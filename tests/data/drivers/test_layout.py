# SPDX-License-Identifier: Apache-2.0
"""The store's levels: what may name them, what is made, and what is never followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manila_backup.data.drivers.layout import checked, created_levels, is_epoch, is_id
from manila_backup.data.drivers.tree import TreeDriver
from manila_backup.exception import (
    BackupNotStored,
    CopyFailed,
    InvalidBackup,
    InvalidShare,
    MountFailed,
)
from tests.data.drivers.damage import epoch_path
from tests.data.drivers.killing import in_child
from tests.data.drivers.operations import REF, Watch, back_up, described, other, restore
from tests.data.drivers.trees import fingerprint, mount_id, mounted


@pytest.mark.parametrize("name", ["a", "A-b_c.9", "...", "x" * 255, "7f3d9a52-1c8e"])
def test_ids_within_the_pattern_are_accepted(name: str) -> None:
    assert is_id(name)
    assert checked(other(project_id=name, backup_id=name)).backup_id == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/", "a\0", "a\n", "\n", "a b", "ä", "x" * 256, "\udcff"]
)
def test_ids_outside_the_pattern_are_refused(name: str) -> None:
    assert not is_id(name)
    for ref in (other(project_id=name), other(backup_id=name)):
        with pytest.raises(InvalidBackup) as caught:
            checked(ref)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "right"),
    [("0", True), ("1", True), ("10", True), ("9" * 19, True), ("9" * 20, False)]
    + [(name, False) for name in ("", "01", "-1", "+1", "1 ", "1\n", "\u0661", "1.0", "x")],
)
def test_epochs_are_decimal_numbers_without_leading_zeros(name: str, right: bool) -> None:
    assert is_epoch(name) is right


def test_directories_down_to_the_epoch_are_private(store: Path, source: Path) -> None:
    before = os.umask(0)
    try:
        back_up(TreeDriver(str(store)), source)
    finally:
        os.umask(before)
    epoch = epoch_path(store, REF)
    for path in (epoch, epoch.parent, epoch.parent.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert path.stat().st_uid == os.geteuid()
    assert sorted(path.name for path in epoch.iterdir()) == ["catalog", "data", "manifest.json"]
    for name in ("catalog", "manifest.json"):
        assert stat.S_IMODE((epoch / name).stat().st_mode) == 0o600


def _levels(store: Path) -> list[Path]:
    epoch = epoch_path(store, REF)
    return [epoch.parent.parent, epoch.parent, epoch]


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("kind", ["symlink", "dangling", "file", "fifo"])
def test_what_was_planted_in_place_of_a_level_is_never_followed(
    level: int, kind: str, store: Path, source: Path, target: Path
) -> None:
    driver = TreeDriver(str(store))
    outside = store.parent / "outside"
    back_up(TreeDriver(str(_made(outside))), source)
    planted = _levels(store)[level]
    planted.parent.mkdir(parents=True, exist_ok=True)
    plant: dict[str, Callable[[], object]] = {
        "symlink": lambda: planted.symlink_to(_levels(outside)[level]),
        "dangling": lambda: planted.symlink_to(outside / "nothing"),
        "file": planted.touch,
        "fifo": lambda: os.mkfifo(planted),
    }
    plant[kind]()
    before, target_before = fingerprint(outside), fingerprint(target)
    with pytest.raises(BackupNotStored):
        driver.inspect(REF)
    with pytest.raises(BackupNotStored):
        restore(driver, target)
    with pytest.raises(CopyFailed):
        back_up(driver, source)
    assert driver.verify(REF, Watch().control).problems
    assert list(driver.scan()) == []
    assert [path for path, _ in driver.orphans()] == [str(planted.relative_to(store))]
    if level == 0:
        for remove in (driver.delete, driver.discard):
            with pytest.raises(CopyFailed):
                remove(REF, Watch().control)
        assert os.path.lexists(planted)
    else:
        driver.delete(REF, Watch().control)
        assert list(store.iterdir()) == []
    assert (fingerprint(outside), fingerprint(target)) == (before, target_before)


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def test_oddities_in_the_upper_levels_are_orphans_and_disturb_nothing(
    store: Path, source: Path
) -> None:
    driver = TreeDriver(str(store))
    stored = back_up(driver, source)
    epoch = epoch_path(store, REF)
    for path in (store, epoch.parent.parent, epoch.parent):
        (path / "not an id").mkdir()
        (path / "bad\n\udcff").mkdir()
    (store / "file").touch()
    (store / "empty-project").mkdir()
    (store / "project" / "empty-backup").mkdir(parents=True)
    (epoch.parent / "03").mkdir()
    (epoch.parent / "latest").symlink_to("3")
    (store / ".nfs0000001").touch()
    (store / "lost+found").mkdir()
    found = dict(driver.orphans())
    backup = f"{REF.project_id}/{REF.backup_id}"
    expected = {"not an id", "bad\\x0a\\xff", "file", "empty-project", "project/empty-backup"}
    expected |= {f"{REF.project_id}/not an id", f"{REF.project_id}/bad\\x0a\\xff"}
    expected |= {f"{backup}/{name}" for name in ("not an id", "bad\\x0a\\xff", "03", "latest")}
    assert set(found) == expected
    assert found["empty-project"] == "empty"
    assert list(driver.scan()) == [stored]


def test_a_lower_epoch_that_is_published_too_is_no_orphan(store: Path, source: Path) -> None:
    # The database may name the lower one: a node that was thought dead published the higher.
    driver = TreeDriver(str(store))
    back_up(driver, source, other(epoch=3))
    back_up(driver, source, other(epoch=4))
    assert list(driver.orphans()) == []


def test_a_store_that_is_away_is_not_an_empty_store(store: Path, source: Path) -> None:
    gone = TreeDriver(str(store / "not mounted"))
    wrong_mount = TreeDriver(str(store), mount_id=mount_id(store) + 1)
    for driver in (gone, wrong_mount):
        for act in (
            lambda driver: list(driver.scan()),
            lambda driver: list(driver.orphans()),
            lambda driver: driver.inspect(REF),
            lambda driver: driver.delete(REF, Watch().control),
            lambda driver: driver.verify(REF, Watch().control),
            lambda driver: back_up(driver, source),
        ):
            with pytest.raises(MountFailed):
                act(driver)
    assert list(store.iterdir()) == []
    back_up(TreeDriver(str(store), mount_id=mount_id(store)), source)


def test_the_directories_of_a_project_may_vanish_while_a_backup_makes_its_own(
    store: Path, source: Path
) -> None:
    # The last backup of the project is deleted, and its empty directories with it, exactly
    # before each level of the new one is made.
    project = store / REF.project_id
    rivals = iter([project, project, project / REF.backup_id])

    def rival(event: str, args: tuple[Any, ...]) -> None:
        if event == "os.mkdir" and args[0] in {REF.backup_id, str(REF.epoch)}:
            for empty in rivals:
                if empty.exists():
                    empty.rmdir()
                return

    status = in_child(lambda: back_up(TreeDriver(str(store)), source), rival)
    assert os.WIFEXITED(status)
    assert os.WEXITSTATUS(status) == 0
    assert TreeDriver(str(store)).verify(REF, Watch().control).problems == ()


def test_a_level_that_cannot_be_made_leaves_nothing_open(store: Path) -> None:
    fd = os.open(store, os.O_RDONLY)
    try:
        with created_levels(fd, REF):
            pass
        before = sorted(os.listdir("/proc/self/fd"))
        with pytest.raises(FileExistsError), created_levels(fd, REF):
            raise AssertionError("it was there already")
        assert sorted(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(fd)


@pytest.mark.parametrize("which", ["store in share", "share in store", "same"])
def test_a_share_and_a_store_within_each_other_are_refused(which: str, tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "outer" / "some" / "inner"
    inner.mkdir(parents=True)
    share, root = {
        "store in share": (outer, inner),
        "share in store": (inner, outer),
        "same": (outer, outer),
    }[which]
    driver = TreeDriver(str(root))
    before = fingerprint(outer)
    with pytest.raises(InvalidShare):
        back_up(driver, share)
    assert fingerprint(outer) == before


def test_a_description_that_fits_no_manifest_is_refused_before_the_copying(
    store: Path, source: Path
) -> None:
    endless = replace(described(), description="x" * (1 << 20))
    watch = Watch()
    with pytest.raises(InvalidBackup):
        TreeDriver(str(store)).backup(endless, mounted(source), None, watch.control)
    assert list(store.iterdir()) == []
    assert watch.asked == 0
