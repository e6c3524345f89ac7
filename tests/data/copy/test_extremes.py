# SPDX-License-Identifier: Apache-2.0
"""Trees at the limits: very deep, very wide, very large and sparse; and trees that do not stand
still.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manila_backup.data.copy.base import CopyOptions, CopyResult
from manila_backup.data.copy.remove import remove_tree
from manila_backup.types import Remarks
from tests.data.copy import churn
from tests.data.copy.as_user import Here, entries_of
from tests.data.copy.conftest import Opened, not_cancelled
from tests.data.copy.file_systems import BTRFS, EXT4, TMPFS, WHOLE, XFS, FileSystems, Kind, Trip
from tests.data.copy.measure_memory import make_wide, measure, slope
from tests.support.trees import Seen, differences, snapshot

pytestmark = [pytest.mark.root, pytest.mark.slow]

MIB = 1 << 20
TIB = 1 << 40
EXACT = CopyOptions(delete=True, processes=2, threads=4)
STORE = CopyOptions(plain_target=True, processes=2, threads=4)


@pytest.fixture
def trip(disks: FileSystems) -> Iterator[Trip]:
    found = Trip(disks)
    yield found
    found.remove()


def remove(path: Path) -> int:
    with Opened(path.parent) as parent:
        return remove_tree(parent, os.fsencode(path.name), cancelled=not_cancelled)


# --- depth ----------------------------------------------------------------------------------------


def dig(root: Path, levels: int) -> None:
    """Directory in directory, each with a time and an attribute of its own; a file in the last and
    in every thousandth."""
    fd = os.open(root, os.O_RDONLY)
    for level in range(levels):
        os.mkdir("d", dir_fd=fd)
        if level % 1000 == 0 or level == levels - 1:
            os.close(os.open("f", os.O_CREAT | os.O_WRONLY, 0o600 | level % 8, dir_fd=fd))
        deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.setxattr(fd, "user.level", b"%d" % level)
        os.utime(fd, ns=(level, level))
        os.close(fd)
        fd = deeper
    os.close(fd)


def walk_down(root: Path) -> Iterator[tuple[list[str], int, bytes, list[int]]]:
    """What ``dig`` has made, level by level: names, time, attribute, modes of files."""
    fd = os.open(root, os.O_RDONLY)
    try:
        while True:
            names = sorted(os.listdir(fd))
            level = os.getxattr(fd, "user.level") if "d" in names else b""
            files = [os.stat(name, dir_fd=fd).st_mode for name in names if name != "d"]
            yield names, os.fstat(fd).st_mtime_ns if level else 0, level, files
            if "d" not in names:
                return
            deeper = os.open("d", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = deeper
    finally:
        os.close(fd)


def assert_as_deep(source: Path, *copies: Path) -> int:
    levels = 0
    for wanted, *found in zip(walk_down(source), *map(walk_down, copies), strict=True):
        assert all(one == wanted for one in found), levels
        levels += 1
    return levels - 1


@pytest.fixture
def hole(disks: FileSystems) -> Iterator[Callable[[], Path]]:
    """Directories for trees so deep that nothing but the engine (proven here) may remove them."""
    made: list[Path] = []

    def new() -> Path:
        made.append(disks.new(TMPFS))
        return made[-1]

    yield new
    for path in made:
        if path.exists():
            remove(path)


def test_a_deep_tree_is_copied_backed_up_restored_and_removed(
    hole: Callable[[], Path], trip: Trip
) -> None:
    source, target, data, back = (hole() for _ in range(4))
    dig(source, 2000)
    engine = Here()
    engine.copy(source, target, EXACT)
    engine.backup(source, data, trip.catalog, STORE)
    dig(back, 1000)
    engine.restore(trip.catalog, data, back, EXACT)
    assert assert_as_deep(source, target, data, back) == 2000
    assert remove(target) == 2000 + 1 + 3
    assert not target.exists()


@pytest.mark.full
def test_10_000_levels_are_backed_up_and_restored(hole: Callable[[], Path], trip: Trip) -> None:
    source, data, back = (hole() for _ in range(3))
    dig(source, 10_000)
    Here().backup(source, data, trip.catalog, STORE)
    Here().restore(trip.catalog, data, back, EXACT)
    assert assert_as_deep(source, data, back) == 10_000


@pytest.mark.by_hand
def test_100_000_levels_are_copied_and_removed(hole: Callable[[], Path]) -> None:
    source, target = hole(), hole()
    dig(source, 100_000)
    # One process: to tell another one of a path of 200,000 bytes takes longer than to go there.
    counters = Here().copy(source, target, CopyOptions()).counters
    assert (counters.directories, counters.files) == (100_001, 101)
    assert assert_as_deep(source, target) == 100_000
    for path in (source, target):
        assert remove(path) == 100_001 + 101
        assert not path.exists()


# --- width ----------------------------------------------------------------------------------------


@pytest.mark.full
def test_a_directory_of_200_000_names(trip: Trip) -> None:
    source, data, back = (trip.new(TMPFS) for _ in range(3))
    make_wide(source, 200_000)
    engine = Here()
    assert engine.backup(source, data, trip.catalog, STORE).counters.files == 200_000
    make_wide(back, 1000)
    (back / "extra").touch()
    assert engine.restore(trip.catalog, data, back, EXACT).counters.deleted == 1
    wanted = sorted(os.listdir(source))
    assert wanted == sorted(os.listdir(data)) == sorted(os.listdir(back))
    assert [os.fsdecode(entry.path) for entry in entries_of(trip.catalog)] == ["", *wanted]
    assert remove(data) == 200_001
    data.mkdir()


@pytest.mark.full
@pytest.mark.parametrize(
    ("shape", "works", "sizes"),
    [
        ("wide", ["copy"], [200_000, 1_000_000]),
        ("directories", ["backup"], [200_000, 1_000_000]),
        # Below 100,000 the table of links has not grown to its bound yet.
        ("links", ["backup"], [100_000, 400_000]),
    ],
)
@pytest.mark.timeout(1800)
def test_memory_grows_by_64_mib_per_million_entries_at_most(
    shape: str, works: list[str], sizes: list[int]
) -> None:
    found = measure(shape, works, sizes, EXACT)
    for name, runs in found.items():
        assert [run.entries >= size for run, size in zip(runs, sizes, strict=True)] == [True, True]
        assert slope(runs) <= 64, (name, runs)


# --- size -----------------------------------------------------------------------------------------


def test_a_sparse_file_of_16_tib(trip: Trip) -> None:
    """Data at the start, before and across odd borders, alone in the middle, and in the last byte;
    beside it one that is a hole and nothing else."""
    source, target, data, back = (trip.new(XFS) for _ in range(4))
    size = 16 * TIB
    places = [0, 4 * MIB - 1, (1 << 32) - 2, TIB + 5, 8 * TIB, size - 3]
    with (source / "sparse").open("wb") as file:
        for number, offset in enumerate(places):
            os.pwrite(file.fileno(), b"%03d" % number, offset)
    with (source / "hole").open("wb") as file:
        file.truncate(size)
    wanted = snapshot(str(source))
    assert wanted[b"sparse"].size == size
    assert len(wanted[b"sparse"].extents) == len(places)
    assert sum(end - start for start, end in wanted[b"sparse"].extents) <= 9 * 4096
    engine = Here()
    copied = engine.copy(source, target, EXACT)
    stored = engine.backup(source, data, trip.catalog, STORE)
    restored = engine.restore(trip.catalog, data, back, EXACT)
    for result in (copied, stored, restored):
        assert result.logical_bytes == 2 * size
        assert result.counters.bytes <= 9 * 4096
        assert (result.remarks.losses, result.remarks.changed) == ((), ())
    for path in (target, data, back):
        assert differences(wanted, snapshot(str(path))) == []


# --- trees that do not stand still ----------------------------------------------------------------


class Churn:
    """The process that does not leave its tree alone."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __enter__(self) -> Churn:
        argv = [sys.executable, "-m", churn.__name__, str(self._root)]
        self._process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"churning\n"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.poll() is None, "it must not have failed before its end"
        self._process.kill()
        self._process.communicate()


