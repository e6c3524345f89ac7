# SPDX-License-Identifier: Apache-2.0
"""Large files restored in parts: the same as in one go, whatever others do to them between two
parts. As in ``test_large.py``, all tasks are done in this process, through a seam.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manila_backup.data.copy import large_restore, restore
from manila_backup.data.copy.base import CopyResult
from manila_backup.data.copy.child import Setup
from manila_backup.data.copy.crew import InlineCrew
from manila_backup.data.copy.errors import ContentDamaged, copy_failed
from manila_backup.data.copy.layer import Layer
from manila_backup.data.copy.notes import Pulse
from manila_backup.data.copy.sysio import CREATE_FILE, OPEN_FILE, Files
from manila_backup.exception import Cancelled, CopyFailed
from tests.data.copy.conftest import Run, not_cancelled
from tests.data.copy.large_files import (
    BIG,
    IN_TARGET,
    RANGE,
    SHAPES,
    SPOTS,
    Act,
    AllAtOnce,
    Nth,
    content,
    directory,
    fill,
    run_bytes,
    spotted,
    subdirectory,
    vanish,
)
from tests.support.syscalls import Faulty, Rival, Watched, open_fds
from tests.support.trees import assert_same, snapshot

pytestmark = pytest.mark.root

SECRET = b"not of this share"
PARTS = len(SPOTS)
OPENINGS = 2 + PARTS
"""What is stored and the new file to begin, what is stored for each part."""

Parallel = Callable[..., Files]


@pytest.fixture
def tmp_path(in_memory: Path) -> Path:
    """In memory: sparse files are read and compared quickly."""
    return in_memory


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each of the spots."""
    monkeypatch.setattr(large_restore, "LARGE_BYTES", 1)
    monkeypatch.setattr(large_restore, "RANGE_BYTES", 4096)


@pytest.fixture
def parallel(monkeypatch: pytest.MonkeyPatch) -> Parallel:
    """Have the coordinator share out the work, to one worker that uses these files."""

    def prepare(files: Files, kind: type[InlineCrew[Any]] = InlineCrew) -> Files:
        def crew(setup: Setup) -> InlineCrew[Any]:
            try:
                worker = Layer(
                    setup.source_fd,
                    setup.target_fd,
                    setup.options,
                    Pulse(not_cancelled, lambda notes: None),
                    files=files,
                    window=8,
                )
            except OSError as error:
                raise copy_failed(b"", error) from error
            return kind(worker)

        monkeypatch.setattr(restore, "is_parallel", lambda options, files: True)
        monkeypatch.setattr(restore, "ProcessCrew", crew)
        return files

    return prepare


def in_parts(run: Run, **more: Any) -> CopyResult:
    return run.restore(processes=2, **more)


class Openings(Watched):
    """Remembers with which flags the file was opened."""

    def __init__(self) -> None:
        super().__init__(before=self._look)
        self.flags: list[int] = []

    def _look(self, name: str, args: tuple[Any, ...]) -> None:
        if name in ("open", "open_here") and args[0] == BIG:
            self.flags.append(args[1])


