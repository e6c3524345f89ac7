# SPDX-License-Identifier: Apache-2.0
"""The parts of the benchmark: which data set, over which file systems."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.dataset import Extent, extent_of
from bench.images import ImageSpec
from bench.shapes import Planned, large_files, mixed_files, small_files
from bench.tools import LATENCY, LATENCY_JOBS, LOCAL, LOCAL_JOBS, Catalogue

_LATENCY_FILES = 4000
_LATENCY_LEAST_FILES = 40
_FILES_PER_DIRECTORY = 100
_LEAST_DIRECTORIES = 20

Shape = Callable[[], Iterator[Planned]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """``shape`` begins anew at each call. ``slow`` is True where both trees are seen through the
    slow file system."""

    name: str
    title: str
    shape: Shape
    catalogue: Catalogue
    jobs: int
    slow: bool = False

    def extent(self) -> Extent:
        return extent_of(self.shape())


PART_NAMES = ("S", "L", "M", "latency")


def parts(*, scale: float, seed: int, latency_files: int | None) -> dict[str, Part]:
    """All parts by name, in the order of ``PART_NAMES``."""

    def local(name: str, title: str, shape: Shape) -> Part:
        return Part(name=name, title=title, shape=shape, catalogue=LOCAL, jobs=LOCAL_JOBS)

    files = latency_files or max(_LATENCY_LEAST_FILES, round(_LATENCY_FILES * min(scale, 1)))
    leaves = max(_LEAST_DIRECTORIES, files // _FILES_PER_DIRECTORY)
    per_leaf = max(2, files // leaves)
    found = (
        local("S", "S: small files", lambda: small_files(scale, seed)),
        local("L", "L: large files", lambda: large_files(scale)),
        local("M", "M: files like /usr", lambda: mixed_files(scale, seed)),
        Part(
            name="latency",
            title="latency: small files, every request delayed on both sides",
            shape=lambda: small_files(scale, seed, leaves=leaves, per_leaf=per_leaf),
            catalogue=LATENCY,
            jobs=LATENCY_JOBS,
            slow=True,
        ),
    )
    return {part.name: part for part in found}


def image_of(extent: Extent, fs_type: str) -> ImageSpec:
    """Room for the data set, in blocks of 4 KiB, with blocks to spare; images are sparse."""
    return ImageSpec(
        fs_type=fs_type,
        size_bytes=extent.logical_bytes * 3 // 2 + extent.entries * (32 << 10) + (512 << 20),
        inodes=extent.entries + 1024,
    )


def needed_bytes(extent: Extent) -> int:
    """On the disk that holds the images: source and one target, with logs and inode tables."""
    return 2 * (extent.logical_bytes * 11 // 10 + extent.entries * (6 << 10) + (192 << 20))
