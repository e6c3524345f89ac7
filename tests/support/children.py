# SPDX-License-Identifier: Apache-2.0
"""The child processes of this process that belong to the test.

A server that a fixture of the whole session started is a child, too, of whichever test came first
with it: no other test may count it, and none may kill it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

LASTING: set[int] = set()
"""Pids of servers that outlive a test. Who starts one enters it and takes it out when it ends."""


def children() -> set[int]:
    """Their pids, whichever thread started them; dead ones that nobody waited for included."""
    found: set[int] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            found |= {int(pid) for pid in listing.read_text().split()}
    return found - LASTING