def emptied(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


# --- exact ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("delete", [True, False], ids=["exact", "merge"])
def test_a_file_in_parts_is_the_file_in_one_go(
    run: Run, shape: tuple[int, list[tuple[int, int]]], delete: bool, parallel: Parallel
) -> None:
    fill(run.source / "big", shape[0], *shape[1])
    os.setxattr(run.source / "big", "user.a", b"1")
    os.chown(run.source / "big", 1000, 1001)
    os.chmod(run.source / "big", 0o4711)
    run.backup()
    in_one_go = run.restore(delete=delete)
    emptied(run.target)
    openings = Openings()
    result = in_parts(run, files=parallel(openings), delete=delete)
    assert result == in_one_go
    assert_same(str(run.source), str(run.target))
    entry = run.entry(BIG)
    if (of_it := large_restore.large_content(entry)) is not None:
        parts = len(list(large_restore.parts_of(entry, of_it)))
        assert len(openings.flags) == 2 + parts
    else:
        assert shape[1] == [], "nothing but a hole"


def test_many_small_pieces_come_in_parts_of_a_bounded_number(
    run: Run, parallel: Parallel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_restore, "RANGE_BYTES", 1 << 40)
    monkeypatch.setattr(large_restore, "_PIECES", 2)
    spotted(run.source / "big")
    run.backup()
    openings = Openings()
    in_parts(run, files=parallel(openings))
    assert len(openings.flags) == 2 + 2
    assert_same(str(run.source), str(run.target))


def test_many_large_files_among_others_and_names_of_them(run: Run, parallel: Parallel) -> None:
    for number in range(4):
        below = run.source / f"d{number}"
        below.mkdir()
        fill(below / "big", (2 + number) * RANGE, (number * RANGE, 9000), seed=number)
        (below / "big-").write_bytes(b"x")
        os.link(below / "big-", run.source / f"link{number}")
    spotted(run.source / "linked")
    os.link(run.source / "linked", run.source / "d1" / "linked")
    run.backup()
    in_one_go = run.restore()
    emptied(run.target)
    assert in_parts(run, files=parallel(Files())) == in_one_go
    assert_same(str(run.source), str(run.target))


@pytest.mark.parametrize("act", IN_TARGET)
def test_what_is_in_the_way_is_replaced(
    run: Run, tmp_path: Path, act: Act, parallel: Parallel
) -> None:
    spotted(run.source / "big")
    run.backup()
    (run.target / "big").touch()
    outside = tmp_path / "outside"
    outside.write_bytes(SECRET)
    act(run.target / "big", outside)
    in_parts(run, files=parallel(Files()))
    assert_same(str(run.source), str(run.target))
    assert outside.read_bytes() == SECRET


# --- others act meanwhile -------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.write_bytes(SECRET)
    return path


@pytest.mark.parametrize("act", IN_TARGET)
@pytest.mark.parametrize("delete", [True, False], ids=["exact", "merge"])
def test_what_others_put_in_its_place_stays_and_is_noted(
    tmp_path: Path, outside: Path, act: Act, delete: bool, parallel: Parallel
) -> None:
    """It is never written through; nobody else's file is half ours."""
    before = outside.stat()
    for number in range(3, OPENINGS + 1):
        run = Run(subdirectory(tmp_path, f"{number}"))
        spotted(run.source / "big")
        run.backup()
        rival = Rival(Nth(number), lambda run=run: act(run.target / "big", outside))
        result = in_parts(run, files=parallel(rival), delete=delete)
        assert rival.acted
        info = outside.stat()
        assert outside.read_bytes() == SECRET
        assert (info.st_mode, info.st_uid, info.st_mtime_ns) == (
            before.st_mode,
            before.st_uid,
            before.st_mtime_ns,
        )
        path = run.target / "big"
        assert result.remarks.changed == ("big",)
        if act is vanish or (delete and act is directory):  # the backup has no directory there
            assert not path.exists()
            continue
        wanted = Run(subdirectory(tmp_path, f"{number}-alone"))
        (wanted.target / "big").touch()
        act(wanted.target / "big", outside)
        assert but_for_times(run.target) == but_for_times(wanted.target), number


def but_for_times(tree_of: Path) -> dict[bytes, object]:
    return {
        path: replace(entry, mtime_ns=0, names=frozenset())
        for path, entry in snapshot(str(tree_of)).items()
        if path
    }


@pytest.mark.parametrize("number", range(3, OPENINGS + 1))
def test_what_is_moved_away_and_back_is_complete(run: Run, number: int, parallel: Parallel) -> None:
    """Whatever it is called meanwhile."""
    spotted(run.source / "big")
    run.backup()
    away = run.target / "away"
    rival = Rival(Nth(number), lambda: (run.target / "big").rename(away))
    result = in_parts(run, files=parallel(rival), delete=False)
    assert rival.acted
    assert result.remarks.changed == ("big",)
    away.rename(run.target / "big")
    assert content(run.target) == content(run.source)


def test_a_directory_that_is_moved_between_two_parts(run: Run, parallel: Parallel) -> None:
    (run.source / "d").mkdir()
    spotted(run.source / "d" / "big")
    run.backup()

    def move() -> None:
        (run.target / "d").rename(run.target.parent / "moved")
        (run.target / "d").mkdir()

    rival = Rival(Nth(5), move)
    result = in_parts(run, files=parallel(rival))
    assert rival.acted
    assert result.counters.changed
    assert not (run.target / "d" / "big").exists()


def test_a_mount_over_its_directory_is_not_written_to(
    run: Run, tmp_path: Path, parallel: Parallel
) -> None:
    (run.source / "d").mkdir()
    spotted(run.source / "d" / "big")
    run.backup()
    other = subdirectory(tmp_path, "other")
    place = subdirectory(run.target, "d")
    subprocess.run(["mount", "--bind", str(other), str(place)], check=True)
    try:
        result = in_parts(run, files=parallel(Files()))
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert list(other.iterdir()) == list(place.iterdir()) == []
    assert "d/big" in result.remarks.skipped
    assert result.counters.warnings


def test_what_is_mounted_meanwhile_is_not_written_to(
    run: Run, tmp_path: Path, parallel: Parallel
) -> None:
    """Who is below it already goes on there."""
    (run.source / "d").mkdir()
    spotted(run.source / "d" / "big")
    run.backup()
    other = subdirectory(tmp_path, "other")
    place = str(run.target / "d")
    mount = ["mount", "--bind", str(other), place]
    rival = Rival(Nth(OPENINGS - 1), lambda: subprocess.run(mount, check=True))
    try:
        in_parts(run, files=parallel(rival))
    finally:
        subprocess.run(["umount", place], check=True)
    assert rival.acted
    assert list(other.iterdir()) == []
    assert content(run.target)[b"d/big"] == content(run.source)[b"d/big"]


def test_by_its_name_it_is_never_opened_for_writing(run: Run, parallel: Parallel) -> None:
    """By the time it might be a device."""
    spotted(run.source / "big")
    run.backup()
    openings = Openings()
    in_parts(run, files=parallel(openings))
    assert set(openings.flags) == {OPEN_FILE, CREATE_FILE}


# --- damage ---------------------------------------------------------------------------------------


def other_bytes(path: Path) -> None:
    """In the last part."""
    with path.open("r+b") as file:
        file.seek(SPOTS[-1][0])
        file.write(b"damaged")


def shorter(path: Path) -> None:
    os.truncate(path, SPOTS[-1][0])


def a_symlink(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("damage", [other_bytes, shorter, a_symlink, Path.unlink])
@pytest.mark.parametrize("number", [1, 3, 4, 5])
def test_what_is_stored_wrongly_is_not_restored(
    run: Run, damage: Callable[[Path], None], number: int, parallel: Parallel
) -> None:
    """Whenever it is found out."""
    spotted(run.source / "big")
    run.backup()
    rival = Rival(Nth(number), lambda: damage(run.data / "big"))
    with pytest.raises(ContentDamaged) as caught:
        in_parts(run, files=parallel(rival))
    assert caught.value.path == "big"
    assert not (run.target / "big").exists()


def test_nothing_is_replaced_by_what_is_missing(run: Run, parallel: Parallel) -> None:
    spotted(run.source / "big")
    run.backup()
    (run.data / "big").unlink()
    (run.target / "big").write_bytes(b"the tenant's")
    with pytest.raises(ContentDamaged):
        in_parts(run, files=parallel(Files()), delete=False)
    assert (run.target / "big").read_bytes() == b"the tenant's"


# --- failures -------------------------------------------------------------------------------------

METADATA = {"chown", "chmod", "utime", "setxattr", "removexattr", "getxattr", "listxattr"}


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.ESTALE], ids=errno.errorcode.get)
def test_every_fault_fails_with_path_and_errno_or_costs_nothing(
    run: Run, error: int, parallel: Parallel
) -> None:
    spotted(run.source / "big")
    os.setxattr(run.source / "big", "user.a", b"1")
    run.backup()
    wanted = content(run.source)

    def attempt(files: Files) -> CopyResult:
        emptied(run.target)
        return in_parts(run, files=files)

    unharmed = Faulty(0, error)
    attempt(parallel(unharmed))
    assert content(run.target) == wanted
    assert unharmed.calls > 60
    fds = open_fds()
    for fail_at in range(1, unharmed.calls + 1):
        files = Faulty(fail_at, error)
        failed = result = None
        try:
            result = attempt(parallel(files))
        except CopyFailed as caught:
            failed = caught
        assert files.hit is not None, f"fault {fail_at} was not hit"
        left = content(run.target)
        if failed is not None:
            assert failed.errno == error, files.hit
            assert BIG not in left or left == wanted, (files.hit, "half of it was left")
        elif left != wanted:
            assert result is not None
            assert files.hit[0] in METADATA, files.hit
            assert result.counters.losses, files.hit
    assert open_fds() == fds


