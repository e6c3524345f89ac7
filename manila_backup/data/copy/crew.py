# SPDX-License-Identifier: Apache-2.0
"""Who does the tasks of a copy: one worker in the caller's thread, or several in threads."""

from __future__ import annotations

import os
import queue
import threading
import time
import traceback
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from manila_backup.data.copy.notes import Notes, Pulse
from manila_backup.data.copy.tasks import Outcome
from manila_backup.exception import ManilaBackupError

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

BATCH = 128
"""Entries of a task, as long as nobody knows how long they take."""

Done = tuple[int, Outcome | BaseException]
"""A task's number, and what became of it."""


class Worker(Protocol[T_contra]):
    """Does tasks one by one; used by one thread."""

    def do(self, task: T_contra, /) -> Outcome: ...

    def close(self) -> None: ...


class Crew(Protocol[T_contra]):
    """Takes numbered tasks and gives back what became of them, in any order."""

    @property
    def room(self) -> int:
        """How many more tasks can usefully be submitted now; at least one if none is in work."""

    @property
    def in_work(self) -> int: ...

    @property
    def batch(self) -> int:
        """How many entries a task should have."""

    def submit(self, number: int, task: T_contra) -> None: ...

    def wait(self, timeout_s: float) -> list[Done]:
        """What was done, at least one unless the time is up or nothing is in work."""

    def live_bytes(self) -> int:
        """Content that the tasks in work have moved so far."""

    def close(self) -> list[Done]:
        """Stop: tasks in work end with Cancelled, unless they end first. Waits for it; answers
        what nobody has waited for."""


MakeWorker = Callable[[Pulse], Worker[T]]


class InlineCrew(Generic[T]):
    """One worker; a task is done while the coordinator waits for it."""

    def __init__(self, worker: Worker[T]) -> None:
        self._worker = worker
        self._task: tuple[int, T] | None = None
        self.batch = BATCH

    @property
    def room(self) -> int:
        return 0 if self._task else 1

    @property
    def in_work(self) -> int:
        return 1 if self._task else 0

    def submit(self, number: int, task: T) -> None:
        self._task = number, task

    def wait(self, timeout_s: float) -> list[Done]:
        if self._task is None:
            return []
        number, task = self._task
        self._task = None
        return [(number, self._worker.do(task))]

    def live_bytes(self) -> int:
        return 0

    def close(self) -> list[Done]:
        self._worker.close()
        return []


class Stopwatch:
    """Tells what a thread has computed, and waited for anything but a processor.

    The kernel counts how long a thread that could run did not (``schedstat``): on a busy machine
    that is no sign of a slow file server. Belongs to the thread that makes it.
    """

    def __init__(self) -> None:
        try:
            self._fd = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # a kernel without it
            self._fd = -1
        self._before = self._now()

    def lap(self) -> tuple[float, float]:
        """(computed, blocked) seconds since the lap before."""
        before, self._before = self._before, self._now()
        wall_s, cpu_s, queued_s = (
            now - then for now, then in zip(self._before, before, strict=True)
        )
        return cpu_s, max(wall_s - cpu_s - queued_s, 0.0)

    def _now(self) -> tuple[float, float, float]:
        queued_s = 0.0
        if self._fd >= 0:
            queued_s = int(os.pread(self._fd, 100, 0).split()[1]) / 1e9
        return time.perf_counter(), time.thread_time(), queued_s

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class ThreadTeam(Generic[T]):
    """Threads of this process that share a queue; started as they are needed, up to ``threads``.

    ``done`` is called by the working thread with each result, also with errors.
    """

    def __init__(
        self,
        make_worker: MakeWorker[T],
        threads: int,
        *,
        cancelled: Callable[[], bool],
        live: Callable[[int, int], None],
        done: Callable[[int, Outcome | BaseException], None],
    ) -> None:
        """``live(index, bytes)``: what the thread's task has moved so far, 0 after it."""
        self._make_worker = make_worker
        self._limit = threads
        self._cancelled = cancelled
        self._live = live
        self._done = done
        self._tasks: queue.SimpleQueue[tuple[int, T] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._in_work = 0
        self._lock = threading.Lock()

    def submit(self, number: int, task: T) -> None:
        with self._lock:
            self._in_work += 1
            wanted = min(self._in_work, self._limit)
        if len(self._threads) < wanted:
            self._start_thread()
        self._tasks.put((number, task))

    def _start_thread(self) -> None:
        index = len(self._threads)
        thread = threading.Thread(target=self._run, args=(index,), name="copy", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # as many as the system allows
            if not self._threads:
                raise
            self._limit = index
        else:
            self._threads.append(thread)

    def close(self) -> None:
        """Waits for the threads; the caller has seen to it that ``cancelled`` says so."""
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self, index: int) -> None:
        def live(notes: Notes) -> None:
            self._live(index, notes.bytes)

        worker: Worker[T] | None = None
        watch = Stopwatch()
        try:
            while (item := self._tasks.get()) is not None:
                result: Outcome | BaseException
                try:
                    if worker is None:
                        worker = self._make_worker(Pulse(self._cancelled, live))
                    watch.lap()
                    result = worker.do(item[1])
                    result.cpu_s, result.blocked_s = watch.lap()
                except BaseException as error:  # noqa: BLE001 - handed to the coordinator
                    if not isinstance(error, ManilaBackupError):
                        # A mistake: where it was made would be lost on the way.
                        error.add_note(traceback.format_exc())
                    result = error
                self._live(index, 0)
                with self._lock:
                    self._in_work -= 1
                self._done(item[0], result)
        finally:
            watch.close()
            if worker is not None:
                worker.close()
