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
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from oslo_log import log

from manila_backup import exception
from manila_backup.data.drivers.base import Progress
from manila_backup.data.hanging import HANGING
from manila_backup.data.task import Task

LOG = log.getLogger(__name__)

_LOOK_S = 0.01

STOP_GRACE_S = 5.0
"""How long a worker that was asked to cancel may go on before it is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """A process that a reused pid is not taken for. ``started`` says when, in which pid namespace
    and since which boot of which machine.
    """

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """None if there is no such process."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESRCH):
                return None
            raise
        return cls(pid=pid, started=f"{_here()}/{fields[19]}")

    @property
    def is_within_sight(self) -> bool:
        """Whether it would be seen here if it were alive: pids mean the same to it and to us."""
        return self.started.rpartition("/")[0] == _here()


def _here() -> str:
    """This boot of this machine, and the pid namespace."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot_id}/{os.stat('/proc/self/ns/pid').st_ino}"


def kill_group(process: ProcessId, *, timeout_s: float = 10.0) -> bool:
    """SIGKILL the process group of a worker that another process started, and see its end.

    The processes that the worker has started, which write as well, are in its group.

    :returns: True when all of it is certainly gone (killed, or gone before); False when something
        did not end in time, because it hangs in the kernel.
    """
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        # Its processes die with it, if not in the same moment.
        return _is_empty(process.pid, timeout_s)
    try:
        # Looked at after the pidfd was opened: from here on the pid cannot be reused unseen.
        if ProcessId.of(process.pid) != process:
            return True
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return _has_ended(pidfd, timeout_s) and _is_empty(process.pid, timeout_s)
    finally:
        os.close(pidfd)


def _is_empty(group: int, timeout_s: float) -> bool:
    """Wait until nobody in the process group can run any more (zombies cannot)."""
    until_s = time.monotonic() + timeout_s
    while _has_members(group):
        if time.monotonic() >= until_s:
            return False
        time.sleep(_LOOK_S)
    return True


def _has_members(group: int) -> bool:
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[2]) == group and fields[0] not in "ZX":
            return True
    return False


def _has_ended(pidfd: int, timeout_s: float) -> bool:
    # Not select(2): it cannot wait for descriptors above 1023.
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the parent does while a worker works.

    ``started`` is called before the worker is given its task; ``consent`` answers the worker's
    questions (``about_to_publish``, ``about_to_write``) by returning or raising.
    """

    started: Callable[[ProcessId], None] = lambda process: None
    progress: Callable[[Progress], None] = lambda progress: None
    consent: Callable[[str], None] = lambda question: None


def run(
    task: Task,
    stop: threading.Event,
    hooks: Hooks | None = None,
    *,
    grace_s: Callable[[], float] = lambda: STOP_GRACE_S,
) -> Any:
    """Run one driver call in a worker and return its result.

    When ``stop`` is set the worker is asked to cancel, and killed if it has not done so after
    ``grace_s``, which is asked again and again: the patience may end. However this ends, the worker
    is gone afterwards.
    :raises ManilaBackupError: what the driver raised.
    :raises WorkerDied: it crashed or was killed.
    """
    hooks = hooks or Hooks()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = _start(theirs)
        theirs.close()
        connection = Connection(ours.detach())
        try:
            return _follow(child, connection, task, _Patience(stop, grace_s), hooks)
        finally:
            _end(child, connection)


def _start(theirs: socket.socket) -> subprocess.Popen[bytes]:
    arguments = [str(theirs.fileno()), str(os.getpid())]
    try:
        return subprocess.Popen(
            # -P: what lies in the service's working directory is not imported.
            [sys.executable, "-P", "-m", "manila_backup.data.worker", *arguments],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    except OSError as error:
        raise exception.WorkerDied(how=f"it could not be started: {error.strerror}") from error


class _Patience:
    """How long a worker that is to stop may go on."""

    def __init__(self, stop: threading.Event, grace_s: Callable[[], float]) -> None:
        self._stop = stop
        self._grace_s = grace_s
        self._since_s: float | None = None

    def begins(self) -> bool:
        """True once, when the worker is to be told."""
        if self._since_s is not None or not self._stop.is_set():
            return False
        self._since_s = time.monotonic()
        return True

    def is_over(self) -> bool:
        return self._since_s is not None and time.monotonic() >= self._since_s + self._grace_s()


def _follow(
    child: subprocess.Popen[bytes],
    connection: Connection,
    task: Task,
    patience: _Patience,
    hooks: Hooks,
) -> Any:
    identity = ProcessId.of(child.pid)
    if identity is None:
        raise exception.WorkerDied(how="before it began")
    hooks.started(identity)
    _send(connection, task)
    while True:
        if patience.begins():
            _send(connection, ("cancel", None))
        if patience.is_over():
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
    """Looks without reaping: as long as the leader is a zombie, its group is no other's."""
    pidfd = os.pidfd_open(child.pid)
    try:
        if not _has_ended(pidfd, 5):
            return "it closed its connection"
        end = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    finally:
        os.close(pidfd)
    if end is None or end.si_code == os.CLD_EXITED:
        return f"exit status {end.si_status if end else 0}"
    return f"signal {end.si_status}"


def _end(child: subprocess.Popen[bytes], connection: Connection) -> None:
    """Leave no process of the group behind: whatever the driver started is in it."""
    connection.close()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    try:
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        HANGING.add(child)
