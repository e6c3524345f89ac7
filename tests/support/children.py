# SPDX-License-Identifier: Apache-2.0
"""The child processes of this process that belong to the test.

A server that a fixture of the whole session started is a child, too, of whichever test came first
with it, and so are multiprocessing's helpers: no test may count them, and none may kill them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

LASTING: set[int] = set()
"""Pids of servers that outlive a test. Who starts one enters it and takes it out when it ends."""

_KEPT_BY_PYTHON = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
"""One each per process, started by multiprocessing at its first use and ended with us."""


def commands() -> dict[int, str]:
    """Our child processes, whichever thread started them, dead ones that nobody waited for
    included: pid -> command line. Servers, too, but not multiprocessing's helpers."""
    found = {}
    for pid in _pids():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if not any(kept in command for kept in _KEPT_BY_PYTHON):
            found[pid] = command.replace(b"\0", b" ").decode(errors="replace") or "(a zombie)"
    return found


def children() -> set[int]:
    """The pids of those that belong to the test."""
    return commands().keys() - LASTING


def _pids() -> set[int]:
    found: set[int] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            found |= {int(pid) for pid in listing.read_text().split()}
    return found
