# SPDX-License-Identifier: Apache-2.0
"""How much there is to copy."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable
from typing import NamedTuple

from manila_backup.data.copy.dirstack import Identity, identity_of
from manila_backup.data.copy.sysio import SYSTEM, Files
from manila_backup.data.copy.walk import Walk

_BLOCK_BYTES = 512


class Measure(NamedTuple):
    """``entries`` with the root; ``bytes`` allocated on disk, links counted once."""

    entries: int
    bytes: int


def measure_tree(
    source_fd: int, *, cancelled: Callable[[], bool], files: Files = SYSTEM
) -> Measure:
    """Walk what :func:`~manila_backup.data.copy.tree.copy_tree` would copy; opens no file.

    Memory: a number per inode with several names until all of them have been seen.
    :raises CopyFailed: a directory could not be read.
    :raises Cancelled:
    """
    entries = allocated = 0
    names_left: dict[Identity, int] = {}
    walk = Walk(source_fd, files=files, cancelled=cancelled, on_skip=lambda path: None)
    with contextlib.closing(iter(walk)) as found:
        for info in (entry.stat for entry in found):
            entries += 1
            if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                inode = identity_of(info)
                left = names_left.pop(inode, None)
                if left is not None:
                    if left > 1:
                        names_left[inode] = left - 1
                    continue
                names_left[inode] = info.st_nlink - 1
            allocated += info.st_blocks * _BLOCK_BYTES
    return Measure(entries, allocated)
