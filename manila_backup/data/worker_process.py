# SPDX-License-Identifier: Apache-2.0
"""The parent's side of a worker: start it, follow it, stop it, and recognise it after a crash.

A worker dies with the *thread* that started it (PDEATHSIG), so :func:`run` starts it and stays
until it is gone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from oslo_log import log

from manila_backup import exception
from manila_backup.data.drivers.base import Progress
from manila_backup.data.task import Task

LOG = log.getLogger(__name__)

STOP_GRACE_S = 5.0
"""How long a worker that was asked to cancel may go on before it is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """A process that a reused pid is not taken for. ``started`` is boot id and start time."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """None if there is no such process."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESRCH):
                return None
            raise
        return cls(pid=pid, started=f"{boot_id}/{fields[19]}")


def kill_group(process: ProcessId, *, timeout_s: float = 10.0) -> bool:
    """SIGKILL the process group of a worker that another process started, and see its end.

    :returns: True when the leader is certainly gone (killed, or gone before); False when it did
        not end in time, because it hangs in the kernel.
    """
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        # Looked at after the pidfd was opened: from here on the pid cannot be reused unseen.
        if ProcessId.of(process.pid) != process:
            return True
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        ready, _, _ = select.select([pidfd], [], [], timeout_s)
        return bool(ready)
    finally:
        os.close(pidfd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the parent does while a worker works.

    ``started`` is called before the worker is given its task; ``consent`` answers the worker's
    questions (``about_to_publish``, ``about_to_write``) by returning or raising.
    """

    started: Callable[[ProcessId], None] = lambda process: None
    progress: Callable[[Progress], None] = lambda progress: None
    consent: Callable[[str], None] = lambda question: None


def run(task: Task, stop: threading.Event, hooks: Hooks | None = None) -> Any:
    """Run one driver call in a worker and return its result.

    When ``stop`` is set the worker is asked to cancel, and killed if it does not. However this
    ends, the worker is gone afterwards.
    :raises ManilaBackupError: what the driver raised.
    :raises WorkerDied: it crashed or was killed.
    """
    hooks = hooks or Hooks()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = subprocess.Popen(
            [sys.executable, "-m", "manila_backup.data.worker", *_arguments(theirs)],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        connection = Connection(ours.detach())
        try:
            return _follow(child, connection, task, stop, hooks)
        finally:
            _end(child, connection)


def _arguments(theirs: socket.socket) -> list[str]:
    return [str(theirs.fileno()), str(os.getpid())]


def _follow(
    child: subprocess.Popen[bytes],
    connection: Connection,
    task: Task,
    stop: threading.Event,
    hooks: Hooks,
) -> Any:
    identity = ProcessId.of(child.pid)
    if identity is None:
        raise exception.WorkerDied(how="before it began")
    hooks.started(identity)
    _send(connection, task)
    patience_s = STOP_GRACE_S
    asked = False
    while True:
        if stop.is_set():
            if not asked:
                _send(connection, ("cancel", None))
                asked = True
            patience_s -= 0.1
            if patience_s <= 0:
                raise exception.Cancelled()
        if not connection.poll(0.1):
            continue
        try:
            kind, value = connection.recv()
        except (EOFError, ConnectionResetError):
            raise exception.WorkerDied(how=_how(child)) from None
        if kind == "result":
            return value
        _react(connection, kind, value, hooks)


def _react(connection: Connection, kind: str, value: Any, hooks: Hooks) -> None:
    if kind == "progress":
        hooks.progress(value)
    elif kind == "ask":
        try:
            hooks.consent(value)
        except exception.ManilaBackupError as error:
            _send(connection, ("answer", error))
            return
        _send(connection, ("answer", None))
    elif kind == "error":
        raise value
    else:
        LOG.error("A worker crashed:\n%s", value)
        raise exception.WorkerDied(how="an internal error, see the log of the data node")


def _send(connection: Connection, message: Any) -> None:
    try:
        connection.send(message)
    except OSError:
        # It is gone; the next recv tells.
        LOG.debug("A message to a worker was lost: it is gone.")


def _how(child: subprocess.Popen[bytes]) -> str:
    try:
        code = child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return "it closed its connection"
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _end(child: subprocess.Popen[bytes], connection: Connection) -> None:
    """Leave no process of the group behind: whatever the driver started is in it."""
    connection.close()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    try:
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        LOG.warning("Worker %d hangs in the kernel; it was killed and abandoned.", child.pid)
