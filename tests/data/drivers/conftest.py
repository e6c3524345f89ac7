# SPDX-License-Identifier: Apache-2.0
"""What all driver tests start from: an empty store, a filled source, an empty target."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from tests.data.drivers.trees import fill


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return fill(tmp_path / "source")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.mkdir()
    return path


class SmallFs(Protocol):
    def __call__(self, *, size_kib: int, inodes: int = 1000) -> Path: ...


@pytest.fixture
def small_fs(tmp_path: Path) -> Iterator[SmallFs]:
    """Makes file systems of a given size; unmounted when the test ends."""
    with ExitStack() as stack:

        def make(*, size_kib: int, inodes: int = 1000) -> Path:
            path = tmp_path / f"small-{size_kib}-{inodes}"
            path.mkdir()
            options = f"size={size_kib}k,nr_inodes={inodes},mode=700"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(path)], check=True)
            stack.callback(subprocess.run, ["umount", "-l", str(path)], check=True)
            return path

        yield make
