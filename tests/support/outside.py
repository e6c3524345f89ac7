# SPDX-License-Identifier: Apache-2.0
"""What lies outside of a tree, and how to tell that nobody came there; and mounts for tests."""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Iterator
from pathlib import Path

MS_NODEV = 4
_MS_BIND = 4096
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def touched(root: Path) -> dict[str, tuple[object, ...]]:
    """All that would show that an entry was written or changed, or a file's content read.

    Compare one from before with one from after. Reading shows (relatime) where the time of access
    was older than the time of change before.
    """
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        info = path.lstat()
        # Looking at directories and links, as this does, is what changes their times of access.
        atime_ns = info.st_atime_ns if stat.S_ISREG(info.st_mode) else 0
        found[str(path)] = (
            *(info.st_ino, info.st_mode, info.st_nlink, info.st_uid, info.st_gid, info.st_size),
            *(info.st_mtime_ns, info.st_ctime_ns, atime_ns),
        )
    return found


def mount_bind(what: Path, where: Path) -> None:
    """Works for directories and for single files."""
    _mount(what, where, b"", _MS_BIND)


def mount_tmpfs(where: Path, flags: int = 0) -> None:
    _mount(Path("tmpfs"), where, b"tmpfs", flags)


def _mount(what: Path, where: Path, kind: bytes, flags: int) -> None:
    if _libc.mount(os.fsencode(what), os.fsencode(where), kind, flags, None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(where))


def unmount(where: Path) -> None:
    if _libc.umount2(os.fsencode(where), _MNT_DETACH):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(where))


@contextlib.contextmanager
def mounts_undone(below: Path) -> Iterator[None]:
    """Whatever is mounted below ``below`` at the end of the block is unmounted."""
    try:
        yield
    finally:
        for where in reversed(mounts(below)):
            unmount(where)


def mounts(below: Path) -> list[Path]:
    """Mount points below a directory, the later ones last."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    places = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    return [Path(place) for place in places if place.startswith(f"{below}/")]
