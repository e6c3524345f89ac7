# SPDX-License-Identifier: Apache-2.0
"""How much there is to copy."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable
from typing import NamedTuple

from manila_backup.data.copy.dirstack import identity_of
from manila_backup.data.copy.links import NamesLeft
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

    Memory does not grow with the tree; inodes with several names may go to a temporary file.
    :raises CopyFailed: a directory could not be read.
    :raises Cancelled:
    """
    entries = allocated = 0
    names = NamesLeft()
    walk = Walk(source_fd, files=files, cancelled=cancelled, on_skip=lambda path: None)
    with contextlib.closing(names), contextlib.closing(iter(walk)) as found:
        for info in (entry.stat for entry in found):
            entries += 1
            is_linked = info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode)
            if not is_linked or names.is_first(identity_of(info), info.st_nlink):
                allocated += info.st_blocks * _BLOCK_BYTES
    return Measure(entries, allocated)
