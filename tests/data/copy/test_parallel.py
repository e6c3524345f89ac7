# SPDX-License-Identifier: Apache-2.0
"""Several processes do exactly what one does: same files, same counters, same catalog in the same
order; and nothing of them is left when it ends, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import psutil
import pytest

from manila_backup.data.catalog.entry import Entry
from manila_backup.data.copy import copier, dispatch, lister, processes, tree
from manila_backup.data.copy.base import CopyOptions, CopyResult
from manila_backup.data.copy.child import Setup
from manila_backup.data.copy.copier import LARGE_BYTES, Copier
from manila_backup.data.copy.emission import Emission
from manila_backup.data.copy.listing import SortedNames
from manila_backup.data.copy.node import Chunk
from manila_backup.data.copy.processes import ProcessCrew
from manila_backup.data.copy.remove import remove_tree
from manila_backup.data.copy.restore import restore_tree
from manila_backup.data.copy.sysio import Files
from manila_backup.data.copy.sysio import Kind as FileKind
from manila_backup.exception import Cancelled, CopyFailed, WorkerDied
from manila_backup.types import Counters
from tests.data.copy.conftest import Opened, Run, no_progress, not_cancelled
from tests.data.copy.file_systems import FileSystems, Kind
from tests.support.as_user import NOBODY, as_user
from tests.support.children import children
from tests.support.syscalls import Watched, open_fds
from tests.support.trees import assert_same, snapshot

pytestmark = [pytest.mark.root, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[3]
MIB = 1 << 20


@pytest.fixture
def tmp_path(in_memory: Path) -> Path:
    """In memory: to make and remove so many files costs a disk's file system more than the copy."""
    return in_memory


@pytest.fixture(autouse=True)
def start_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a fast machine would have copied such trees before it is worth it."""
    monkeypatch.setattr(tree, "_BACKLOG_NAMES", 15)
    monkeypatch.setattr(dispatch, "_LONG_S", 0.0)


@pytest.fixture
def other_thread() -> Iterator[None]:
    """With a second thread in this process the others are not forked but started anew."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    yield
    end.set()
    thread.join()


_LOOK_EVERY = 5
"""To ask for children takes the kernel longer than it takes us to copy a file."""


@dataclass
class Watch:
    """Hears the progress, and looks at the processes that are at work."""

    act: Callable[[Counters], None] = lambda counters: None
    seen: list[Counters] = field(default_factory=list)
    before: set[int] = field(default_factory=children)
    most: int = 0

    def progress(self, counters: Counters) -> None:
        if not self.most and len(self.seen) % _LOOK_EVERY == 0:
            self.most = len(children() - self.before)  # they are all started at once
        self.seen.append(counters)
        self.act(counters)


def backup(
    run: Run, count: int = 2, threads: int = 1, *, watch: Watch | None = None
) -> tuple[CopyResult, list[Entry]]:
    """Into an empty store, with so many processes."""
    shutil.rmtree(run.data)
    run.data.mkdir()
    options = CopyOptions(plain_target=True, processes=count, threads=threads)
    result = run.backup(options=options, progress=watch.progress if watch else no_progress)
    return result, list(run.entries())


def copy(
    run: Run,
    options: CopyOptions,
    *,
    watch: Watch | None = None,
    cancelled: Callable[[], bool] = not_cancelled,
) -> CopyResult:
    progress = watch.progress if watch else no_progress
    return run.copy(options, progress=progress, cancelled=cancelled)


def restore(run: Run, options: CopyOptions, *, watch: Watch | None = None) -> CopyResult:
    with Opened(run.data) as data, Opened(run.target) as target:
        return restore_tree(
            run.entries,
            data,
            target,
            options,
            progress=watch.progress if watch else no_progress,
            cancelled=not_cancelled,
        )


# --- trees ----------------------------------------------------------------------------------------


