# SPDX-License-Identifier: Apache-2.0
"""A forked child process: cheap to start, since it need not import anything again."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import traceback
from collections.abc import Callable, Collection


class Forked:
    """Runs ``main`` and ends; never returns into the caller's code. What of
    :class:`subprocess.Popen` is needed here.

    To be made by a process with one thread only: others are not there in the child, but what they
    have locked stays locked.
    """

    def __init__(self, main: Callable[[], None], *, keep_fds: Collection[int]) -> None:
        """``keep_fds``: the child closes all others but the standard ones.

        :raises OSError: there are too many processes.
        """
        self.returncode: int | None = None
        gc.freeze()  # so that a collection in the child does not copy every page
        self.pid = os.fork()
        if not self.pid:
            _run(main, {0, 1, 2, *keep_fds})
        gc.unfreeze()
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise

    def wait(self, timeout_s: float | None = None) -> int:
        """:raises subprocess.TimeoutExpired: it goes on."""
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if not poll.poll(None if timeout_s is None else timeout_s * 1000):
                raise subprocess.TimeoutExpired("fork", timeout_s or 0)
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._pidfd)
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


def _run(main: Callable[[], None], keep_fds: set[int]) -> None:
    status = 1
    try:
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in keep_fds:
                try:
                    os.close(int(name))
                except OSError:
                    continue  # that of the listing itself
        main()
        status = 0
    except BaseException:  # noqa: BLE001 - nothing may unwind into the parent's frames
        traceback.print_exc()
    finally:
        os._exit(status)
