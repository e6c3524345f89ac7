# SPDX-License-Identifier: Apache-2.0
"""Real file systems for tests: on loop devices or in memory, mounted when first asked for, and
unmounted with their devices freed at the end of a block.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """``mkfs`` makes it in an image of ``image_mib``; None: it lives in memory. ``block_bytes``:
    holes come in multiples of it."""

    name: str
    type: str
    mkfs: tuple[str, ...] | None = None
    image_mib: int = 0
    options: tuple[str, ...] = ()
    block_bytes: int = 4096

    def __str__(self) -> str:
        return self.name


EXT4 = Kind(name="ext4", type="ext4", mkfs=("mkfs.ext4", "-q", "-b", "4096"), image_mib=512)
XFS = Kind(
    name="xfs",
    type="xfs",
    mkfs=("mkfs.xfs", "-q", "-m", "bigtime=1"),
    image_mib=2048,
    # What it allocates ahead of a file's end looks like data as soon as it has been read.
    options=("allocsize=4k",),
)
BTRFS = Kind(name="btrfs", type="btrfs", mkfs=("mkfs.btrfs", "-q"), image_mib=1024)
TMPFS = Kind(name="tmpfs", type="tmpfs", options=("mode=755",))

WHOLE = (EXT4, XFS, BTRFS, TMPFS)
"""They hold all that a tree of theirs can have, within their ranges of time."""

SMALL_BLOCKS = Kind(
    name="ext4-1k",
    type="ext4",
    mkfs=("mkfs.ext4", "-q", "-b", "1024"),
    image_mib=128,
    block_bytes=1024,
)
SMALL_INODES = Kind(
    name="ext4-128",
    type="ext4",
    mkfs=("mkfs.ext4", "-q", "-b", "4096", "-I", "128"),
    image_mib=128,
)
"""Times in whole seconds, from 1901 to 2038."""

OLD_XFS = Kind(
    name="xfs-2038", type="xfs", mkfs=("mkfs.xfs", "-q", "-m", "bigtime=0"), image_mib=512
)
NO_TYPES = Kind(
    name="ext4-no-types",
    type="ext4",
    mkfs=("mkfs.ext4", "-q", "-b", "4096", "-O", "^filetype"),
    image_mib=128,
)
"""Its listings do not say what a name is."""

RAMFS = Kind(name="ramfs", type="ramfs")
"""Neither attributes nor ACLs, and no way to ask for holes."""


class FileSystems:
    """A context manager. Directories that it hands out are reachable for every user."""

    def __init__(self) -> None:
        self._mounted: dict[str, Path] = {}
        self._number = 0

    def __enter__(self) -> FileSystems:
        self._top = Path(tempfile.mkdtemp(prefix="file-systems-"))
        self._top.chmod(0o755)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        left = [point for point in self._mounted.values() if not _unmount(point)]
        shutil.rmtree(self._top, ignore_errors=bool(left))
        assert not left, f"still in use: {left}"

    def root(self, kind: Kind) -> Path:
        """Where it is mounted."""
        if kind.name not in self._mounted:
            self._mounted[kind.name] = self._mount(kind)
        return self._mounted[kind.name]

    def new(self, kind: Kind, *, owner: int = 0) -> Path:
        """A new empty directory on it."""
        self._number += 1
        path = self.root(kind) / f"{self._number}"
        path.mkdir(mode=0o755)
        os.chown(path, owner, owner)
        return path

    def _mount(self, kind: Kind) -> Path:
        point = self._top / kind.name
        point.mkdir()
        what, options = kind.type, kind.options
        if kind.mkfs is not None:
            image = self._top / f"{kind.name}.image"
            with image.open("wb") as file:
                file.truncate(kind.image_mib * MIB)
            subprocess.run([*kind.mkfs, image], check=True, capture_output=True)
            # The kernel frees the device with the last user of the mount, also after a kill.
            what, options = str(image), (*options, "loop")
        mount = ["mount", "-t", kind.type, "-o", ",".join(options) or "defaults", what, str(point)]
        subprocess.run(mount, check=True)
        return point


def _unmount(point: Path) -> bool:
    if subprocess.run(["umount", point], check=False, capture_output=True).returncode == 0:
        return True
    subprocess.run(["umount", "--lazy", point], check=False)
    return False


class Trip:
    """Directories of one test, removed in the end. ``catalog``: a path where every user may make a
    file."""

    def __init__(self, disks: FileSystems) -> None:
        self._disks = disks
        self._made: list[Path] = []
        around = self.new(TMPFS)
        around.chmod(0o777)
        self.catalog = around / "catalog"

    def new(self, kind: Kind, *, owner: int = 0) -> Path:
        self._made.append(self._disks.new(kind, owner=owner))
        return self._made[-1]

    def remove(self) -> None:
        for path in self._made:
            shutil.rmtree(path)
