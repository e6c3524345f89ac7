# SPDX-License-Identifier: Apache-2.0
"""Large files in ranges: the same as in one go, whatever others do to them between two ranges.

The whole coordinator is at work, but all its tasks are done in this process, through a seam.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manila_backup.data.copy import copier, large, ranges, tree
from manila_backup.data.copy.base import CopyOptions, CopyResult
from manila_backup.data.copy.child import Setup
from manila_backup.data.copy.content import plan_ranges
from manila_backup.data.copy.copier import Copier
from manila_backup.data.copy.crew import InlineCrew
from manila_backup.data.copy.errors import copy_failed
from manila_backup.data.copy.notes import Pulse
from manila_backup.data.copy.sysio import CREATE_FILE, OPEN_FILE, SYSTEM, Files
from manila_backup.exception import Cancelled, CopyFailed
from tests.data.copy.conftest import Run, not_cancelled
from tests.data.copy.large_files import (
    BIG,
    IN_TARGET,
    RANGE,
    SHAPES,
    SIZE,
    Act,
    AllAtOnce,
    Nth,
    another_file,
    content,
    directory,
    fifo,
    fill,
    regular_files,
    run_bytes,
    small_file,
    spotted,
    subdirectory,
    symlink,
    vanish,
)
from tests.support.syscalls import Faulty, Rival, Watched, open_fds
from tests.support.trees import assert_same, differences, snapshot

pytestmark = pytest.mark.root

SECRET = b"not of this share"
OPTIONS = CopyOptions(plain_target=True, processes=2)


Parallel = Callable[..., Files]


@pytest.fixture
def tmp_path(in_memory: Path) -> Path:
    """In memory: sparse files are read and compared quickly."""
    return in_memory


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copier, "LARGE_BYTES", RANGE)
    monkeypatch.setattr(ranges, "RANGE_BYTES", RANGE)


@pytest.fixture
def parallel(monkeypatch: pytest.MonkeyPatch) -> Parallel:
    """Have the coordinator share out the work, to one worker that uses these files."""

    def prepare(files: Files, kind: type[InlineCrew[Any]] = InlineCrew) -> Files:
        def crew(setup: Setup) -> InlineCrew[Any]:
            try:
                worker = Copier(
                    setup.source_fd,
                    setup.target_fd,
                    setup.options,
                    Pulse(not_cancelled, lambda notes: None),
                    hashing=setup.hashing,
                    share=True,
                    files=files,
                    window=8,
                )
            except OSError as error:
                raise copy_failed(b"", error) from error
            return kind(worker)

        monkeypatch.setattr(tree, "is_parallel", lambda options, files: True)
        monkeypatch.setattr(tree, "ProcessCrew", crew)
        return files

    return prepare


# --- exact ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_file_in_ranges_is_the_file_in_one_go(
    run: Run, shape: tuple[int, list[tuple[int, int]]], parallel: Parallel
) -> None:
    fill(run.source / "big", shape[0], *shape[1])
    in_one_go = run.backup()
    wanted = run.entry(BIG)
    shutil.rmtree(run.data)
    run.data.mkdir()
    begun = Watched(
        before=lambda name, args: opened.append(args) if name in ("open", "open_here") else None
    )
    opened: list[Any] = []
    result = run.backup(files=parallel(begun), options=OPTIONS)
    assert result == in_one_go
    assert run.entry(BIG) == wanted
    by_name = sum(args[0] == BIG for args in opened)
    assert by_name == 4 + ranges_of(run.source / "big"), "seen, begun, made, each range, sealed"
    run.restore()
    assert_same(str(run.source), str(run.target))


def ranges_of(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return len(plan_ranges(SYSTEM, fd, os.fstat(fd).st_size, RANGE, lambda: None))
    finally:
        os.close(fd)


@pytest.mark.parametrize("shape", ["dense and a bit", "spots", "hole at the end"])
def test_without_checksums_too(run: Run, shape: str, parallel: Parallel) -> None:
    size, extents = SHAPES[shape]
    fill(run.source / "big", size, *extents)
    os.setxattr(run.source / "big", "user.a", b"1")
    os.chown(run.source / "big", 1000, 1001)
    os.chmod(run.source / "big", 0o4711)
    result = run.copy(CopyOptions(processes=2), files=parallel(Files()))
    assert_same(str(run.source), str(run.target))
    assert (result.counters.files, result.logical_bytes) == (1, size)


def test_many_large_files_among_others_and_names_of_them(run: Run, parallel: Parallel) -> None:
    for number in range(4):
        directory = run.source / f"d{number}"
        directory.mkdir()
        fill(directory / "big", (2 + number) * RANGE, (number * RANGE, 9000), seed=number)
        (directory / "big-").write_bytes(b"x")
        os.link(directory / "big-", run.source / f"link{number}")
    spotted(run.source / "linked")
    os.link(run.source / "linked", run.source / "d1" / "linked")
    in_one_go = run.backup()
    wanted = list(run.entries())
    shutil.rmtree(run.data)
    run.data.mkdir()
    assert run.backup(files=parallel(Files()), options=OPTIONS) == in_one_go
    assert list(run.entries()) == wanted
    run.restore()
    assert_same(str(run.source), str(run.target))


def test_a_file_in_very_many_pieces_is_copied_in_one_go(
    run: Run, parallel: Parallel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept of each piece must not grow for as long as a tenant punches holes."""
    monkeypatch.setattr(large, "EXTENTS_KEPT", 1)
    spotted(run.source / "big")
    opened: list[bytes] = []
    files = Watched(
        before=lambda name, args: opened.append(args[0]) if name in ("open", "open_here") else None
    )
    result = run.backup(files=parallel(files), options=OPTIONS)
    assert (result.counters.files, result.counters.bytes) == (1, run_bytes(run.source / "big"))
    assert opened.count(BIG) > OPENINGS - 2
    run.restore()
    assert_same(str(run.source), str(run.target))


# --- how it is cut --------------------------------------------------------------------------------


class Extents(Files):
    """A file whose data is there and nowhere else."""

    def __init__(self, extents: list[tuple[int, int]], size: int) -> None:
        self._extents = extents
        self._size = size

    def seek(self, fd: int, offset: int, whence: int) -> int:
        for start, length in self._extents:
            if whence == os.SEEK_DATA and offset < start + length:
                return max(offset, start)
            if whence == os.SEEK_HOLE and start <= offset < start + length:
                return start + length
        if whence == os.SEEK_DATA or offset >= self._size:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return offset


@settings(max_examples=200, deadline=None)
@given(
    gaps=st.lists(
        st.tuples(st.integers(1, 250), st.sampled_from([1, 2, 50, 99, 100, 101, 350])), max_size=9
    ),
    tail=st.sampled_from([0, 1, 99, 300]),
    first=st.booleans(),
)
def test_ranges_cover_all_data_once(gaps: list[tuple[int, int]], tail: int, first: bool) -> None:
    extents = []
    end = -gaps[0][0] if first and gaps else 0
    for gap, length in gaps:
        extents.append((end + gap, length))
        end += gap + length
    size = max(end, 0) + tail
    found = plan_ranges(Extents(extents, size), 0, size, 100, lambda: None)
    assert found == sorted(found)
    assert all(start % 100 == 0 and stop == min(start + 100, size) for start, stop in found)
    wanted = {at // 100 for start, length in extents for at in range(start, start + length)}
    assert [start // 100 for start, _ in found] == sorted(wanted)


# --- others act meanwhile -------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.write_bytes(SECRET)
    return path


def change(path: Path, outside: Path) -> None:
    with path.open("r+b") as file:
        file.seek(RANGE)
        file.write(b"changed")


def shrink(path: Path, outside: Path) -> None:
    os.truncate(path, RANGE + 9000)


def grow(path: Path, outside: Path) -> None:
    os.truncate(path, 3 * RANGE)


def one_more_name(path: Path, outside: Path) -> None:
    os.link(path, path.parent / "zz")


IN_SOURCE = [
    another_file,
    small_file,
    symlink,
    fifo,
    directory,
    vanish,
    change,
    shrink,
    grow,
    one_more_name,
]

OPENINGS = 6
"""Seen, begun, made, once for each of two ranges, sealed."""


@pytest.mark.parametrize("act", IN_SOURCE)
def test_what_others_do_to_the_source(
    tmp_path: Path, outside: Path, act: Act, parallel: Parallel
) -> None:
    """Stored is what the file was before or what it is now, never a mixture, nothing from outside;
    or it is gone, which is counted."""
    for number in range(1, OPENINGS + 1):
        run = Run(subdirectory(tmp_path, f"{number}"))
        spotted(run.source / "big")
        before = content(run.source)
        rival = Rival(Nth(number), lambda run=run: act(run.source / "big", outside))
        result = run.backup(files=parallel(rival), options=OPTIONS)
        assert rival.acted, f"the file was opened {number - 1} times only"
        after = content(run.source)
        run.restore()
        found = content(run.target)
        # Names that came after their directory had been listed are not in it.
        after = {path: entry for path, entry in after.items() if path in found or path == BIG}
        assert found in (before, after), number
        assert result.counters.skipped == (BIG not in found)
        assert result.counters.changed == 0
        assert result.counters.bytes == sum(map(run_bytes, regular_files(run.data)))
        assert SECRET not in b"".join(kept.read_bytes() for kept in regular_files(run.data))


@pytest.mark.parametrize("act", IN_TARGET)
@pytest.mark.parametrize("hashing", [True, False], ids=["hashing", "plain"])
def test_what_others_put_in_its_place_in_the_target(
    tmp_path: Path, outside: Path, act: Act, hashing: bool, parallel: Parallel
) -> None:
    """It is never written through, and the file comes into its place all the same."""
    seen = outside.stat()
    acted = 0
    for number in range(3, OPENINGS + 1):
        run = Run(subdirectory(tmp_path, f"{number}"))
        spotted(run.source / "big")
        written = run.data if hashing else run.target
        rival = Rival(Nth(number), lambda written=written: act(written / "big", outside))
        if hashing:
            result = run.backup(files=parallel(rival), options=OPTIONS)
        else:
            result = run.copy(CopyOptions(processes=2), files=parallel(rival))
        acted += rival.acted
        info = outside.stat()
        assert outside.read_bytes() == SECRET
        assert (info.st_mode, info.st_uid, info.st_mtime_ns) == (
            seen.st_mode,
            seen.st_uid,
            seen.st_mtime_ns,
        )
        assert content(run.source) == content(written), number
        assert result.counters.bytes == run_bytes(run.source / "big")
    assert acted == OPENINGS - 2


def test_by_its_name_it_is_never_opened_for_writing(run: Run, parallel: Parallel) -> None:
    """By the time it might be a device."""
    spotted(run.source / "big")
    flags: set[int] = set()
    files = Watched(
        before=lambda name, args: (
            flags.add(args[1]) if name in ("open", "open_here") and args[0] == BIG else None
        )
    )
    run.backup(files=parallel(files), options=OPTIONS)
    assert flags == {OPEN_FILE, CREATE_FILE}


def test_a_source_that_changes_again_and_again_is_counted(run: Run, parallel: Parallel) -> None:
    spotted(run.source / "big")
    rival = Rival(
        lambda name, args: name == "read",
        lambda: os.utime(run.source / "big"),
        times=10_000,
        after=True,
    )
    result = run.backup(files=parallel(rival), options=OPTIONS)
    assert rival.acted
    assert (result.remarks.changed, run.entry(BIG).changed) == (("big",), True)
    run.restore()
    assert (run.target / "big").read_bytes() == (run.source / "big").read_bytes()


def test_a_directory_that_is_moved_between_two_ranges(run: Run, parallel: Parallel) -> None:
    """Another one takes its place, with a file of that name in it."""
    (run.source / "d").mkdir()
    spotted(run.source / "d" / "big")

    def move() -> None:
        (run.source / "d").rename(run.source.parent / "moved")
        (run.source / "d").mkdir()
        spotted(run.source / "d" / "big", seed=2)

    rival = Rival(Nth(4), move)
    run.backup(files=parallel(rival), options=OPTIONS)
    assert rival.acted
    store = run.data / "d" / "big"
    if store.exists():
        wanted = (run.source.parent / "moved" / "big").read_bytes()
        assert store.read_bytes() == wanted, "the entry of d is of the first one"


# --- failures -------------------------------------------------------------------------------------


METADATA = {"chown", "chmod", "utime", "setxattr", "removexattr", "getxattr", "listxattr"}


def attempt(run: Run, files: Files) -> CopyResult:
    shutil.rmtree(run.data)
    run.data.mkdir()
    return run.backup(files=files, options=OPTIONS)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.ESTALE], ids=errno.errorcode.get)
