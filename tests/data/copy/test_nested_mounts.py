# SPDX-License-Identifier: Apache-2.0
"""What is mounted below a share is not the share's: it is neither read nor written nor removed.

Mounts of tmpfs, bind mounts of directories and of single files, at several depths, in the source
and in the target, from the beginning and exactly between two calls; and special files, which are
never opened.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from manila_backup.data.copy.base import CopyOptions, CopyResult
from manila_backup.data.copy.measure import measure_tree
from manila_backup.data.copy.remove import remove_tree
from manila_backup.data.copy.restore import restore_tree
from manila_backup.data.copy.sysio import SYSTEM, Files
from manila_backup.data.copy.verify import verify_tree
from manila_backup.exception import CopyFailed
from tests.data.copy.conftest import Opened, Run, no_progress, not_cancelled
from tests.support.outside import (
    MS_NODEV,
    mount_bind,
    mount_tmpfs,
    mounts_undone,
    touched,
    unmount,
)
from tests.support.syscalls import Rival, Watched, call
from tests.support.trees import assert_same

pytestmark = pytest.mark.root

SECRET = b"not of this share"
BULK = 600
"""So many names make a parallel copy one."""

DIRECTORIES = ("m", "d/m", "d/e/g/m")
"""Where directories are mounted, and ..."""
REGULAR = ("r", "d/r", "d/e/g/r")
"""... files."""


@dataclass(frozen=True)
class Way:
    """One of the engine's ways to do it."""

    native: bool
    processes: int = 1
    threads: int = 1

    @property
    def bulk(self) -> int:
        return BULK if self.processes > 1 else 0

    def options(self, *, delete: bool = False, plain: bool = False) -> CopyOptions:
        return CopyOptions(
            delete=delete, plain_target=plain, processes=self.processes, threads=self.threads
        )


@pytest.fixture(
    params=[
        pytest.param(Way(native=True), id="native"),
        pytest.param(Way(native=False), id="python"),
        pytest.param(
            Way(native=True, processes=2, threads=4), id="parallel", marks=pytest.mark.slow
        ),
    ]
)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Way:
    chosen: Way = request.param
    monkeypatch.setenv("MANILA_BACKUP_NATIVE", str(int(chosen.native)))
    return chosen


class Mounted:
    """A tree's mount points, and the outside that is mounted there."""

    def __init__(self, top: Path) -> None:
        self.outside = top / "outside"
        for name in (*DIRECTORIES, *(f"{name}/x" for name in DIRECTORIES)):
            (self.outside / name).mkdir(parents=True, exist_ok=True)
        for path in [self.outside, *self.outside.rglob("*")]:
            if path.is_dir():
                (path / "secret").write_bytes(SECRET)
                (path / "f").write_bytes(SECRET)
        for path in self.outside.rglob("*"):
            os.utime(path, ns=(10**18, 2 * 10**18))
        self.before = touched(self.outside)

    def put_over(self, tree: Path) -> int:
        """Mount something on each of the places; answers how many they are."""
        mount_tmpfs(tree / "m")
        (tree / "m" / "secret").write_bytes(SECRET)
        for name in DIRECTORIES[1:]:
            mount_bind(self.outside, tree / name)
        for name in REGULAR:
            mount_bind(self.outside / "secret", tree / name)
        return len(DIRECTORIES) + len(REGULAR)

    def assert_untouched(self) -> None:
        after = touched(self.outside)
        different = {
            path for path in self.before | after if self.before.get(path) != after.get(path)
        }
        assert not different


def fill(root: Path, *, bulk: int = 0) -> None:
    """The places are there and have content, which a mount hides."""
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True)
        (root / name / "f").write_bytes(b"hidden below a mount")
    for name in REGULAR:
        (root / name).write_bytes(b"hidden by a mount")
    (root / "z").write_bytes(b"last")
    for number in range(bulk):
        (root / f"n{number}").write_bytes(b"bulk")


