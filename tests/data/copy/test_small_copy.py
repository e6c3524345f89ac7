# SPDX-License-Identifier: Apache-2.0
"""Small files read and written in one go: what that adds to test_small, for both twins; and when a
look for holes is spared."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from manila_backup.data.copy.small import (
    BATCH_BYTES,
    SLICE,
    SMALL_BYTES,
    SmallFile,
    SmallFiles,
    Wish,
)
from tests.data.copy.conftest import Opened, not_cancelled
from tests.data.copy.file_systems import EXT4, SMALL_BLOCKS, FileSystems
from tests.data.copy.test_small import expected, read, twin
from tests.support.syscalls import Faulty, Watched, open_fds
from tests.support.trees import acl

KEEP = Wish(mask=0o7777, need=0, replace=False, keep=True)


class Two(NamedTuple):
    source: Path
    target: Path

    def copy(
        self, small: SmallFiles, *names: bytes, wish: Wish = KEEP
    ) -> tuple[list[SmallFile | None], int]:
        fds = open_fds()
        with Opened(self.source) as source_fd, Opened(self.target) as target_fd:
            habits = small.habits(target_fd)
            found = small.copy((source_fd, target_fd), names, wish, habits, not_cancelled)
        assert open_fds() == fds
        return found


@pytest.fixture(params=["native", "python"])
def small(request: pytest.FixtureRequest) -> SmallFiles:
    return twin(native=request.param == "native")


@pytest.fixture
def two(tmp_path: Path) -> Two:
    two = Two(tmp_path / "source", tmp_path / "target")
    for path in two:
        path.mkdir()
    return two


def full_file(path: Path, content: bytes = b"content", mode: int = 0o4750) -> None:
    path.write_bytes(content)
    os.setxattr(path, "user.a", b"1")
    os.setxattr(path, "user.empty", b"")
    os.setxattr(path, "system.posix_acl_access", acl((1234, 6)))
    if os.geteuid() == 0:
        os.chown(path, 1001, 1002)
        os.setxattr(path, "trusted.b", b"\0\xff" * 100)
    path.chmod(mode)
    os.utime(path, ns=(0, -1_600_000_000_123_456_789))


def is_like(one: SmallFile, other: SmallFile) -> bool:
    """But for its inode and its ctime."""
    return (*one[:5], *one[7:]) == (*other[:5], *other[7:])


def test_what_is_copied_is_exactly_what_was_read(small: SmallFiles, two: Two) -> None:
    full_file(two.source / "f")
    (two.source / "empty").write_bytes(b"")
    seen = [expected(two.source / "f"), expected(two.source / "empty")]
    assert two.copy(small, b"f", b"empty") == (seen, 0)
    for name, file in zip(("f", "empty"), seen, strict=True):
        assert is_like(expected(two.target / name), file)


def test_contents_and_attributes_are_kept_on_request_only(small: SmallFiles, two: Two) -> None:
    full_file(two.source / "f")
    seen = expected(two.source / "f")
    found = two.copy(small, b"f", wish=KEEP._replace(keep=False))
    assert found == ([seen._replace(content=b"", xattrs=None)], 0)
    assert is_like(expected(two.target / "f"), seen)


def test_what_is_not_kept_does_not_end_a_copy_early(small: SmallFiles, two: Two) -> None:
    names = [b"f%03d" % number for number in range(2 * BATCH_BYTES // SMALL_BYTES)]
    for name in names:
        (two.source / os.fsdecode(name)).write_bytes(b"x" * SMALL_BYTES)
    found, _ = two.copy(small, *names)
    assert len(found) == BATCH_BYTES // SMALL_BYTES
    # Nor was more copied than is answered.
    assert len(os.listdir(two.target)) == len(found)
    (two.target / "again").mkdir()
    again = Two(two.source, two.target / "again")
    found, _ = again.copy(small, *names, wish=KEEP._replace(keep=False))
    assert len(found) == len(names) == len(os.listdir(again.target))


def test_the_target_has_the_bits_of_the_mask(small: SmallFiles, two: Two) -> None:
    full_file(two.source / "f", mode=0o6755)
    seen = expected(two.source / "f")
    assert two.copy(small, b"f", wish=KEEP._replace(mask=0o1777)) == ([seen], 0)
    assert expected(two.target / "f").mode == seen.mode & 0o777


def test_a_file_without_the_needed_bits_is_left(small: SmallFiles, two: Two) -> None:
    for name, mode in ((b"f", 0o600), (b"g", 0o200), (b"h", 0o440)):
        (two.source / os.fsdecode(name)).write_bytes(name)
        (two.source / os.fsdecode(name)).chmod(mode)
    found, unwritten = two.copy(small, b"f", b"g", b"h", wish=KEEP._replace(need=0o400))
    assert [file is not None for file in found] == [True, False, True]
    assert unwritten == 0
    assert sorted(os.listdir(two.target)) == ["f", "h"]


@pytest.mark.parametrize("is_there", ["file", "link", "symlink", "directory"])
def test_what_is_in_the_way_is_replaced_on_request_only(
    small: SmallFiles, two: Two, is_there: str
) -> None:
    (two.source / "f").write_bytes(b"new")
    (two.source / "g").write_bytes(b"other")
    outside = two.target.parent / "outside"
    outside.write_bytes(b"outside")
    match is_there:
        case "file":
            (two.target / "f").write_bytes(b"old")
        case "link":
            (two.target / "f").hardlink_to(outside)
        case "symlink":
            (two.target / "f").symlink_to(outside)
        case "directory":
            (two.target / "f").mkdir()
    found, unwritten = two.copy(small, b"f", b"g")
    assert ([file is not None for file in found], unwritten) == ([False, True], 1)
    found, unwritten = two.copy(small, b"f", wish=KEEP._replace(replace=True))
    assert outside.read_bytes() == b"outside"
    if is_there == "directory":  # which the careful way deals with
        assert (found, unwritten) == ([None], 1)
    else:
        assert unwritten == 0
        assert expected(two.target / "f").content == b"new"


def test_only_names_right_in_the_directory_are_copied(small: SmallFiles, two: Two) -> None:
    (two.source / "sub").mkdir()
    for directory in (two.source, two.source / "sub"):
        (directory / "f").write_bytes(b"f")
    names = [b"sub/f", b"../source/f", b"", b".", b"..", b"f\0", b"none", b"sub"]
    assert two.copy(small, *names) == ([None] * len(names), 0)
    assert os.listdir(two.target) == []


@pytest.mark.parametrize("looks", [0, 1, 2])
def test_a_cancelled_copy_has_not_begun_the_rest(small: SmallFiles, two: Two, looks: int) -> None:
    names = [b"f%03d" % number for number in range(4 * SLICE)]
    for name in names:
        (two.source / os.fsdecode(name)).write_bytes(name)
    answers = iter([False] * looks + [True])
    with Opened(two.source) as source_fd, Opened(two.target) as target_fd:
        habits = small.habits(target_fd)
        found, _ = small.copy((source_fd, target_fd), names, KEEP, habits, lambda: next(answers))
    assert len(found) == looks * SLICE == len(os.listdir(two.target))


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_every_fault_leaves_nothing_behind(two: Two, error: int) -> None:
    full_file(two.source / "f", mode=0o750)
    seen = expected(two.source / "f")
    unharmed = Faulty(0, error)
    assert two.copy(SmallFiles(unharmed), b"f") == ([seen], 0)
    (two.target / "f").unlink()
    for fail_at in range(1, unharmed.calls + 1):
        files = Faulty(fail_at, error)
        try:
            found, _ = two.copy(SmallFiles(files), b"f")
        except OSError:  # the directory's habits
            found = [None]
        assert files.hit is not None
        if found == [None]:
            assert os.listdir(two.target) == [], files.hit
        else:
            assert is_like(expected(two.target / "f"), seen), files.hit
            (two.target / "f").unlink()


# --- holes ----------------------------------------------------------------------------------------


def block_of(byte: bytes) -> bytes:
    return byte * 512


@pytest.mark.parametrize(
    ("content", "is_asked"),
    [
        (b"x" * 100_000, False),
        (b"x" * 5000 + bytes(511) + b"x" * 5000, False),
        # A run of zeros as long as a block, at no place where a block could be.
        (block_of(b"x") * 20 + b"x" + bytes(1022) + b"x" + block_of(b"x"), False),
        (block_of(b"x") * 20 + bytes(512) + b"x", True),
        (bytes(512) + b"x" * 9000, True),
        (b"x" * 8192 + bytes(3), True),
        (b"x" * 4000 + bytes(96), False),  # one page, and it has its block
    ],
)
def test_the_kernel_is_asked_for_holes_where_one_could_be(
    two: Two, content: bytes, is_asked: bool
) -> None:
    (two.source / "f").write_bytes(content)
    os.sync()  # so that blocks have been given to all of it
    calls: list[str] = []
    files = Watched(lambda call, args: calls.append(call))
    assert read(SmallFiles(files), two.source, b"f") == [expected(two.source / "f")]
    assert ("seek" in calls) == is_asked


@pytest.mark.root
@pytest.mark.parametrize("at", [0, 1024, 4096, 12288, 61440])
@pytest.mark.parametrize("spare", [0, 1 << 20])
def test_a_hole_is_found_however_many_blocks_there_are(
    small: SmallFiles, at: int, spare: int
) -> None:
    """Blocks beyond the end, as a preallocating writer leaves them, count as the file's."""
    with FileSystems() as systems:
        for kind in (EXT4, SMALL_BLOCKS):
            file = systems.new(kind) / "f"
            file.write_bytes(b"x" * 65536)
            if spare:
                fallocate(file, 65536, spare)
            fallocate(file, at, 4096, "--punch-hole")
            assert not spare or file.stat().st_blocks * 512 > 65536
            has_hole = kind is SMALL_BLOCKS or at % 4096 == 0  # half a block is zeros, no hole
            assert read(small, file.parent, b"f") == [None if has_hole else expected(file)]


def fallocate(file: Path, offset: int, size: int, *options: str) -> None:
    where = ["--offset", str(offset), "--length", str(size)]
    subprocess.run(["fallocate", "--keep-size", *options, *where, file], check=True)
