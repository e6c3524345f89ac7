# SPDX-License-Identifier: Apache-2.0
"""manila-data's side of the process that works as root: start it, hear it, end it.

manila-data may run on threads or on eventlet's green ones, and this module does not know which: it
only sleeps and reads without blocking, so neither kind holds up the service.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from oslo_log import log

from manila_backup.adapter.messages import Job, Outcome
from manila_backup.exception import WorkerDied

LOG = log.getLogger(__name__)

LOOK_S = 0.1
END_S = 90.0
"""How long it may take to stop, unmount and end when its standard input has ended."""

KILLED_END_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """In seconds: for the whole job, and without any sign of life."""

    total_s: float
    silence_s: float


def run_job(
    command: Sequence[str],
    job: Job,
    limits: Limits,
    progress: Callable[[int], None] = lambda percent: None,
) -> Outcome:
    """Run a job in a process of its own, to its end; the process is gone when this returns, unless
    it hangs in the kernel or belongs to root and ignores us.

    :param progress: told each new percent.
    :raises WorkerDied: it ended without an outcome, or took too long; what it has mounted may be
        left, for a CLEAN job.
    """
    try:
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise WorkerDied(how=f"{command[0]} could not be started: {error.strerror}") from error
    try:
        with contextlib.suppress(BrokenPipeError):
            _pipe(child.stdin).write(job.dump())
            _pipe(child.stdin).flush()
        return _Hearing(child, limits, progress).outcome()
    finally:
        _end(child)


class _Hearing:
    """Listens to one process until it has said how its job ended."""

    def __init__(
        self, child: subprocess.Popen[bytes], limits: Limits, progress: Callable[[int], None]
    ) -> None:
        self._child = child
        self._fd = _pipe(child.stdout).fileno()
        self._limits = limits
        self._progress = progress
        self._heard = b""
        os.set_blocking(self._fd, False)

    def outcome(self) -> Outcome:
        began_s = heard_s = time.monotonic()
        while True:
            line = self._line()
            if line is not None:
                heard_s = time.monotonic()
                outcome = self._take(line)
                if outcome is not None:
                    return outcome
                continue
            now_s = time.monotonic()
            if now_s - began_s >= self._limits.total_s:
                raise WorkerDied(how=f"it took longer than {self._limits.total_s:g} s")
            if now_s - heard_s >= self._limits.silence_s:
                raise WorkerDied(how=f"no sign of life for {self._limits.silence_s:g} s")
            time.sleep(LOOK_S)

    def _line(self) -> bytes | None:
        """The next line, None if there is none yet."""
        if b"\n" not in self._heard:
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                return None
            if not data:
                raise WorkerDied(how=self._how())
            self._heard += data
        line, end, rest = self._heard.partition(b"\n")
        if not end:
            return None
        self._heard = rest
        return line

    def _take(self, line: bytes) -> Outcome | None:
        try:
            message = json.loads(line)
            if "outcome" in message:
                return Outcome.load(message["outcome"])
            if "percent" in message:
                self._progress(int(message["percent"]))
        except (KeyError, TypeError, ValueError) as error:
            raise WorkerDied(how=f"it said something odd: {error}") from error
        return None

    def _how(self) -> str:
        status = _waited(self._child, KILLED_END_S)
        if status is None:
            return "it closed its output"
        return f"signal {-status}" if status < 0 else f"exit status {status}"


def _end(child: subprocess.Popen[bytes]) -> None:
    """The end of its standard input makes it stop; the signal is for one that does not."""
    with contextlib.suppress(OSError):
        _pipe(child.stdin).close()
    if _waited(child, END_S) is None:
        LOG.warning("Process %d did not stop; it is killed.", child.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        if _waited(child, KILLED_END_S) is None:
            LOG.warning("Process %d could not be killed and is abandoned.", child.pid)
    _pipe(child.stdout).close()


def _waited(child: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    until_s = time.monotonic() + timeout_s
    while (status := child.poll()) is None and time.monotonic() < until_s:
        time.sleep(LOOK_S)
    return status


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise ValueError("no pipe was asked for")
    return pipe
