# SPDX-License-Identifier: Apache-2.0
"""Sharing blocks instead of copying them, where the file system can; and where it cannot."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.tree import copy_tree

SIZE_BYTES = 32 << 20


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    """A file system with reflinks, on a loop device of its own."""
    image, point = tmp_path / "image", tmp_path / "xfs"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(400 << 20)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    yield point
    subprocess.run(["umount", point], check=True)


def copied(directory: Path) -> tuple[Path, Path]:
    """A tree with one file of random bytes, and a copy of it made with ``reflink``."""
    source, target = directory / "source", directory / "target"
    source.mkdir()
    target.mkdir()
    (source / "file").write_bytes(os.urandom(SIZE_BYTES))
    os.utime(source / "file", ns=(1, 1234567890123456789))
    os.sync()
    source_fd, target_fd = os.open(source, os.O_RDONLY), os.open(target, os.O_RDONLY)
    try:
        result = copy_tree(
            source_fd,
            target_fd,
            CopyOptions(reflink=True),
            catalog=None,
            progress=lambda counters: None,
            cancelled=lambda: False,
        )
    finally:
        os.close(source_fd)
        os.close(target_fd)
    assert (result.counters.files, result.logical_bytes) == (1, SIZE_BYTES)
    return source / "file", target / "file"


def used_bytes(directory: Path) -> int:
    subprocess.run(["sync", "-f", directory], check=True)
    space = os.statvfs(directory)
    return (space.f_blocks - space.f_bfree) * space.f_frsize


@pytest.mark.root
def test_a_reflink_costs_no_space_and_is_a_copy_all_the_same(xfs: Path) -> None:
    before = used_bytes(xfs)
    source, target = copied(xfs)
    assert used_bytes(xfs) - before < SIZE_BYTES * 3 // 2
    content = source.read_bytes()
    assert target.read_bytes() == content
    assert target.stat().st_mtime_ns == 1234567890123456789
    with source.open("r+b") as file:
        file.write(b"changed later")
    assert target.read_bytes() == content


def test_without_reflinks_the_bytes_are_copied(tmp_path: Path) -> None:
    source, target = copied(tmp_path)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mtime_ns == 1234567890123456789
