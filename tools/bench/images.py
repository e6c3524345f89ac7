# SPDX-License-Identifier: Apache-2.0
"""File systems in image files on loop devices.

The image's name is removed once it is mounted: it lives as long as the mount, which lives as long
as the mount namespace of the benchmark. Whoever is killed leaves nothing but an empty directory.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIN_IMAGE_BYTES = 512 << 20
"""xfs refuses less than 300 MiB; images are sparse, so the size costs nothing."""

_MKFS = {
    # Without lazy initialisation, which would go on in the background of the first runs.
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-K"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    fs_type: str
    size_bytes: int
    inodes: int


@contextmanager
def mounted_image(spec: ImageSpec, directory: Path, name: str) -> Iterator[Path]:
    """A new, empty file system at ``directory/name``, unmounted at the end."""
    image, mount_point = directory / f"{name}.image", directory / name
    mount_point.mkdir(exist_ok=True)
    try:
        with image.open("xb") as file:
            file.truncate(max(spec.size_bytes, MIN_IMAGE_BYTES))
        argv = list(_MKFS[spec.fs_type])
        if spec.fs_type == "ext4":
            argv += ["-N", str(spec.inodes)]
        run_quietly([*argv, os.fspath(image)])
        with _loop_device(image) as device:
            options = "noatime,nodev,nosuid"
            run_quietly(["mount", "-o", options, device, os.fspath(mount_point)])
    finally:
        image.unlink(missing_ok=True)
    try:
        yield mount_point
    finally:
        unmount(mount_point)


@contextmanager
def _loop_device(image: Path) -> Iterator[str]:
    """With direct I/O where the file below can do it: else everything is in the page cache twice.
    At the end the device is let go; one that is mounted lives on until it is unmounted."""
    device = run_quietly(["losetup", "--find", "--show", os.fspath(image)]).strip()
    try:
        direct = ["losetup", "--direct-io=on", device]
        subprocess.run(direct, capture_output=True, check=False)
        yield device
    finally:
        run_quietly(["losetup", "--detach", device])


def make_read_only(mount_point: Path) -> None:
    run_quietly(["mount", "-o", "remount,ro", os.fspath(mount_point)])


def unmount(mount_point: Path) -> None:
    """Off the tree in any case; says so when something still used it."""
    done = subprocess.run(
        ["umount", os.fspath(mount_point)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        print(f"bench_copy: {done.stderr.strip()}", file=sys.stderr)
        subprocess.run(["umount", "-l", os.fspath(mount_point)], capture_output=True, check=False)


def run_quietly(argv: list[str]) -> str:
    """Its output.

    :raises RuntimeError: it failed; with what it said.
    """
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{argv[0]} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout
