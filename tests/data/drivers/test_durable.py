# SPDX-License-Identifier: Apache-2.0
"""Nothing is published before it is durable, and what could not be made durable fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from manila_backup.data.drivers.durable import DISK, Disk
from manila_backup.data.drivers.tree import TreeDriver
from manila_backup.exception import BackupNotStored, CopyFailed
from tests.data.drivers.conftest import SmallFs
from tests.data.drivers.damage import epoch_path
from tests.data.drivers.operations import REF, Watch, back_up, restore
from tests.data.drivers.trees import describe, fingerprint


class Watched(Disk):
    """``look(call, fd)`` comes before each call of the real thing, and may raise."""

    def __init__(self, look: Callable[[str, int], object]) -> None:
        self._look = look

    def fsync(self, fd: int) -> None:
        self._look("fsync", fd)
        super().fsync(fd)

    def syncfs(self, fd: int) -> None:
        self._look("syncfs", fd)
        super().syncfs(fd)


def name(fd: int) -> str:
    """The path behind an open fd."""
    return os.readlink(f"/proc/self/fd/{fd}")


class FailAt:
    """The n-th call of a :class:`Watched` disk (from 0) fails."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, call: str, fd: int) -> None:
        self.left -= 1
        if self.left == -1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    @property
    def came_so_far(self) -> bool:
        return self.left < 0


def test_syncfs_reports_errors() -> None:
    fd = os.open("/tmp", os.O_RDONLY)
    DISK.syncfs(fd)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        DISK.syncfs(fd)
    assert caught.value.errno == errno.EBADF


def test_all_is_durable_in_order_and_the_manifest_last(store: Path, source: Path) -> None:
    epoch = epoch_path(store, REF)
    calls: list[str] = []
    synced: list[dict[bytes, dict[str, object]]] = []

    def look(call: str, fd: int) -> None:
        calls.append(f"{call} {os.path.relpath(name(fd), epoch)}")
        if call == "syncfs":
            synced.append(fingerprint(epoch))

    def about_to_publish() -> None:
        calls.append("about to publish")
        # What is published is what was synced: nothing was written since.
        assert synced == [fingerprint(epoch)]
        assert b"manifest.json" not in synced[0]

    driver = TreeDriver(str(store), disk=Watched(look))
    back_up(driver, source, watch=Watch(at_publish=about_to_publish))
    assert calls == [
        "fsync catalog",
        "syncfs .",
        "fsync ..",
        "fsync ../..",
        "fsync ../../..",
        "about to publish",
        "fsync manifest.json",
        "fsync .",
    ]


def test_what_cannot_be_made_durable_is_not_published(store: Path, source: Path) -> None:
    calls = 7
    for number in range(calls):
        watch = Watch()
        driver = TreeDriver(str(store), disk=Watched(FailAt(number)))
        with pytest.raises(CopyFailed) as caught:
            back_up(driver, source, watch=watch)
        assert caught.value.errno == errno.EIO
        assert caught.value.path.startswith(f"{REF.project_id}/{REF.backup_id}/{REF.epoch}")
        assert watch.published == (number >= 5)
        assert not (epoch_path(store, REF) / "manifest.json").exists()
        with pytest.raises(BackupNotStored):
            driver.inspect(REF)
        TreeDriver(str(store)).discard(REF, Watch().control)
    last = FailAt(calls)
    back_up(TreeDriver(str(store), disk=Watched(last)), source)
    assert not last.came_so_far


@pytest.mark.parametrize("call", ["delete", "discard"])
def test_a_removed_manifest_is_durable_before_anything_else_is_removed(
    call: str, store: Path, source: Path
) -> None:
    back_up(TreeDriver(str(store)), source)
    epoch = epoch_path(store, REF)
    data = describe(epoch / "data")
    steps: list[tuple[str, bool]] = []

    def look(kind: str, fd: int) -> None:
        whole = (epoch / "data").exists() and describe(epoch / "data") == data
        steps.append((os.path.relpath(name(fd), epoch), whole))
        assert not (epoch / "manifest.json").exists()

    getattr(TreeDriver(str(store), disk=Watched(look)), call)(REF, Watch().control)
    assert steps[0] == (".", True)
    above = ["..", "../..", "../../.."] if call == "discard" else ["../..", "../../.."]
    assert [path.removesuffix(" (deleted)") for path, _ in steps[1:]] == above


@pytest.mark.parametrize("call", ["delete", "discard"])
def test_a_removal_that_may_not_be_durable_fails_and_can_be_called_again(
    call: str, store: Path, source: Path
) -> None:
    for number in range(100):
        back_up(TreeDriver(str(store)), source)
        fault = FailAt(number)
        remove = getattr(TreeDriver(str(store), disk=Watched(fault)), call)
        try:
            remove(REF, Watch().control)
        except CopyFailed as error:
            assert fault.came_so_far, error  # noqa: PT017 - which call fails is not known here
            getattr(TreeDriver(str(store)), call)(REF, Watch().control)
        assert list(store.iterdir()) == []
        if not fault.came_so_far:
            break
    assert number > 2


def test_the_target_is_synced_when_all_is_restored(store: Path, source: Path, target: Path) -> None:
    back_up(TreeDriver(str(store)), source)
    synced: list[tuple[str, str, dict[bytes, dict[str, object]]]] = []
    disk = Watched(lambda call, fd: synced.append((call, name(fd), describe(target))))
    restore(TreeDriver(str(store), disk=disk), target)
    assert synced == [("syncfs", str(target), describe(target))]


def test_a_target_that_cannot_be_synced_fails_the_restore(
    store: Path, source: Path, target: Path
) -> None:
    back_up(TreeDriver(str(store)), source)
    watch = Watch()
    with pytest.raises(CopyFailed) as caught:
        restore(TreeDriver(str(store), disk=Watched(FailAt(0))), target, watch=watch)
    assert caught.value.errno == errno.EIO
    assert watch.progress[-1].done < watch.progress[-1].total


@pytest.mark.root
def test_a_manifest_that_does_not_fit_is_taken_back(tmp_path: Path, small_fs: SmallFs) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"x")
    store = small_fs(size_kib=256)

    def fill_up() -> None:
        status = os.statvfs(store)
        with open(store / "filler", "wb") as filler:
            filler.write(bytes(status.f_bavail * status.f_frsize))

    driver = TreeDriver(str(store))
    with pytest.raises(CopyFailed) as caught:
        back_up(driver, source, watch=Watch(at_publish=fill_up))
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.path.endswith("manifest.json")
    assert sorted(path.name for path in epoch_path(store, REF).iterdir()) == ["catalog", "data"]


@pytest.mark.root
def test_a_manifest_that_is_there_already_is_not_overwritten(store: Path, source: Path) -> None:
    # Only somebody else's hand can have made it in our new directory.
    manifest = epoch_path(store, REF) / "manifest.json"
    driver = TreeDriver(str(store))
    with pytest.raises(CopyFailed) as caught:
        back_up(driver, source, watch=Watch(at_publish=lambda: _write(manifest)))
    assert caught.value.errno == errno.EEXIST
    assert manifest.read_bytes() == b"foreign"
    with pytest.raises(BackupNotStored):
        driver.inspect(REF)


def _write(path: Path) -> None:
    path.write_bytes(b"foreign")