def contents(root: Path) -> set[bytes]:
    return {path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def no_mounts_left(tmp_path: Path) -> Iterator[None]:
    with mounts_undone(tmp_path):
        yield


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    return Mounted(tmp_path)


# --- there from the beginning ---------------------------------------------------------------------


@pytest.mark.parametrize("catalog", [True, False], ids=["backup", "copy"])
def test_mounts_in_the_source_are_not_read(
    run: Run, mounted: Mounted, way: Way, catalog: bool
) -> None:
    fill(run.source, bulk=way.bulk)
    count = mounted.put_over(run.source)
    options = way.options(plain=catalog)
    result = run.backup(options=options) if catalog else run.copy(options)
    written = run.data if catalog else run.target
    assert contents(written) <= {b"last", b"bulk"}
    assert (written / "z").read_bytes() == b"last"
    assert len(list(written.glob("n*"))) == way.bulk
    assert result.counters.warnings + result.counters.skipped == count
    with Opened(run.source) as source:
        assert measure_tree(source, cancelled=not_cancelled).entries <= 1 + 3 + count + 1 + way.bulk
    mounted.assert_untouched()


def test_a_file_that_is_a_mount_is_named(run: Run, mounted: Mounted) -> None:
    fill(run.source)
    mount_bind(mounted.outside / "secret", run.source / "d" / "r")
    result = run.backup()
    assert "d/r" in result.remarks.skipped
    assert SECRET not in contents(run.data)
    run.restore()
    assert SECRET not in contents(run.target)


def test_the_attributes_of_what_is_mounted_are_not_taken_over(run: Run, mounted: Mounted) -> None:
    """Its owner and its attributes are as little the share's as its content."""
    (run.source / "m").mkdir()
    os.chown(mounted.outside, 54321, 54321)
    os.setxattr(mounted.outside, "user.a", SECRET)
    mount_bind(mounted.outside, run.source / "m")
    run.backup()
    for entry in run.entries():
        assert SECRET not in entry.xattrs.values()
        assert entry.uid != 54321
    assert (run.data / "m").is_dir()
    assert os.listxattr(run.data / "m") == []


@pytest.mark.parametrize("delete", [True, False], ids=["exact", "merge"])
def test_mounts_in_the_target_are_not_written(
    run: Run, mounted: Mounted, way: Way, delete: bool
) -> None:
    fill(run.source, bulk=way.bulk)
    fill(run.target)
    run.backup()
    mounted.put_over(run.target)
    result = restore(run, way.options(delete=delete))
    named = {*result.remarks.skipped, *result.remarks.changed}
    assert named >= {*(f"{name}/f" for name in DIRECTORIES), *REGULAR}
    assert result.counters.warnings >= len(DIRECTORIES)
    assert (run.target / "m" / "secret").read_bytes() == SECRET
    assert os.listdir(run.target / "m") == ["secret"]
    assert (run.target / "z").read_bytes() == b"last"
    mounted.assert_untouched()


def restore(run: Run, options: CopyOptions, files: Files = SYSTEM) -> CopyResult:
    with Opened(run.data) as data, Opened(run.target) as target:
        return restore_tree(
            run.entries,
            data,
            target,
            options,
            progress=no_progress,
            cancelled=not_cancelled,
            files=files,
        )


def test_mounts_in_the_target_that_the_source_lacks_stay(
    run: Run, mounted: Mounted, way: Way
) -> None:
    (run.source / "z").write_bytes(b"last")
    fill(run.target)
    mounted.put_over(run.target)
    assert run.copy(way.options(delete=True)).counters.warnings
    mounted.assert_untouched()
    run.backup()
    assert restore(run, way.options(delete=True)).counters.warnings
    mounted.assert_untouched()
    assert sorted(os.listdir(run.target)) == ["d", "m", "r", "z"]
    assert (run.target / "m" / "secret").read_bytes() == SECRET


@pytest.mark.parametrize("victim", ["m", "d/m", "r", "d/r"])
def test_an_exact_copy_onto_a_mount_fails_by_its_name(
    run: Run, mounted: Mounted, victim: str
) -> None:
    """Nothing may be written there, and leaving it out would be a gap."""
    fill(run.source)
    fill(run.target)
    what = mounted.outside if victim.endswith("m") else mounted.outside / "secret"
    mount_bind(what, run.target / victim)
    for delete in (True, False):
        with pytest.raises(CopyFailed) as caught:
            run.copy(CopyOptions(delete=delete))
        assert caught.value.errno == errno.EBUSY
        assert caught.value.path in (victim, f"{victim}/f")
    mounted.assert_untouched()


def test_mounts_in_the_store_are_damage(run: Run, mounted: Mounted) -> None:
    fill(run.source)
    run.backup()
    mount_bind(mounted.outside, run.data / "d" / "m")
    mount_bind(mounted.outside / "secret", run.data / "d" / "r")
    with Opened(run.data) as data:
        problems = list(
            verify_tree(run.entries, data, progress=no_progress, cancelled=not_cancelled)
        )
    assert {problem.split(":")[0] for problem in problems} >= {"d/m/f", "d/r"}
    mounted.assert_untouched()


def test_removing_a_tree_with_mounts_in_it_fails_and_leaves_them(
    run: Run, mounted: Mounted
) -> None:
    fill(run.source)
    mounted.put_over(run.source)
    with Opened(run.source.parent) as parent, pytest.raises(CopyFailed) as caught:
        remove_tree(parent, b"source", cancelled=not_cancelled)
    assert caught.value.errno == errno.EBUSY
    mounted.assert_untouched()


# --- made between two calls -----------------------------------------------------------------------


class Mounting(Watched):
    """Mounts ``what`` on ``where`` right before call number ``number``."""

    def __init__(self, number: int, what: Path, where: Path) -> None:
        super().__init__(before=self._count)
        self._left = number
        self._what = what
        self._where = where
        self.done = False

    @property
    def reached(self) -> bool:
        return self._left <= 0

    def _count(self, name: str, args: tuple[Any, ...]) -> None:
        self._left -= 1
        if self._left == 0 and self._where.exists():
            mount_bind(self._what, self._where)
            self.done = True


VICTIMS = ["d", "d/m", "d/r"]


def fill_little(root: Path) -> None:
    (root / "d" / "m").mkdir(parents=True)
    (root / "d" / "m" / "f").write_bytes(b"mine")
    (root / "d" / "r").write_bytes(b"mine")


def sweep(
    mounted: Mounted, where: Path, prepare: Callable[[], None], work: Callable[[Files], CopyResult]
) -> int:
    """The work with a mount that appears before each of its calls in turn; answers how much was
    left out and counted, over all runs."""
    what = mounted.outside if where.is_dir() else mounted.outside / "secret"
    counted = number = 0
    left = True
    while left:
        number += 1
        prepare()
        files = Mounting(number, what, where)
        try:
            counters = work(files).counters
            counted += counters.warnings + counters.skipped + counters.changed
        except CopyFailed as error:
            assert error.errno in (errno.EBUSY, errno.ESTALE), error  # noqa: PT017
            counted += 1
        if files.done:
            unmount(where)
        mounted.assert_untouched()
        left = files.reached
    assert number > 40
    return counted


@pytest.mark.slow
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_mount_that_appears_in_the_source_at_any_moment_is_not_read(
    run: Run, mounted: Mounted, victim: str
) -> None:
    fill_little(run.source)

    def prepare() -> None:
        shutil.rmtree(run.data)
        run.data.mkdir()

    def work(files: Files) -> CopyResult:
        result = run.backup(files=files)
        assert SECRET not in contents(run.data)
        return result

    assert sweep(mounted, run.source / victim, prepare, work)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["restore", "copy"])
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_mount_that_appears_in_the_target_at_any_moment_is_not_written(
    run: Run, mounted: Mounted, victim: str, kind: str
) -> None:
    fill_little(run.source)
    run.backup()

    def prepare() -> None:
        shutil.rmtree(run.target)
        run.target.mkdir()
        fill_little(run.target)
        (run.target / "d" / "extra").mkdir()
        (run.target / "d" / "m" / "secret").write_bytes(b"old")

    def work(files: Files) -> CopyResult:
        if kind == "restore":
            return run.restore(files=files)
        return run.copy(CopyOptions(delete=True), files=files)

    prepare()
    assert sweep(mounted, run.target / victim, prepare, work)