def many(root: Path, entries: int = 800) -> None:
    """Of all kinds, with siblings that stand between directories and what is in them, and names of
    the same inodes in directories far from each other."""
    draw = random.Random(entries)
    made: list[Path] = []
    directories = [root]
    for number in range(entries):
        parent = draw.choice(directories[-40:])
        path = parent / f"{draw.choice(['a', 'a-', 'a.', 'b'])}{number % 97}-{number}"
        kind = draw.random()
        if kind < 0.08 or number < 5:
            # Its name is the beginning of the names of others.
            path = parent / f"a{number}"
            path.mkdir(mode=0o700 + number % 64)
            directories.append(path)
            continue
        if kind < 0.3 and made:
            os.link(draw.choice(made), path, follow_symlinks=False)
            continue
        if kind < 0.36:
            path.symlink_to(f"to{number}")
        elif kind < 0.4:
            os.mkfifo(path, 0o600 + number % 64)
        else:
            path.write_bytes(b"%d" % number * (number % 400))
            path.chmod(0o4000 + number % 0o1000)
            os.chown(path, number, number + 1)
        if number % 9 == 0:
            os.setxattr(path, "trusted.t", b"%d" % number, follow_symlinks=False)
        made.append(path)
    for number, path in enumerate(directories[1:]):
        os.utime(path, ns=(number, 10**18 + number))


def linked_directories(root: Path) -> None:
    """All names in one directory are names of what is in another, which comes before or after."""
    for name in ("b", "a", "c"):
        (root / name).mkdir()
    for number in range(450):
        path = root / "b" / f"{number}"
        if number % 3 == 0:
            path.write_bytes(b"%d" % number)
        elif number % 3 == 1:
            path.symlink_to(f"to{number}")
        else:
            os.mkfifo(path)
        for name in ("a", "c"):
            os.link(path, root / name / f"{number}", follow_symlinks=False)


def large(root: Path) -> None:
    """Files that are copied in ranges, with data at the borders of these, and small ones beside."""
    for name, size, extents in (
        ("a", 4 * LARGE_BYTES + 4097, [(0, MIB), (LARGE_BYTES - MIB, 2 * MIB)]),
        ("b", 3 * LARGE_BYTES, [(2 * LARGE_BYTES + 12345, 5 * MIB), (3 * LARGE_BYTES - 1, 1)]),
        ("c", 2 * LARGE_BYTES, []),
        ("d", LARGE_BYTES, [(8192, 4096)]),
        ("e", LARGE_BYTES - 1, [(5 * MIB, 4096)]),
        ("f", LARGE_BYTES + 4097, [(0, LARGE_BYTES + 4097)]),
    ):
        fill(root / name, size, extents)
    os.setxattr(root / "a", "user.a", b"1")
    os.chown(root / "b", 1000, 1001)
    for number in range(20):
        (root / f"b{number}").write_bytes(b"%d" % number)


def fill(path: Path, size: int, extents: list[tuple[int, int]]) -> None:
    draw = random.Random(size)
    with path.open("wb") as file:
        for offset, length in extents:
            file.seek(offset)
            file.write(draw.randbytes(length))
        file.truncate(size)


TREES = {"many": many, "linked directories": linked_directories, "large": large}


def also_in_full(*cases: Any) -> list[Any]:
    return [pytest.param(*case, marks=pytest.mark.full) for case in cases]