def check_content(copy: Path, result: CopyResult) -> None:
    """Every file is what it was at some moment, or is named as changed."""
    for path in copy.rglob("*"):
        name = str(path.relative_to(copy))
        if path.is_file() and name != "new" and name not in result.remarks.changed:
            assert churn.complaint(name, path.read_bytes()) is None, name
    missing = {f"replaced/{number}" for number in range(churn.FILES)} | {
        f"grow/{number}" for number in range(churn.FILES)
    }
    missing -= {str(path.relative_to(copy)) for path in copy.rglob("*")}
    missing = {name for name in missing if name.rpartition("/")[0] not in result.remarks.changed}
    assert missing <= set(result.remarks.skipped), "these names were always there"
    assert result.counters.changed == len(result.remarks.changed)
    assert result.counters.skipped == len(result.remarks.skipped)


def check_still(wanted: dict[bytes, Seen], copy: Path) -> None:
    found = snapshot(str(copy))
    for path, seen in wanted.items():
        if path.startswith(b"still/"):
            assert found[path] == seen


@pytest.mark.parametrize(
    ("kind", "rounds"),
    [
        (EXT4, 5),
        (BTRFS, 5),
        *(pytest.param(kind, 30, marks=pytest.mark.full) for kind in WHOLE),
    ],
    ids=str,
)
def test_a_tree_in_motion(disks: FileSystems, kind: Kind, rounds: int) -> None:
    """Copied, backed up and restored over and over while a process grows, shrinks, replaces,
    removes and renames. At least so many rounds, and until something changed and something
    vanished right under the engine.
    """
    trip = Trip(disks)
    source, target = trip.new(kind), trip.new(kind)
    churn.populate(source)
    wanted = snapshot(str(source))
    engine = Here()
    changed = skipped = 0
    with Churn(source):
        for number in range(500):
            copied = engine.copy(source, target, EXACT)
            check_content(target, copied)
            check_still(wanted, target)
            again = Trip(disks)
            data, back = again.new(kind), again.new(kind)
            stored = engine.backup(source, data, again.catalog, STORE)
            check_content(data, stored)
            recorded = {
                os.fsdecode(entry.path) for entry in entries_of(again.catalog) if entry.changed
            }
            assert recorded <= set(stored.remarks.changed)
            restored = engine.restore(again.catalog, data, back, EXACT)
            assert restored.remarks == Remarks()
            check_content(back, stored)
            check_still(wanted, back)
            again.remove()
            changed += copied.counters.changed + stored.counters.changed
            skipped += copied.counters.skipped + stored.counters.skipped
            if number + 1 >= rounds and changed and skipped:
                break
        else:
            pytest.fail("the tree stood still")
    last = engine.copy(source, target, EXACT)
    assert last.remarks == Remarks()
    assert differences(snapshot(str(source)), snapshot(str(target))) == []
    trip.remove()
