# SPDX-License-Identifier: Apache-2.0
"""Settings of the C library's heap, for processes that copy."""

from __future__ import annotations

import contextlib
import ctypes
import gc

_COLLECT_OBJECTS = 100_000

_M_MMAP_THRESHOLD = -3
_THRESHOLD_BYTES = 128 << 10


def keep_large_blocks_apart() -> None:
    """Have large blocks given back as soon as they are freed, for the life of the process.

    glibc raises the size from which it does so each time such a block is freed. In a deep tree each
    path is a little longer than the one before and fits into none of the holes those left: 20,000
    levels took 700 MiB that nothing held. Does nothing with another C library.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)


def collect_seldom() -> None:
    """Look for garbage in cycles once per so many objects: a batch of small files makes thousands
    of tuples that are gone by themselves a moment later, and the default looks at them every 700.
    """
    gc.set_threshold(_COLLECT_OBJECTS, 50, 50)