# --- the same as in one process -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("many", (2, 1)),
        ("many", (3, 8)),
        ("linked directories", (2, 4)),
        ("large", (2, 4)),
        *also_in_full(
            ("many", (2, 4)),
            ("linked directories", (2, 1)),
            ("linked directories", (3, 8)),
            ("large", (2, 1)),
            ("large", (3, 8)),
        ),
    ],
)
def test_a_backup_is_the_one_of_one_process(run: Run, kind: str, way: tuple[int, int]) -> None:
    TREES[kind](run.source)
    wanted, entries = backup(run, 1)
    data = snapshot(str(run.data))
    watch = Watch()
    result, found = backup(run, *way, watch=watch)
    assert watch.most == way[0]
    assert found == entries
    assert result.counters == wanted.counters
    assert sorted(result.remarks.losses) == sorted(wanted.remarks.losses)
    assert (result.remarks.changed, result.remarks.skipped) == ((), ())
    assert result.logical_bytes == wanted.logical_bytes
    assert snapshot(str(run.data)) == data
    assert children() == watch.before


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("many", (3, 8)),
        ("linked directories", (2, 4)),
        ("large", (2, 4)),
        *also_in_full(
            ("many", (2, 1)),
            ("many", (2, 4)),
            ("linked directories", (3, 8)),
            ("large", (3, 8)),
        ),
    ],
)
def test_a_restore_is_the_one_of_one_process(run: Run, kind: str, way: tuple[int, int]) -> None:
    """The tree that it is laid over has other contents."""
    TREES[kind](run.source)
    backup(run, 2, 4)
    results = []
    for count, threads in ((1, 1), way):
        shutil.rmtree(run.target)
        run.target.mkdir()
        clashes(run.source, run.target)
        watch = Watch()
        options = CopyOptions(delete=True, processes=count, threads=threads)
        results.append(restore(run, options, watch=watch))
        assert watch.most == (count if count > 1 else 0)
        assert_same(str(run.source), str(run.target))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("delete", "way"),
    [
        (True, (2, 4)),
        (False, (3, 8)),
        *also_in_full((True, (2, 1)), (True, (3, 8)), (False, (2, 1)), (False, (2, 4))),
    ],
)
def test_a_copy_over_other_contents_is_the_one_of_one_process(
    run: Run, delete: bool, way: tuple[int, int]
) -> None:
    many(run.source)
    results, trees = [], []
    for count, threads in ((1, 1), way):
        shutil.rmtree(run.target)
        run.target.mkdir()
        clashes(run.source, run.target)
        watch = Watch()
        options = CopyOptions(delete=delete, processes=count, threads=threads)
        results.append(copy(run, options, watch=watch))
        assert watch.most == (count if count > 1 else 0)
        trees.append(snapshot(str(run.target)))
        if not delete:
            copy(run, CopyOptions(delete=True))
        assert_same(str(run.source), str(run.target))
    assert results[0] == results[1]
    assert trees[0].keys() == trees[1].keys()


def clashes(source: Path, target: Path) -> None:
    """Of the source's names every third, as something else; and names that the source lacks."""
    for number, path in enumerate(sorted(source.rglob("*"))):
        there = target / path.relative_to(source)
        if number % 3 or not there.parent.is_dir():
            continue
        info = path.lstat()
        if stat.S_ISDIR(info.st_mode):
            if number % 2:
                there.mkdir()
                (there / "only here").mkdir()
            else:
                there.write_bytes(b"in the way")
        elif number % 4 == 0:
            (there / "below").mkdir(parents=True)
            (there / "below" / "file").write_bytes(b"x")
        elif number % 4 == 1:
            there.symlink_to("/etc/passwd")
        else:
            there.write_bytes(b"old")
            (there.parent / f"only here {number}").symlink_to("x")


def test_processes_started_anew_do_the_same_as_forked_ones(run: Run, other_thread: None) -> None:
    many(run.source)
    wanted, entries = backup(run, 1)
    watch = Watch()
    result, found = backup(run, 2, 4, watch=watch)
    assert (watch.most, found) == (2, entries)
    assert result.counters == wanted.counters
    restore(run, CopyOptions(delete=True, processes=2, threads=4))
    assert_same(str(run.source), str(run.target))


