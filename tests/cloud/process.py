# SPDX-License-Identifier: Apache-2.0
"""One service of the cloud: a process with a session of its own, ended by its pid."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.children import LASTING

START_S = 300.0
STOP_S = 30.0


class NotStarted(Exception):
    """A service ended or did not answer in time; its log is in the message."""


@dataclass(kw_only=True)
class Process:
    """``argv`` runs in its own session, output and standard error in ``log``."""

    name: str
    argv: Sequence[str | Path]
    env: Mapping[str, str]
    log: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns at once: see :meth:`until`."""
        assert self._process is None, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [os.fspath(word) for word in self.argv],
                env=dict(self.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        LASTING.add(self._process.pid)

    def until(self, ready: Callable[[], bool]) -> None:
        """Wait until it is.

        :raises NotStarted: it has ended, or is not ready in time.
        """
        until_s = time.monotonic() + START_S
        while not ready():
            if not self.running or time.monotonic() > until_s:
                raise NotStarted(f"{self.name}\n{self.log.read_text(errors='replace')[-8000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """In order if it obeys, and nothing of its session is left. Also when nothing runs."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """At once. Also when nothing runs."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            process.send_signal(number)
            process.wait(STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        LASTING.discard(process.pid)
        until_s = time.monotonic() + STOP_S
        while _group_lives(process.pid):
            assert time.monotonic() < until_s, f"{self.name} does not end"
            time.sleep(0.02)


def _group_lives(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True