# --- special files --------------------------------------------------------------------------------


class WaitingWriter:
    """Opens a fifo for writing, which takes until somebody opens it for reading; an O_PATH fd, good
    for attributes only, does not count."""

    def __init__(self, fifo: Path) -> None:
        self._fd = os.open(fifo, os.O_PATH)
        self._fifo = f"/proc/self/fd/{self._fd}"  # this one, also when it was replaced
        self._thread = threading.Thread(target=self._open, daemon=True)

    def _open(self) -> None:
        os.close(os.open(self._fifo, os.O_WRONLY))

    def __enter__(self) -> WaitingWriter:
        self._thread.start()
        while not self._is_in_open():
            assert self._thread.is_alive()
        return self

    def _is_in_open(self) -> bool:
        """Waiting in the kernel, in openat(2)."""
        status = Path(f"/proc/self/task/{self._thread.native_id}")
        if self._thread.native_id is None or not status.exists():
            return False
        return (status / "wchan").read_text() == "wait_for_partner"

    @property
    def was_met(self) -> bool:
        return not self._thread.is_alive()

    def __exit__(self, *_: object) -> None:
        os.close(os.open(self._fifo, os.O_RDONLY | os.O_NONBLOCK))
        self._thread.join(20)
        os.close(self._fd)
        assert not self._thread.is_alive()


def test_special_files_are_never_opened(run: Run, way: Way) -> None:
    """Somebody waits at the fifo for anybody to open it; the devices have no driver, so whoever
    opens one gets an error."""
    fill(run.source, bulk=way.bulk)
    (run.target / "d").mkdir()
    for tree, names in ((run.source, ("", "d/e/g/")), (run.target, ("", "d/"))):
        for name in names:
            os.mkfifo(tree / f"{name}fifo")
            os.mknod(tree / f"{name}char", stat.S_IFCHR | 0o600, os.makedev(4000, 1))
            os.mknod(tree / f"{name}block", stat.S_IFBLK | 0o600, os.makedev(4000, 1))
            os.mknod(tree / f"{name}socket", stat.S_IFSOCK | 0o600)
    options = way.options(delete=True)
    fifos = [run.source / "fifo", run.source / "d/e/g/fifo", run.target / "fifo"]
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(WaitingWriter(fifo)) for fifo in fifos]
        result = run.copy(options)
        assert [writer.was_met for writer in writers] == [False] * 3
    assert (result.counters.skipped, result.counters.changed) == (0, 0)
    assert_same(str(run.source), str(run.target))


@pytest.mark.parametrize("catalog", [True, False], ids=["backup", "copy"])
def test_a_file_swapped_for_a_device_on_a_nodev_mount_is_looked_at_again(
    tmp_path: Path, catalog: bool
) -> None:
    """Shares are mounted nodev, where opening a device is EACCES: no reason to fail the backup."""
    share = tmp_path / "share"
    share.mkdir()
    mount_tmpfs(share, MS_NODEV)
    run = Run(share)
    (run.source / "f").write_bytes(b"too large for the fast path".ljust(300_000))
    (run.source / "z").write_bytes(b"last")

    def swap() -> None:
        (run.source / "f").unlink()
        os.mknod(run.source / "f", stat.S_IFCHR | 0o600, os.makedev(1, 5))

    rival = Rival(call("lstat", b"f"), swap, after=True)
    result = run.backup(files=rival) if catalog else run.copy(files=rival)
    assert rival.acted
    assert result.counters.others + result.counters.skipped == 1
    assert ((run.data if catalog else run.target) / "z").read_bytes() == b"last"
