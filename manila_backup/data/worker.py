# SPDX-License-Identifier: Apache-2.0
"""The worker: a process of its own in which one driver call runs.

It is started by :mod:`manila_backup.data.worker_process` as ``python -m manila_backup.data.worker
FD PARENT_PID`` in a session of its own, and talks pickles over the socket FD: it receives one
:class:`~manila_backup.data.task.Task`, sends progress and questions, and ends with one result or
error. It dies with its parent: by PDEATHSIG when the parent's thread goes, and by end of file on
the socket.
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from manila_backup import exception
from manila_backup.data.copy.heap import collect_seldom, keep_large_blocks_apart
from manila_backup.data.drivers.base import Control, Progress
from manila_backup.data.task import METHODS, Task

PR_SET_PDEATHSIG = 1
PROGRESS_INTERVAL_S = 0.2


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the parent's thread ends; at once if it is gone."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


class _Parent:
    """The other end of the socket. Sends from the working thread, receives in one of its own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._cancelled = threading.Event()
        self._answers: queue.Queue[BaseException | None] = queue.Queue()
        self._last_progress_s = 0.0
        self._percent = -1

    def listen(self) -> None:
        threading.Thread(target=self._listen, name="parent", daemon=True).start()

    def _listen(self) -> None:
        try:
            while True:
                kind, value = self._connection.recv()
                if kind == "cancel":
                    self._cancelled.set()
                else:
                    self._answers.put(value)
        except (EOFError, OSError):
            # The parent is gone or has given us up: nothing may be written any more.
            os._exit(1)

    def send(self, kind: str, value: Any = None) -> None:
        self._connection.send((kind, value))

    def ask(self, question: str) -> None:
        """Wait for the parent's consent; raises what it answers instead."""
        self.send("ask", question)
        answer = self._answers.get()
        if answer is not None:
            raise answer

    def progress(self, progress: Progress) -> None:
        """Pass on every new percent, and the counters now and then."""
        percent = progress.done * 100 // progress.total if progress.total else 0
        now_s = time.monotonic()
        if percent != self._percent or now_s - self._last_progress_s >= PROGRESS_INTERVAL_S:
            self._percent, self._last_progress_s = percent, now_s
            self.send("progress", progress)

    def control(self) -> Control:
        return Control(
            progress=self.progress,
            cancelled=self._cancelled.is_set,
            about_to_publish=lambda: self.ask("about_to_publish"),
            about_to_write=lambda: self.ask("about_to_write"),
        )


def _call(task: Task, control: Control) -> Any:
    from stevedore.driver import DriverManager

    if task.method not in METHODS:
        raise ValueError(f"not a driver method: {task.method}")
    plugin = DriverManager("manila_backup.drivers", task.driver)
    driver = plugin.driver(
        task.root.path, mount_id=task.root.mount_id, parallelism=task.parallelism
    )
    method: Callable[..., Any] = getattr(driver, task.method)
    arguments = (*task.arguments, control) if task.controlled else task.arguments
    result = method(*arguments)
    return list(result) if task.method in ("scan", "orphans") else result


def main(argv: list[str]) -> int:
    connection = Connection(int(argv[0]))
    die_with_parent(int(argv[1]))
    keep_large_blocks_apart()
    collect_seldom()
    os.chdir("/")
    parent = _Parent(connection)
    task: Task = connection.recv()
    parent.listen()
    try:
        result = _call(task, parent.control())
    except exception.ManilaBackupError as error:
        parent.send("error", error)
    except Exception:  # noqa: BLE001 - the boundary of the process
        parent.send("crash", traceback.format_exc())
    else:
        parent.send("result", result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
