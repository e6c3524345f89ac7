# SPDX-License-Identifier: Apache-2.0
"""Who does the tasks of a copy: one worker in the caller's thread, or several in threads."""

from __future__ import annotations

import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from manila_backup.data.copy.notes import Notes, Pulse
from manila_backup.data.copy.tasks import Outcome
from manila_backup.exception import ManilaBackupError

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

BATCH = 128
"""Entries of a bundle, as long as nobody knows how long they take."""

_BUNDLE_S = 0.4
"""Tasks of a bundle that were not begun by then are given back, for others to take."""

Done = tuple[int, Outcome | BaseException | None]
"""A task's number, and what became of it; None: it was not begun."""

Bundle = Sequence[tuple[int, T]]
"""Numbered tasks that one worker does, in this order."""


class Worker(Protocol[T_contra]):
    """Does tasks one by one; used by one thread."""

    def do(self, task: T_contra, /) -> Outcome: ...

    def close(self) -> None: ...


class Crew(Protocol[T_contra]):
    """Takes bundles of tasks and gives back what became of them, in any order. After a task that
    failed those that follow it in its bundle are not begun."""

    @property
    def room(self) -> int:
        """How many more bundles can usefully be submitted now; at least one if none is in work."""

    @property
    def batch(self) -> int:
        """How many entries a bundle should have at least."""

    @property
    def long_batch(self) -> int:
        """How many entries a task may have if what is left of it can be given back: what it costs
        besides its entries counts where these are slow."""

    def share(self, *, is_all_given_out: bool) -> None:
        """If nobody has anything more to give out and workers stand idle: the others are to give
        back what they have not begun. To be called again whenever that may have changed."""

    def submit(self, bundle: Bundle[T_contra]) -> None: ...

    def wait(self, timeout_s: float) -> list[Done]:
        """What was done, at least one unless the time is up or nothing is in work."""

    def live_bytes(self) -> int:
        """Content that the tasks in work have moved so far."""

    def close(self) -> list[Done]:
        """Stop: tasks in work end with Cancelled, unless they end first. Waits for it; answers
        what nobody has waited for."""


MakeWorker = Callable[[Pulse], Worker[T]]


class InlineCrew(Generic[T]):
    """One worker; a task is done while the coordinator waits for it, and if it fails it raises."""

    def __init__(self, worker: Worker[T]) -> None:
        self._worker = worker
        self._bundle: Bundle[T] = []
        self.batch = self.long_batch = BATCH

    @property
    def room(self) -> int:
        return 0 if self._bundle else 1

    def submit(self, bundle: Bundle[T]) -> None:
        self._bundle = bundle

    def wait(self, timeout_s: float) -> list[Done]:
        if not self._bundle:
            return []
        (number, task), *self._bundle = self._bundle
        return [(number, self._worker.do(task))]

    def share(self, *, is_all_given_out: bool) -> None:
        pass

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

    def lap(self) -> tuple[float, float, float]:
        """Seconds since the lap before: (computed, waited for a processor, blocked)."""
        before, self._before = self._before, self._now()
        wall_s, cpu_s, queued_s = (
            now - then for now, then in zip(self._before, before, strict=True)
        )
        return cpu_s, queued_s, max(wall_s - cpu_s - queued_s, 0.0)

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

    ``done`` is called by the working thread with what became of each bundle, errors included.
    """

    def __init__(
        self,
        make_worker: MakeWorker[T],
        threads: int,
        *,
        cancelled: Callable[[], bool],
        live: Callable[[int, int], None],
        done: Callable[[list[Done]], None],
        rate_path: str | None = None,
        is_asked_to_share: Callable[[], bool] = lambda: False,
    ) -> None:
        """``live(index, bytes)``: what the thread's bundle has moved so far, 0 after it."""
        self._rate_path = rate_path
        self._is_asked_to_share = is_asked_to_share
        self._make_worker = make_worker
        self._limit = threads
        self._cancelled = cancelled
        self._live = live
        self._done = done
        self._bundles: queue.SimpleQueue[Bundle[T] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._in_work = 0
        self._lock = threading.Lock()

    def submit(self, bundle: Bundle[T]) -> None:
        with self._lock:
            self._in_work += 1
            wanted = min(self._in_work, self._limit)
        if len(self._threads) < wanted:
            self._start_thread()
        self._bundles.put(bundle)

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
            self._bundles.put(None)
        for thread in self._threads:
            thread.join()

    def _pulse(self, live: Callable[[Notes], None]) -> Pulse:
        return Pulse(
            self._cancelled, live, self._rate_path, is_asked_to_share=self._is_asked_to_share
        )

    def _run(self, index: int) -> None:
        moved_bytes = 0  # by tasks of the bundle that have ended

        def live(notes: Notes) -> None:
            self._live(index, moved_bytes + notes.bytes)

        worker: Worker[T] | None = None
        watch = Stopwatch()
        try:
            while (bundle := self._bundles.get()) is not None:
                done: list[Done] = []
                until_s = time.perf_counter() + _BUNDLE_S
                for number, task in bundle:
                    if done and (time.perf_counter() > until_s or self._is_asked_to_share()):
                        break
                    try:
                        if worker is None:
                            worker = self._make_worker(self._pulse(live))
                        watch.lap()
                        outcome = worker.do(task)
                        outcome.cpu_s, outcome.queued_s, blocked_s = watch.lap()
                        outcome.blocked_s = max(blocked_s - outcome.notes.paced_s, 0.0)
                        moved_bytes += outcome.notes.bytes
                        done.append((number, outcome))
                    except BaseException as error:  # noqa: BLE001 - handed to the coordinator
                        if not isinstance(error, ManilaBackupError):
                            # A mistake: where it was made would be lost on the way.
                            error.add_note(traceback.format_exc())
                        done.append((number, error))
                        break
                done += [(number, None) for number, _ in bundle[len(done) :]]
                moved_bytes = 0
                self._live(index, 0)
                with self._lock:
                    self._in_work -= 1
                self._done(done)
        finally:
            watch.close()
            if worker is not None:
                worker.close()
