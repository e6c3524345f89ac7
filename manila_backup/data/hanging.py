# SPDX-License-Identifier: Apache-2.0
"""Processes that were killed and did not end: they hang in the kernel, mostly at a file server that
does not answer. Nobody waits for them; they are counted, and reaped when they end at last.
"""

from __future__ import annotations

import subprocess
import threading
from typing import Any

from oslo_log import log

LOG = log.getLogger(__name__)


class Hanging:
    """Those of this process. Shared by threads."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[Any]] = []
        self._lock = threading.Lock()

    def add(self, process: subprocess.Popen[Any]) -> None:
        """Take over a child that was killed."""
        with self._lock:
            self._processes.append(process)
        LOG.warning("Process %d hangs in the kernel; it was killed and abandoned.", process.pid)

    def reap(self) -> int:
        """Collect those that have ended; how many are left."""
        with self._lock:
            left = [process for process in self._processes if process.poll() is None]
            ended = len(self._processes) - len(left)
            self._processes = left
        if ended:
            LOG.info("%d processes that hung in the kernel have ended.", ended)
        return len(left)


HANGING = Hanging()
"""This process's: children belong to a process, whoever started them."""
