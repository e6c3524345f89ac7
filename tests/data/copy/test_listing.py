# SPDX-License-Identifier: Apache-2.0
"""Listing directories in which others rename entries at the same time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manila_backup.data.copy.listing import LISTINGS, live_names
from manila_backup.data.copy.sysio import Files
from manila_backup.data.copy.sysio import Kind as NameKind
from tests.data.copy.conftest import Opened, Run
from tests.data.copy.file_systems import BTRFS, NO_TYPES, WHOLE, FileSystems, Kind, Trip

NAMES = [f"{number:03}{'x' * 200}" for number in range(500)]
"""More than one system call lists."""


class InTheMiddle(Files):
    """``act`` happens when the first name has been listed, so many times."""

    def __init__(self, act: Callable[[], object], *, times: int) -> None:
        self._act = act
        self.left = times

    def names(self, dir_fd: int) -> Iterator[tuple[bytes, NameKind]]:
        listed = super().names(dir_fd)
        yield next(listed)
        if self.left:
            self.left -= 1
            self._act()
        yield from listed


def replace_last(directory: Path) -> None:
    (directory / "new").touch()
    (directory / "new").rename(directory / NAMES[-1])


@pytest.mark.root
@pytest.mark.parametrize("kind", WHOLE, ids=str)
def test_a_name_that_another_file_takes_over_is_listed(disks: FileSystems, kind: Kind) -> None:
    trip = Trip(disks)
    directory = trip.new(kind)
    for name in NAMES:
        (directory / name).touch()
    rival = InTheMiddle(lambda: replace_last(directory), times=1)
    told: list[str] = []
    with Opened(directory) as fd:
        found = list(live_names(rival, fd, on_change=lambda: told.append("changed")))
        if kind is BTRFS:
            rival.left = 1
            once = {name for name, _ in rival.names(fd)}
            assert os.fsencode(NAMES[-1]) not in once, "this is what it is about"
    assert {name for name, _ in found} - {b"new"} == {os.fsencode(name) for name in NAMES}
    assert told == []
    trip.remove()


TYPES: dict[bytes, Callable[[Path], object]] = {
    b"file": Path.touch,
    b"directory": Path.mkdir,
    b"fifo": os.mkfifo,
    b"symlink to a directory": lambda path: path.symlink_to("directory"),
    b"symlink to a file": lambda path: path.symlink_to("file"),
    b"nowhere": lambda path: path.symlink_to("nowhere"),
    b"no \xff utf-8\n": Path.touch,
    b"..." + b"x" * 252: Path.touch,
}


@pytest.mark.root
@pytest.mark.parametrize("native", [True, False], ids=["native", "python"])
@pytest.mark.parametrize("kind", [*WHOLE, NO_TYPES], ids=str)
def test_names_come_with_what_they_are(
    disks: FileSystems, monkeypatch: pytest.MonkeyPatch, kind: Kind, native: bool
) -> None:
    """Also from file systems that do not say what a name is. From the first name every time."""
    if native:
        pytest.importorskip("manila_backup.data.copy._native", exc_type=ImportError)
    monkeypatch.setenv("MANILA_BACKUP_NATIVE", "1" if native else "0")
    trip = Trip(disks)
    directory = trip.new(kind)
    for name, make in TYPES.items():
        make(directory / os.fsdecode(name))
    for name in NAMES:
        (directory / name).touch()
    with Opened(directory) as fd:
        for _ in range(2):
            found = list(Files().names(fd))
            assert len(found) == len(TYPES) + len(NAMES)
            assert {name: said for name, said in found if name in TYPES} == {
                b"file": NameKind.FILE,
                b"directory": NameKind.DIRECTORY,
                b"fifo": NameKind.OTHER,
                b"symlink to a directory": NameKind.OTHER,
                b"symlink to a file": NameKind.OTHER,
                b"nowhere": NameKind.OTHER,
                b"no \xff utf-8\n": NameKind.FILE,
                b"..." + b"x" * 252: NameKind.FILE,
            }
        next(names := Files().names(fd))
        names.close()
        assert len(list(Files().names(fd))) == len(found)
    trip.remove()


@pytest.mark.parametrize("native", [True, False], ids=["native", "python"])
def test_what_is_no_directory_has_no_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, native: bool
) -> None:
    monkeypatch.setenv("MANILA_BACKUP_NATIVE", "1" if native else "0")
    (tmp_path / "f").touch()
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    with pytest.raises(NotADirectoryError):
        list(Files().names(fd))
    os.close(fd)


@pytest.mark.parametrize("native", [True, False], ids=["native", "python"])
@pytest.mark.parametrize("is_removed", [False, True], ids=["there", "removed"])
def test_an_empty_directory_has_no_names_whether_it_is_still_there_or_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, native: bool, is_removed: bool
) -> None:
    monkeypatch.setenv("MANILA_BACKUP_NATIVE", "1" if native else "0")
    (tmp_path / "d").mkdir()
    with Opened(tmp_path / "d") as fd:
        if is_removed:
            (tmp_path / "d").rmdir()
        assert list(Files().names(fd)) == []


def test_a_directory_that_stands_still_is_listed_once(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with Opened(tmp_path) as fd:
        found = list(live_names(Files(), fd, on_change=pytest.fail))
    assert found == [(b"f", NameKind.FILE)]


def test_a_directory_that_never_stands_still_is_named_as_changed(run: Run) -> None:
    directory = run.source / "d"
    directory.mkdir()
    (directory / "f").touch()

    def come_and_go() -> None:
        (directory / "new").touch()
        (directory / "new").unlink()

    result = run.backup(files=InTheMiddle(come_and_go, times=1 + LISTINGS))
    assert result.remarks.changed == ("d",)
    assert result.counters.changed == 1
