# SPDX-License-Identifier: Apache-2.0
"""A crew of processes with threads in each: processes against the CPU, threads against latency."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from manila_backup.data.copy import child
from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.board import Board
from manila_backup.data.copy.child import STOPPING, Setup
from manila_backup.data.copy.crew import Bundle, Done
from manila_backup.data.copy.forked import Forked
from manila_backup.data.copy.sysio import SYSTEM, Files
from manila_backup.data.copy.tasks import Outcome
from manila_backup.exception import WorkerDied

_WINDOW_S = 0.1
"""How often the number of threads is thought over."""

_GROWTH = 8

_TASK_S = 0.2
"""What a bundle should take: long beside handing it out, short for whoever waits for it."""

_BATCHES = 12, 512
"""Entries of a bundle, at least and at most."""

_LONG_BATCH = 64
"""What a task with many names may have however slow they are: opening its directories anew costs as
much as a file."""

_FIRST_BATCH = 6
"""How long an entry takes is to be known soon: a slow file server needs many threads."""

_IDLE_PART = 8
"""As soon as one in so many threads has nothing to do the others are to share."""

_STOP_GRACE_S = 5.0
"""How long a task in work may take to see that it has to stop."""


def is_parallel(options: CopyOptions, files: Files) -> bool:
    """Whether processes may be started: not if the calls are watched, nor for an ordinary user."""
    wanted = options.processes > 1 or options.threads > 1
    return wanted and files is SYSTEM and os.geteuid() == 0


@dataclass(slots=True)
class _Member:
    process: subprocess.Popen[bytes] | Forked
    connection: Connection
    bundles: int = 0
    """In work, or waiting there."""


class Throttle:
    """How many threads per process are worth it (``threads``), and how many entries a bundle
    should have (``batch``), or a task that can be cut short (``long_batch``).

    A thread that is blocked (by a file server that answers slowly, not by the lack of a processor)
    leaves the processor to others: more of them hide the latency. Threads that compute only take
    turns: in Python they even cost each other time. So the number grows, twofold or more, while
    tasks are mostly blocked and the processes do not compute all the time, and goes down while they
    do and threads wait for each other. Beyond ``_ENOUGH`` it does not grow, and goes down, while
    threads wait for a processor much longer than they use it: then somebody else, the server on
    this machine perhaps, computes all the time, and more threads only wait longer.
    """

    _WAITING = 4.0
    """Blocked so many times longer than computing: worth more threads."""

    _ENOUGH, _QUEUED, _CROWDED = 8, 5.0, 15.0
    """From so many threads on, waiting for a processor so many times longer than computing: no more
    threads; fewer."""

    _IDLE, _BUSY = 0.5, 0.9
    """How much of its time a process computes."""

    def __init__(self, processes: int, limit: int, *, now_s: float) -> None:
        self._processes = processes
        self._limit = limit
        self._since_s = now_s
        self._cpu_s = 0.0
        self._queued_s = 0.0
        self._blocked_s = 0.0
        self._entries = 0
        self.threads = 1
        self.batch = self.long_batch = _FIRST_BATCH

    def done(self, outcome: Outcome, now_s: float) -> None:
        """A task has ended."""
        self._cpu_s += outcome.cpu_s
        self._queued_s += outcome.queued_s
        self._blocked_s += outcome.blocked_s
        notes = outcome.notes
        self._entries += notes.files + notes.directories + notes.others
        passed_s = now_s - self._since_s
        if passed_s < _WINDOW_S:
            return
        used = self._cpu_s / (passed_s * self._processes)
        if (
            self._blocked_s > self._WAITING * self._cpu_s
            and used < self._IDLE
            and (self.threads < self._ENOUGH or self._queued_s < self._QUEUED * self._cpu_s)
        ):
            growth = min(max(int(self._IDLE / max(used, 0.01)), 2), _GROWTH)
            most = max(self._ENOUGH, 2 * self.threads)
            self.threads = min(self.threads * growth, most, self._limit)
        elif self._blocked_s > self._cpu_s and used > self._BUSY:
            self.threads = max(self.threads * 3 // 4, 1)
        elif self.threads > self._ENOUGH and self._queued_s > self._CROWDED * self._cpu_s:
            self.threads = max(self.threads * 3 // 4, self._ENOUGH)
        if self._entries:
            entry_s = (self._cpu_s + self._blocked_s) / self._entries
            self.batch = min(max(int(_TASK_S / max(entry_s, 1e-6)), _BATCHES[0]), _BATCHES[1])
            self.long_batch = max(self.batch, _LONG_BATCH)
        self._since_s, self._entries = now_s, 0
        self._cpu_s = self._queued_s = self._blocked_s = 0.0


class ProcessCrew:
    """Children that share two directory fds; see :class:`~.crew.Crew`.

    A child that dies (the OOM killer, an operator) fails the operation: whatever it had in work
    may be half done.
    """

    def __init__(self, setup: Setup) -> None:
        """``setup`` with the number of processes and threads in its options."""
        options = setup.options
        slots = options.processes * options.threads
        self._setup = replace(setup, slots=slots)
        self._board = Board.create(slots)
        self._members: list[_Member] = []
        self._heard: list[Done] = []
        self._is_short_of_work = False
        self._throttle = Throttle(options.processes, options.threads, now_s=time.perf_counter())
        try:
            for index in range(options.processes):
                self._start(index)
        except BaseException:
            self.close()
            raise

    def _start(self, index: int) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            fds = [theirs.fileno(), self._board.fd, self._setup.source_fd, self._setup.target_fd]
            arguments = [str(fds[0]), str(fds[1]), str(os.getpid())]
            before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
            try:
                process = self._started(arguments, fds)
            except OSError as error:
                how = f"could not be started: {os.strerror(error.errno or 0)}"
                raise WorkerDied(how=f"a process of the copy {how}") from error
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            member = _Member(process, Connection(ours.detach()))
        self._members.append(member)
        setup = replace(self._setup, first_slot=index * self._setup.options.threads)
        try:
            member.connection.send(setup)
        except OSError:
            raise self._died(member) from None

    def _started(self, arguments: list[str], fds: list[int]) -> subprocess.Popen[bytes] | Forked:
        if threading.active_count() == 1:
            return Forked(lambda: child.main(arguments), keep_fds=fds)
        return subprocess.Popen(
            # -P: what lies in the working directory is not imported.
            [sys.executable, "-P", "-m", child.__name__, *arguments],
            stdin=subprocess.DEVNULL,
            pass_fds=fds,
        )

    # --- tasks ------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        # One more each than are in work, so that no process waits for its next bundle.
        return max(self._idle + len(self._members), 0)

    @property
    def _idle(self) -> int:
        """Threads without a bundle; less than none if bundles wait for threads."""
        in_work = sum(member.bundles for member in self._members)
        return len(self._members) * self._throttle.threads - in_work

    @property
    def batch(self) -> int:
        return self._throttle.batch

    @property
    def long_batch(self) -> int:
        return self._throttle.batch if self._is_short_of_work else self._throttle.long_batch

    def share(self, *, is_all_given_out: bool) -> None:
        some = len(self._members) * self._throttle.threads // _IDLE_PART
        self._is_short_of_work = is_all_given_out and self._idle > some
        self._board.ask_to_share(is_asked=self._is_short_of_work)

    def submit(self, bundle: Bundle[Any]) -> None:
        member = min(self._members, key=lambda member: member.bundles)
        member.bundles += 1
        try:
            member.connection.send(bundle)
        except OSError:
            raise self._died(member) from None

    def wait(self, timeout_s: float) -> list[Done]:
        poll = select.poll()
        by_fd = {}
        for member in self._members:
            if member.bundles:
                by_fd[member.connection.fileno()] = member
                poll.register(member.connection.fileno(), select.POLLIN)
        if not by_fd:
            return []
        for fd, _ in poll.poll(timeout_s * 1000):
            self._receive(by_fd[fd])
        done, self._heard = self._heard, []
        now_s = time.perf_counter()
        for _, result in done:
            if isinstance(result, Outcome):
                self._throttle.done(result, now_s)
        return done

    def _receive(self, member: _Member) -> None:
        try:
            while True:
                self._heard += member.connection.recv()
                member.bundles -= 1
                if not member.connection.poll():
                    return
        except (EOFError, OSError):
            raise self._died(member) from None

    def _died(self, member: _Member) -> WorkerDied:
        with contextlib.suppress(subprocess.TimeoutExpired):
            member.process.wait(1)
        code = member.process.returncode
        how = f"killed by signal {-code}" if code and code < 0 else f"ended with status {code}"
        return WorkerDied(how=f"a process of the copy was {how}")

    def live_bytes(self) -> int:
        return self._board.total()

    def close(self) -> list[Done]:
        """Ends the processes: by asking, then by SIGKILL. None is left when this returns."""
        self._board.stop()
        for member in self._members:
            with contextlib.suppress(OSError):
                member.connection.send(None)
        for member in self._members:
            self._end(member)
        self._board.close()
        return self._heard

    def _end(self, member: _Member) -> None:
        # Its results have to be read, or it could not get rid of them. What cannot be read is an
        # error, and the process has to end all the same.
        with contextlib.suppress(Exception):
            while member.connection.poll(_STOP_GRACE_S):
                self._heard += member.connection.recv()
        member.connection.close()
        try:
            member.process.wait(_STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            member.process.kill()
            member.process.wait()