def test_every_fault_fails_with_path_and_errno_or_costs_nothing(
    run: Run, error: int, parallel: Parallel
) -> None:
    spotted(run.source / "big")
    os.setxattr(run.source / "big", "user.a", b"1")
    unharmed = Faulty(0, error)
    attempt(run, parallel(unharmed))
    wanted = content(run.data)
    assert unharmed.calls > 80
    fds = open_fds()
    for fail_at in range(1, unharmed.calls + 1):
        files = Faulty(fail_at, error)
        failed = result = None
        try:
            result = attempt(run, parallel(files))
        except CopyFailed as caught:
            failed = caught
        assert files.hit is not None, f"fault {fail_at} was not hit"
        left = content(run.data)
        if failed is not None:
            assert (failed.errno, bool(failed.path)) == (error, True), files.hit
            if BIG in left:
                assert run.data.joinpath("big").stat().st_size == SIZE, files.hit
                assert left == wanted, (files.hit, "half of it was left")
        elif left != wanted:
            assert result is not None
            assert files.hit[0] in METADATA, files.hit
            assert result.counters.losses, files.hit
    assert open_fds() == fds


def test_stopped_at_every_question_nothing_is_left_of_it(run: Run, parallel: Parallel) -> None:
    fill(run.source / "big", 3 * RANGE, (0, 3 * RANGE))
    fds = open_fds()
    for asked in itertools.count(1):
        left = [asked]

        def cancelled(left: list[int] = left) -> bool:
            left[0] -= 1
            return left[0] < 0

        shutil.rmtree(run.data)
        run.data.mkdir()
        try:
            run.backup(files=parallel(Files()), options=OPTIONS, cancelled=cancelled)
        except Cancelled:
            assert not (run.data / "big").exists() or complete(run)
        else:
            break
        finally:
            assert open_fds() == fds
    assert asked > 5
    assert complete(run)


def test_when_something_else_fails_nothing_is_left_of_it(run: Run, parallel: Parallel) -> None:
    """What was done is heard of together, and the failure first."""
    spotted(run.source / "big")
    spotted(run.source / "bad")

    def fail(name: str, args: tuple[Any, ...]) -> None:
        if name in ("open", "open_here") and args[0] == b"bad" and (run.data / "big").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    begun: list[bool] = []

    def see(name: str, args: tuple[Any, ...]) -> None:
        begun.append((run.data / "big").exists())

    with pytest.raises(CopyFailed) as caught:
        run.backup(files=parallel(Watched(before=fail, after=see), AllAtOnce), options=OPTIONS)
    assert caught.value.path == "bad"
    assert any(begun)
    assert list(run.data.iterdir()) == []


def complete(run: Run) -> bool:
    return not differences(
        {BIG: snapshot(str(run.source))[BIG]}, {BIG: snapshot(str(run.data))[BIG]}
    )