def test_stopped_at_every_question_nothing_is_left_of_it(run: Run, parallel: Parallel) -> None:
    fill(run.source / "big", 3 * RANGE, (0, 3 * RANGE))
    run.backup()
    wanted = content(run.source)
    fds = open_fds()
    for asked in itertools.count(1):
        left = [asked]

        def cancelled(left: list[int] = left) -> bool:
            left[0] -= 1
            return left[0] < 0

        emptied(run.target)
        try:
            in_parts(run, files=parallel(Files()), cancelled=cancelled)
        except Cancelled:
            assert content(run.target) in ({}, wanted)
        else:
            break
        finally:
            assert open_fds() == fds
    assert asked > 5
    assert content(run.target) == wanted


def test_begun_while_something_else_failed_nothing_is_left_of_it(
    run: Run, parallel: Parallel
) -> None:
    """Both are heard of together, and the failure first."""
    spotted(run.source / "a")  # from then on several are at work
    (run.source / "b").symlink_to("anywhere")
    spotted(run.source / "big")
    run.backup()
    begun: list[bool] = []

    def fail(name: str, args: tuple[Any, ...]) -> None:
        if name == "symlink":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def see(name: str, args: tuple[Any, ...]) -> None:
        begun.append((run.target / "big").exists())

    with pytest.raises(CopyFailed):
        in_parts(run, files=parallel(Watched(before=fail, after=see), AllAtOnce))
    assert any(begun)
    assert not (run.target / "big").exists()


def test_the_content_is_what_was_backed_up(run: Run, parallel: Parallel) -> None:
    """Against the test itself: what is stored is read back, not what the source has by now."""
    spotted(run.source / "big")
    run.backup()
    wanted = (run.source / "big").read_bytes()
    spotted(run.source / "big", seed=2)
    in_parts(run, files=parallel(Files()))
    assert (run.target / "big").read_bytes() == wanted
    assert run_bytes(run.target / "big") == run_bytes(run.data / "big")
