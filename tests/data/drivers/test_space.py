# SPDX-License-Identifier: Apache-2.0
"""Room is asked for before anything is written, and what fits is not refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from manila_backup.data.catalog.entry import Entry, EntryType
from manila_backup.data.drivers.space import Room, replaced_room, require
from manila_backup.data.drivers.tree import TreeDriver
from manila_backup.exception import Cancelled, NotEnoughInodes, NotEnoughSpace
from manila_backup.types import RestoreMode
from tests.data.drivers.conftest import SmallFs
from tests.data.drivers.operations import REF, Watch, back_up, restore
from tests.data.drivers.trees import describe, fingerprint

pytestmark = pytest.mark.root
NOTHING = Room(bytes=0, inodes=0)


def test_a_store_with_too_few_inodes_is_refused_before_anything_is_made(
    tmp_path: Path, small_fs: SmallFs
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(60):
        (source / f"{number}").touch()
    small = small_fs(size_kib=4096, inodes=50)
    with pytest.raises(NotEnoughInodes):
        back_up(TreeDriver(str(small)), source)
    assert list(small.iterdir()) == []
    driver = TreeDriver(str(small_fs(size_kib=4096, inodes=90)))
    back_up(driver, source)
    assert driver.verify(REF, Watch().control).problems == ()


def test_sparse_files_need_what_they_take_not_what_they_claim(
    tmp_path: Path, small_fs: SmallFs
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "sparse", "wb") as sparse:
        sparse.write(b"x")
        sparse.truncate(1 << 40)
    driver = TreeDriver(str(small_fs(size_kib=1024)))
    back_up(driver, source)
    target = small_fs(size_kib=256)
    restore(driver, target)
    assert (target / "sparse").stat().st_size == 1 << 40


@pytest.fixture
def full(tmp_path: Path, small_fs: SmallFs) -> tuple[TreeDriver, Path, Path]:
    """A backup of a share that takes most of its file system, and that share."""
    share = small_fs(size_kib=512)
    (share / "d").mkdir()
    for number in range(9):
        (share / "d" / f"{number}").write_bytes(bytes([number]) * 40_960)
    store = tmp_path / "store"
    store.mkdir()
    driver = TreeDriver(str(store))
    back_up(driver, share)
    return driver, share, store


@pytest.mark.parametrize("mode", RestoreMode)
def test_a_nearly_full_share_can_be_restored_over_itself(
    full: tuple[TreeDriver, Path, Path], mode: RestoreMode
) -> None:
    driver, share, _ = full
    expected = describe(share)
    (share / "d" / "4").write_bytes(b"changed")
    (share / "d" / "5").unlink()
    restore(driver, share, mode=mode)
    assert describe(share) == expected


def test_exact_counts_on_what_it_will_delete_and_merge_does_not(
    full: tuple[TreeDriver, Path, Path],
) -> None:
    driver, share, _ = full
    expected = describe(share)
    (share / "d").rename(share / "renamed")
    before = fingerprint(share)
    with pytest.raises(NotEnoughSpace):
        restore(driver, share, mode=RestoreMode.MERGE)
    assert fingerprint(share) == before
    restore(driver, share)
    assert describe(share) == expected


def entry(path: bytes, type_: EntryType) -> Entry:
    return Entry(path=path, type=type_, mode=0, uid=0, gid=0, mtime_ns=0, ctime_ns=0, inode=1)


def room(target: Path, *paths: bytes) -> Room:
    """What files at these paths would replace."""
    fd = os.open(target, os.O_RDONLY)
    before = sorted(os.listdir("/proc/self/fd"))
    try:
        entries = [entry(path, EntryType.FILE) for path in paths]
        return replaced_room(entries, fd, lambda: False)
    finally:
        assert sorted(os.listdir("/proc/self/fd")) == before
        os.close(fd)


def test_replaced_room_counts_what_is_at_the_same_paths(target: Path) -> None:
    (target / "a" / "x").mkdir(parents=True)
    (target / "a" / "x" / "f").write_bytes(b"x" * 8192)
    (target / "a-b").write_bytes(b"y" * 4096)
    os.link(target / "a-b", target / "z")
    assert room(target, b"a/x/f") == Room(bytes=8192, inodes=1)
    assert room(target, b"a/x/f", b"a/x/missing", b"missing/f") == Room(bytes=8192, inodes=1)
    assert room(target, b"a", b"a-b", b"a/x/f", b"z") == Room(bytes=8192 + 4096, inodes=4)


def test_replaced_room_follows_no_link_out_of_the_target(target: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").write_bytes(b"x" * 8192)
    (target / "d").symlink_to(tmp_path / "outside")
    (target / "f").symlink_to(tmp_path / "outside" / "f")
    assert room(target, b"d/f") == Room(bytes=0, inodes=0)
    assert room(target, b"f").bytes == 0


def test_replaced_room_opens_a_bounded_number_of_directories(target: Path) -> None:
    below = target
    for _ in range(300):
        below = below / "d"
        below.mkdir()
    (below / "f").write_bytes(b"x" * 4096)
    assert room(target, b"d/" * 300 + b"f") == Room(bytes=0, inodes=0)
    assert room(target, b"d/" * 200 + b"d") == Room(bytes=0, inodes=1)


def test_replaced_room_can_be_cancelled(target: Path) -> None:
    fd = os.open(target, os.O_RDONLY)
    try:
        with pytest.raises(Cancelled):
            replaced_room([entry(b"", EntryType.DIRECTORY)], fd, lambda: True)
    finally:
        os.close(fd)


def test_file_systems_that_state_no_size_are_not_refused() -> None:
    fd = os.open("/proc", os.O_RDONLY)
    try:
        assert os.fstatvfs(fd).f_blocks == 0
        require(fd, "it", Room(bytes=1 << 50, inodes=1 << 40), NOTHING)
    finally:
        os.close(fd)


@pytest.mark.parametrize("mode", RestoreMode)
def test_a_share_full_of_one_file_can_be_restored_over_itself(
    tmp_path: Path, small_fs: SmallFs, mode: RestoreMode
) -> None:
    share, store = small_fs(size_kib=512), tmp_path / "store"
    store.mkdir()
    (share / "disk.img").write_bytes(bytes(range(256)) * 1600)
    driver = TreeDriver(str(store))
    back_up(driver, share)
    expected = describe(share)
    (share / "disk.img").write_bytes(b"\0" * 409_600)
    restore(driver, share, mode=mode)
    assert describe(share) == expected