@pytest.mark.parametrize("kind", ["many", "linked directories"])
def test_what_is_given_back_for_others_to_take_keeps_its_place(
    run: Run, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here everybody is asked to share all the time, and gives back what is left after one name."""
    TREES[kind](run.source)
    wanted, entries = backup(run, 1)
    data = snapshot(str(run.data))
    given_back: list[None] = []

    def chunk(*tail: Chunk | None) -> Chunk:
        given_back.extend([None] * len(tail))
        return Chunk(*tail)

    def share(crew: ProcessCrew, *, is_all_given_out: bool) -> None:
        crew._board.ask_to_share(is_asked=True)

    monkeypatch.setattr(tree, "Chunk", chunk)
    monkeypatch.setattr(ProcessCrew, "share", share)
    monkeypatch.setattr(copier, "_SLICE", 1)
    result, found = backup(run, 2, 4)
    assert len(given_back) > 100
    assert found == entries
    assert result.counters == wanted.counters
    assert snapshot(str(run.data)) == data


def test_who_has_work_is_asked_to_share_when_there_is_nothing_else_to_give_out(run: Run) -> None:
    with Opened(run.source) as source, Opened(run.target) as target:
        options = CopyOptions(processes=1, threads=16)
        setup = Setup(
            kind="copy", source_fd=source, target_fd=target, options=options, hashing=False
        )
        crew = ProcessCrew(setup)
        try:
            crew._throttle.threads = 16
            crew._members[0].bundles = 10
            board = crew._board
            for is_all, bundles, is_asked in (
                (False, 10, False),
                (True, 10, True),
                (True, 13, True),
                (True, 14, False),  # one in eight is idle
                (True, 0, True),
                (False, 0, False),
            ):
                crew._members[0].bundles = bundles
                crew.share(is_all_given_out=is_all)
                assert board.is_asked_to_share() == is_asked
        finally:
            crew.close()


def empty_files(directory: Path, count: int) -> None:
    directory.mkdir()
    with Opened(directory) as fd:
        for number in range(count):
            os.mknod(b"f%d" % number, stat.S_IFREG | 0o640, dir_fd=fd)


@pytest.mark.parametrize("files", [1500, pytest.param(25_000, marks=pytest.mark.full)])
def test_a_directory_that_is_too_large_for_one_worker(
    run: Run, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its names are read by the coordinator. In the target some are there already, and others."""
    if files < lister.LISTED_NAMES:
        monkeypatch.setattr(lister, "LISTED_NAMES", 1000)  # the processes are forked: theirs too
    top = run.source / "d"
    empty_files(top, files)
    for number in range(20):
        os.link(top / "f77", top / f"link{number}")
        (top / f"f5{number}-").mkdir()
        (top / f"f5{number}-" / "below").touch()
    watch = Watch()
    result, found = backup(run, 2, 4, watch=watch)
    assert watch.most == 2
    wanted = {b"", b"d"} | {b"d/f%d" % number for number in range(files)}
    wanted |= {b"d/link%d" % number for number in range(20)}
    wanted |= {b"d/f5%d-" % n for n in range(20)} | {b"d/f5%d-/below" % n for n in range(20)}
    assert [entry.path for entry in found] == sorted(wanted)
    assert (result.counters.files, result.counters.directories) == (files + 40, 22)
    assert {entry.path for entry in found if entry.link_group == 1} == {
        b"d/f77",
        *(b"d/link%d" % number for number in range(20)),
    }
    run.target = run.data
    for number in range(500):
        (run.target / "d" / f"old{number}").touch()
        (run.target / "d" / f"f{number}").unlink()
        (run.target / "d" / f"f{number}").mkdir()
    again = copy(run, CopyOptions(delete=True, processes=2))
    assert_same(str(run.source), str(run.target))
    assert again.counters.deleted == 500


def test_paths_of_what_is_left_to_do_are_not_kept(run: Run) -> None:
    """Two directories at each level, of which one leads on: the others wait for their turn. Their
    paths would be 25 MB."""
    levels, name = 500, b"n" * 200
    fd = os.open(run.source, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        os.mkdir(b"other", dir_fd=fd)
        deeper = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    tracemalloc.start()
    try:
        result = run.backup()
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        for tree_of in (run.source, run.data):
            with Opened(tree_of.parent) as parent:
                remove_tree(parent, os.fsencode(tree_of.name), cancelled=not_cancelled)
    assert result.counters.directories == 2 * levels + 1
    paths = [entry.path for entry in run.entries()]
    assert paths == sorted(paths)
    assert most < 15_000_000, most


class Twice(Files):
    """A server that lists each name twice, the second time as something else."""

    def names(self, dir_fd: int) -> Iterator[tuple[bytes, FileKind]]:
        names = list(super().names(dir_fd))
        yield from names
        yield from ((name, FileKind.OTHER) for name, _ in names)


@pytest.mark.parametrize("listed", [20_000, 10])
def test_a_name_that_is_listed_twice_is_one_entry(
    run: Run, listed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since it was renamed, or made anew, while the directory was read."""
    monkeypatch.setattr(lister, "LISTED_NAMES", listed)
    linked_directories(run.source)
    wanted = run.backup()
    entries = [entry.path for entry in run.entries()]
    shutil.rmtree(run.data)
    run.data.mkdir()
    assert run.backup(files=Twice()).counters == wanted.counters
    assert [entry.path for entry in run.entries()] == entries


def test_a_restore_below_a_mount_with_very_many_levels(run: Run) -> None:
    """None of them can be made; all of them wait for the last file."""
    levels = 1200
    fd = os.open(run.source, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(os.open("file", os.O_CREAT, dir_fd=fd))
    os.close(fd)
    run.backup()
    (run.target / "d").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", run.target / "d"], check=True)
    try:
        result = restore(run, CopyOptions(processes=2))
        assert os.listdir(run.target / "d") == []
    finally:
        subprocess.run(["umount", run.target / "d"], check=True)
        for tree_of in (run.source, run.data):
            with Opened(tree_of.parent) as parent:
                remove_tree(parent, os.fsencode(tree_of.name), cancelled=not_cancelled)
    assert result.counters.skipped == levels + 1
    assert result.counters.directories == 1


def test_the_coordinator_holds_names_on_disk_and_gives_them_back(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in a very large directory whose names are sorted in temporary files."""
    monkeypatch.setattr(lister, "LISTED_NAMES", 1000)
    monkeypatch.setitem(SortedNames.__init__.__kwdefaults__, "run_names", 100)
    empty_files(run.source / "d", 2000)
    fds, before = open_fds(), children()
    watch = Watch()
    with pytest.raises(Cancelled):
        copy(
            run,
            CopyOptions(processes=2),
            watch=watch,
            cancelled=lambda: bool(watch.seen) and watch.seen[-1].files > 300,
        )
    assert open_fds() == fds
    assert children() == before


def test_an_ordinary_user_works_alone(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as top:
        os.chown(top, NOBODY, NOBODY)
        Path(top).chmod(0o700)
        program = f"""
from pathlib import Path
from tests.data.copy.conftest import Run
from tests.data.copy.test_parallel import Watch, copy
from manila_backup.data.copy import tree
from manila_backup.data.copy.base import CopyOptions
tree._BACKLOG_NAMES = 50
run = Run(Path({top!r}))
for number in range(900):
    (run.source / f"{{number}}").write_bytes(b"x")
watch = Watch()
result = copy(run, CopyOptions(processes=2, threads=4), watch=watch)
assert result.counters.files == 900
assert watch.most == 0
"""
        subprocess.run(
            [*as_user(NOBODY), sys.executable, "-c", program],
            check=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )


def test_watched_calls_are_all_made_in_this_process(run: Run) -> None:
    many(run.source, 600)
    watch = Watch()
    run.backup(
        files=Watched(),
        options=CopyOptions(plain_target=True, processes=3, threads=8),
        progress=watch.progress,
    )
    assert watch.most == 0


def test_what_waits_for_the_catalog_stays_little_behind_a_file_that_takes_long(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of terabytes with two names comes first, and is copied in one go."""
    many(run.source)
    (run.source / "a").write_bytes(b"long")
    os.link(run.source / "a", tmp_path / "other name")
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    most_bytes = 0
    real_copy: Any = Copier._copy_file
    real_known: Any = Emission.known

    def copy_file(self: Copier, path: bytes, *args: Any) -> Any:
        if path == b"a":
            with gate.open("rb") as file:  # until the other end is opened and closed
                file.read()
        return real_copy(self, path, *args)

    def known(self: Emission, *args: Any) -> None:
        nonlocal most_bytes
        real_known(self, *args)
        most_bytes = max(most_bytes, self.buffered_bytes)

    def open_gate(counters: Counters) -> None:
        """When for a while no more is done."""
        if len(watch.seen) > 5 and watch.seen[-5] == counters:
            with contextlib.suppress(OSError):
                os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))

    monkeypatch.setattr(tree, "_BUFFERED_BYTES", 5_000)
    monkeypatch.setattr(tree, "_MOST_BUFFERED_BYTES", 10_000)
    monkeypatch.setattr(processes, "_BATCHES", (8, 8))
    monkeypatch.setattr(Copier, "_copy_file", copy_file)
    monkeypatch.setattr(Emission, "known", known)
    watch = Watch(open_gate)
    _, found = backup(run, 2, 2, watch=watch)
    assert watch.most == 2
    assert len(found) == 802
    # Once the limit is reached, no more than what is in work comes on top of it: 62,000 in all.
    # Without a limit it is 247,000.
    assert 10_000 < most_bytes < 100_000


# --- progress -------------------------------------------------------------------------------------


def assert_monotonic(seen: list[Counters]) -> None:
    for before, after in itertools.pairwise(seen):
        for figure in fields(Counters):
            assert getattr(before, figure.name) <= getattr(after, figure.name), figure.name


@pytest.mark.parametrize("kind", ["many", "large"])
def test_progress_never_goes_back(run: Run, kind: str) -> None:
    TREES[kind](run.source)
    if kind == "large":
        fill(run.source / "dense", 96 * MIB, [(0, 96 * MIB)])
    watch = Watch()
    result, _ = backup(run, 2, 4, watch=watch)
    assert watch.most == 2
    assert_monotonic(watch.seen)
    assert watch.seen[-1] == result.counters
    assert len({counters.bytes for counters in watch.seen}) > 5
    watch = Watch()
    result = restore(run, CopyOptions(processes=2, threads=4), watch=watch)
    assert_monotonic(watch.seen)
    assert watch.seen[-1] == result.counters


# --- stopped --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["many", "large"])
def test_cancelled_at_any_time_nothing_goes_on(run: Run, kind: str) -> None:
    TREES[kind](run.source)
    fds, before = open_fds(), children()
    finished = False
    for questions in itertools.count(1, 6):
        left = [questions]
        since_s: list[float] = []

        def cancelled(left: list[int] = left, since_s: list[float] = since_s) -> bool:
            left[0] -= 1
            if left[0] < 0 and not since_s:
                since_s.append(time.monotonic())
            return left[0] < 0

        shutil.rmtree(run.target)
        run.target.mkdir()
        try:
            copy(run, CopyOptions(processes=2, threads=4), cancelled=cancelled)
            finished = True
        except Cancelled:
            assert time.monotonic() - since_s[0] < 2
        assert open_fds() == fds
        assert children() == before
        assert_no_part_of_a_large_file(run.source, run.target)
        if finished or questions > 40:
            break
    copy(run, CopyOptions(processes=2, threads=4, delete=True))
    assert_same(str(run.source), str(run.target))


def test_cancelled_while_a_large_file_is_being_begun(run: Run) -> None:
    """The worker has made the file; that it has, the coordinator has not heard yet."""
    large(run.source)
    many(run.source)
    made = [run.target / name for name in ("a", "b", "c", "d")]

    def cancelled() -> bool:
        until_s = time.monotonic() + 0.05
        while time.monotonic() < until_s:
            if any(path.exists() for path in made):
                return True
        return False

    with pytest.raises(Cancelled):
        copy(run, CopyOptions(processes=2), cancelled=cancelled)
    assert_no_part_of_a_large_file(run.source, run.target)


# --- killed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "kind"),
    [
        ("copy", "large"),
        ("backup", "many"),
        ("restore", "many"),
        *also_in_full(("copy", "many"), ("backup", "large"), ("restore", "large")),
    ],
)
def test_killing_one_process_ends_all(run: Run, work: str, kind: str) -> None:
    """The operation fails in a way that trying again may mend, and it does."""
    TREES[kind](run.source)
    backup(run, 2)
    options = CopyOptions(processes=2, threads=4, delete=True)
    fds, before = open_fds(), children()

    def kill(counters: Counters) -> None:
        for pid in sorted(children())[:1]:
            os.kill(pid, signal.SIGKILL)

    does = {
        "copy": lambda watch=None: copy(run, options, watch=watch),
        "backup": lambda watch=None: backup(run, 2, 4, watch=watch),
        "restore": lambda watch=None: restore(run, options, watch=watch),
    }[work]
    with pytest.raises(WorkerDied) as caught:
        does(Watch(kill))
    assert "signal 9" in str(caught.value)
    assert open_fds() == fds
    assert children() == before
    # What the killed one was making is half done; nobody else knows which it was.
    does()
    if work != "backup":
        assert_same(str(run.source), str(run.target))


def assert_no_part_of_a_large_file(source: Path, written: Path) -> None:
    for path in source.iterdir():
        size = path.lstat().st_size
        if size >= LARGE_BYTES and (written / path.name).exists():
            assert (written / path.name).stat().st_size == size, path.name


def work_on(top: str, kind: str) -> None:
    """For a process of its own: copy, and tell which processes help."""
    tree._BACKLOG_NAMES = 50
    run = Run(Path(top), make=False)
    told = False

    def tell(counters: Counters) -> None:
        nonlocal told
        if children() and counters.files >= 50 and not told:
            told = True
            sys.stdout.write(" ".join(map(str, children())) + "\n")
            sys.stdout.flush()

    def copy_on() -> None:
        while True:
            copy(run, CopyOptions(processes=2, threads=4), watch=Watch(tell))

    if kind == "thread":
        thread = threading.Thread(target=copy_on)
        thread.start()
        thread.join()
    copy_on()


@pytest.mark.parametrize("kind", ["fork", "thread"])
def test_when_the_coordinator_is_killed_in_the_middle_all_end(run: Run, kind: str) -> None:
    many(run.source)
    program = f"from tests.data.copy.test_parallel import work_on; work_on({os.fspath(run.source.parent)!r}, {kind!r})"  # noqa: E501
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        ends = [os.pidfd_open(pid) for pid in pids]
        process.kill()
        for end in ends:
            assert select.select([end], [], [], 10)[0], "it outlives the copy"
            os.close(end)
        assert process.wait(10) == -signal.SIGKILL
    assert len(pids) == 2


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "limit"),
    [
        ("copy", "size=1500k"),
        ("restore", "nr_inodes=700"),
        *also_in_full(("copy", "nr_inodes=700"), ("restore", "size=1500k")),
    ],
)
def test_a_full_target_is_named_by_path_and_errno(run: Run, work: str, limit: str) -> None:
    many(run.source)
    backup(run, 2)
    options = CopyOptions(processes=2, threads=4)
    does = copy if work == "copy" else restore
    fds, before = open_fds(), children()
    with FileSystems() as tiny:
        run.target = tiny.new(Kind(name="tiny", type="tmpfs", options=("mode=755", limit)))
        watch = Watch()
        with pytest.raises(CopyFailed) as caught:
            does(run, options, watch=watch)
        assert caught.value.errno == errno.ENOSPC
        assert os.path.lexists(run.source / caught.value.path)
        assert caught.value.path != "."
        assert watch.most == 2
    assert open_fds() == fds
    assert children() == before


def test_a_mistake_in_a_worker_ends_the_copy_and_says_where_it_was_made(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes are forked, and so have it too."""
    many(run.source)
    coordinator = os.getpid()
    real: Any = Copier._copy_entry

    def broken(self: Copier, *args: Any, **kwargs: Any) -> Any:
        if os.getpid() == coordinator:
            return real(self, *args, **kwargs)
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(Copier, "_copy_entry", broken)
    fds, before = open_fds(), children()
    with pytest.raises(ZeroDivisionError) as caught:
        copy(run, CopyOptions(processes=2, threads=4))
    assert any("in broken" in note for note in caught.value.__notes__)
    assert open_fds() == fds
    assert children() == before


def test_an_error_that_cannot_be_handed_over_is_told_by_its_name(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(run.source)

    class Unhandy(Exception):
        def __init__(self) -> None:
            self.lock = threading.Lock()

    coordinator = os.getpid()
    real: Any = Copier._copy_entry

    def broken(self: Copier, *args: Any, **kwargs: Any) -> Any:
        if os.getpid() == coordinator:
            return real(self, *args, **kwargs)
        raise Unhandy

    monkeypatch.setattr(Copier, "_copy_entry", broken)
    before = children()
    with pytest.raises(RuntimeError, match="Unhandy cannot be handed over"):
        copy(run, CopyOptions(processes=2, threads=4))
    assert children() == before


class Unreadable(Exception):
    """Can be packed, and not unpacked."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def test_after_answers_that_cannot_be_read_nothing_is_left(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(run.source)
    coordinator = os.getpid()
    real: Any = Copier.do

    def broken(self: Copier, task: Any) -> Any:
        if os.getpid() == coordinator:
            return real(self, task)
        raise Unreadable("a", "b")

    monkeypatch.setattr(Copier, "do", broken)
    fds, before = open_fds(), children()
    with pytest.raises(TypeError, match="two"):
        copy(run, CopyOptions(processes=3, threads=4))
    assert open_fds() == fds
    assert children() == before


@pytest.mark.parametrize("number", [1, 3])
def test_when_no_more_processes_can_be_started_it_fails(
    run: Run, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later there may be fewer of them on the machine."""
    many(run.source)
    left = [number]
    real: Any = ProcessCrew._started

    def started(self: ProcessCrew, *args: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return real(self, *args)

    monkeypatch.setattr(ProcessCrew, "_started", started)
    fds, before = open_fds(), children()
    with pytest.raises(WorkerDied, match="Resource temporarily unavailable"):
        copy(run, CopyOptions(processes=3))
    assert open_fds() == fds
    assert children() == before


# --- what they are --------------------------------------------------------------------------------


def test_nothing_of_eventlet_is_in_the_processes(run: Run, other_thread: None) -> None:
    many(run.source)
    found: set[str] = set()

    def look(counters: Counters) -> None:
        if len(watch.seen) % _LOOK_EVERY:
            return
        for pid in children():
            with contextlib.suppress(psutil.Error):  # it has just ended
                maps = psutil.Process(pid).memory_maps()
                found.update(Path(mapped.path).name for mapped in maps)

    watch = Watch(look)
    backup(run, 2, 4, watch=watch)
    assert any(name.startswith("libc") for name in found)
    assert not [name for name in found if "greenlet" in name]
    program = """
import sys
import manila_backup.data.copy.child, manila_backup.data.copy.copier, manila_backup.data.copy.layer
known = {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
assert "blake3" in known
assert not known & {"eventlet", "greenlet", "oslo_config", "oslo_log", "sqlalchemy"}
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd="/")


@pytest.mark.usefixtures("other_thread")
def test_what_lies_in_the_working_directory_is_not_imported(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root that would be somebody else's code, where the command is run in a share."""
    many(run.source)
    here = tmp_path / "here"
    here.mkdir()
    for name in ("manila_backup.py", "blake3.py", "socket.py", "sitecustomize.py"):
        (here / name).write_text(f"open({os.fspath(tmp_path / 'imported')!r}, 'w')\n")
    monkeypatch.chdir(here)
    watch = Watch()
    copy(run, CopyOptions(processes=2), watch=watch)
    assert watch.most == 2
    assert not (tmp_path / "imported").exists()
