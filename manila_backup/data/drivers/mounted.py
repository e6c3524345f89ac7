# SPDX-License-Identifier: Apache-2.0
"""Opening a mounted tree: it is the mount it should be, or nothing is done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from manila_backup.data.drivers.layout import DIRECTORY_FLAGS
from manila_backup.exception import MountFailed
from manila_backup.types import MountedTree

_PATH_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NOT_MOUNTED = "it is not mounted any more"


@contextmanager
def opened_tree(tree: MountedTree) -> Iterator[int]:
    """The root directory of a mounted share, open while the context lasts.

    :raises MountFailed: it cannot be opened, or something else is at this path now: a share that
        was unmounted, so that its mount point shows through, or another mounted over it.
    """
    try:
        fd = os.open(tree.path, DIRECTORY_FLAGS)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise MountFailed(export=ascii(tree.path), reason=reason) from error
    try:
        if mount_id_of(fd) != tree.mount_id:
            raise MountFailed(export=ascii(tree.path), reason=_NOT_MOUNTED)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def opened_root(path: str, mount_id: int | None) -> Iterator[int]:
    """The store's root. ``path`` is the operator's word, so links in it are followed.

    :raises MountFailed: it cannot be opened, or is not on the mount ``mount_id``, if one is given.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise MountFailed(export=ascii(path), reason=reason) from error
    try:
        if mount_id is not None and mount_id_of(fd) != mount_id:
            raise MountFailed(export=ascii(path), reason=_NOT_MOUNTED)
        yield fd
    finally:
        os.close(fd)


def mount_id_of(fd: int) -> int:
    """The kernel's id of the mount that ``fd`` was opened on."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key == "mnt_id":
            return int(value)
    raise OSError(f"the kernel reports no mount id for fd {fd}")


def is_within(fd: int, top_fd: int) -> bool:
    """Whether the directory ``fd`` is ``top_fd`` or lies somewhere below it.

    Climbs by ``..`` as far as the file hierarchy goes (an ordinary user may not see all of it); a
    bind mount of the same directories elsewhere is not noticed.
    """
    top = _identity(top_fd)
    current = os.open(".", _PATH_FLAGS, dir_fd=fd)
    try:
        while _identity(current) != top:
            try:
                parent = os.open("..", _PATH_FLAGS, dir_fd=current)
            except PermissionError:
                return False
            at_root = _identity(parent) == _identity(current)
            os.close(current)
            current = parent
            if at_root:
                return False
        return True
    finally:
        os.close(current)


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
