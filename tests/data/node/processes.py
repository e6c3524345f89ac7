# SPDX-License-Identifier: Apache-2.0
"""What lives on this machine, as /proc tells."""

from __future__ import annotations

import os
import select
from pathlib import Path

from tests.data.node.faulty import LIMIT_S


def session_members(session_id: int) -> list[int]:
    """Living processes of a session; zombies are dead."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        if int(fields[3]) == session_id and fields[0] not in "ZX":
            found.append(int(entry.name))
    return found


def ends(pidfd: int) -> bool:
    """Wait for the end of a process."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(LIMIT_S * 1000))


def is_alive(pid: int) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return not poll.poll(0)
    finally:
        os.close(pidfd)
