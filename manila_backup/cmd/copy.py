# SPDX-License-Identifier: Apache-2.0
"""``manila-backup-copy``: the copy engine as a command, to move shares with."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from manila_backup import exception
from manila_backup.cmd import copy_report
from manila_backup.cmd.copy_places import Places, opened_places
from manila_backup.cmd.copy_progress import Display, Meter, is_terminal
from manila_backup.cmd.copy_report import Failure, Outcome, Result
from manila_backup.cmd.copy_survey import Survey
from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.heap import collect_seldom, keep_large_blocks_apart
from manila_backup.data.copy.tree import copy_tree
from manila_backup.data.drivers.durable import DISK, Disk
from manila_backup.names import printable
from manila_backup.types import Counters

if TYPE_CHECKING:
    from manila_backup.cmd.copy_checksum import TemporaryCatalog

NAME = "manila-backup-copy"
REFUSED = 2
THREADS = 32
PROCESSES_MOST = 8
_PROBLEMS_NAMED = 100
_CANCELLED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ENDINGS = """
exit status: 0 complete and exact; 1 failed; 2 refused or wrong usage, nothing was changed;
3 complete, but something was lost, changed meanwhile or skipped, which is counted and named;
128 + N cancelled by signal N
"""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog=NAME,
        description="Copy the tree below SRC, with all its metadata, over what is below DST.",
        epilog=_ENDINGS,
    )
    found.add_argument(
        "--processes",
        type=_positive,
        metavar="N",
        default=default_processes(),
        help="that work at once (default: one per processor, at most 8; here %(default)s)",
    )
    found.add_argument(
        "--threads",
        type=_positive,
        metavar="N",
        default=THREADS,
        help="at most, per process; as many as the latency makes worth it (default: %(default)s)",
    )
    found.add_argument(
        "--delete", action="store_true", help="remove from DST what SRC has not: an exact copy"
    )
    found.add_argument(
        "--checksum", action="store_true", help="hash the content while it is copied"
    )
    found.add_argument(
        "--verify",
        action="store_true",
        help="read DST back afterwards and compare it with what was copied; implies --checksum",
    )
    found.add_argument("--json", action="store_true", help="one JSON object on stdout at the end")
    found.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="on stderr how far it is (default: if that is a terminal)",
    )
    found.add_argument("source", metavar="SRC", help="a directory")
    found.add_argument(
        "target", metavar="DST", help="a directory; made if it is missing and its parent is not"
    )
    return found


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def default_processes() -> int:
    return min(PROCESSES_MOST, len(os.sched_getaffinity(0)))


class Cancelling:
    """Notes the first signal that asks for an end. Signals that are ignored (nohup) stay so."""

    def __init__(self) -> None:
        self.number: int | None = None

    def is_wanted(self) -> bool:
        return self.number is not None

    @contextmanager
    def noticed(self) -> Iterator[None]:
        before: dict[int, Any] = {}
        try:
            for number in _CANCELLED_BY:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, self._note)
            yield
        finally:
            for known, handler in before.items():
                signal.signal(known, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number


class Job:
    """One run: copy, sync, verify. ``disk`` is handed in so that a test can let it fail."""

    def __init__(
        self,
        found: argparse.Namespace,
        places: Places,
        *,
        cancelled: Callable[[], bool],
        disk: Disk = DISK,
    ) -> None:
        self._found = found
        self._places = places
        self._cancelled = cancelled
        self._disk = disk
        self._hashing = found.checksum or found.verify
        self._display: Display | None = None
        self.outcome = Outcome(source=os.fsencode(found.source), target=os.fsencode(found.target))

    def run(self) -> Outcome:
        """Errors of the copy are in the outcome."""
        outcome = self.outcome
        try:
            with ExitStack() as stack:
                self._work(stack)
            outcome.result = Result.COMPLETE if outcome.is_exact else Result.INCOMPLETE
            if outcome.verified is False:
                outcome.result = Result.FAILED
        except exception.Cancelled:
            outcome.result = Result.CANCELLED
        except exception.OperationError as error:
            # A signal to the whole group reaches the worker processes, too: their end is no error.
            if self._cancelled() and not _names_a_path(error):
                outcome.result = Result.CANCELLED
            else:
                outcome.failure = _failure(error)
        return outcome

    def _work(self, stack: ExitStack) -> None:
        catalog = None
        if self._hashing:
            from manila_backup.cmd.copy_checksum import TemporaryCatalog

            catalog = TemporaryCatalog()
            stack.callback(catalog.close)
        self._show(stack)
        with self._timed("copy_s"):
            self._copy(catalog)
        if self._display is not None:
            self._display.syncing(self.outcome.counters)
        with self._timed("sync_s"):
            self._sync()
        if catalog is not None:
            self._check(catalog)
        if self._display is not None:
            self._display.end(finished=self.outcome.counters)

    def _show(self, stack: ExitStack) -> None:
        wanted = self._found.progress
        if sys.stderr is None:  # closed by whoever started us
            return
        redraw = is_terminal(sys.stderr)
        if not (redraw if wanted is None else wanted):
            return
        survey = Survey(self._places.source_fd)
        meter = Meter(passes=2 if self._found.verify else 1, clock=time.monotonic)
        self._display = Display(sys.stderr, meter, total=survey.total, redraw=redraw)
        stack.callback(self._display.end, finished=None)
        stack.callback(survey.end)
        survey.start()
        self._display.start()

    def _copy(self, catalog: TemporaryCatalog | None) -> None:
        found, outcome = self._found, self.outcome
        options = CopyOptions(
            delete=found.delete, reflink=True, processes=found.processes, threads=found.threads
        )
        result = copy_tree(
            self._places.source_fd,
            self._places.target_fd,
            options,
            catalog=None if catalog is None else catalog.writer,
            progress=self._report_copy,
            cancelled=self._cancelled,
        )
        if catalog is not None:
            catalog.finish()
        outcome.counters = result.counters
        outcome.logical_bytes = result.logical_bytes
        outcome.remarks = result.remarks

    def _report_copy(self, counters: Counters) -> None:
        self.outcome.counters = counters
        if self._display is not None:
            self._display.report(counters)

    def _sync(self) -> None:
        """DST was opened before anything was written: errors of writing since then are told."""
        try:
            self._disk.syncfs(self._places.target_fd)
        except OSError as error:
            failure = copy_report.fails_with(printable(self.outcome.target), error)
            raise exception.CopyFailed(
                path=failure.path, errno=failure.errno, reason=failure.reason
            ) from error
        self._stop_if_cancelled()

    def _check(self, catalog: TemporaryCatalog) -> None:
        from manila_backup.cmd.copy_checksum import content_checksum, verify_target

        self.outcome.checksum = content_checksum(catalog.entries(), self._cancelled)
        if not self._found.verify:
            return
        if self._display is not None:
            self._display.verifying()
        with self._timed("verify_s"):
            for problem in verify_target(
                catalog.entries,
                self._places.target_fd,
                exact=self._found.delete,
                progress=self._display.report if self._display is not None else _unseen,
                cancelled=self._cancelled,
            ):
                self.outcome.problem_count += 1
                if self.outcome.problem_count <= _PROBLEMS_NAMED:
                    self.outcome.problems += (problem,)
        self.outcome.verified = not self.outcome.problem_count

    def _stop_if_cancelled(self) -> None:
        if self._cancelled():
            raise exception.Cancelled

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start_s = time.monotonic()
        try:
            yield
        finally:
            setattr(self.outcome, name, time.monotonic() - start_s)


def _names_a_path(error: exception.OperationError) -> bool:
    return isinstance(error, exception.CopyFailed) and bool(error.errno)


def _failure(error: exception.OperationError) -> Failure:
    if _names_a_path(error):
        return Failure(path=error.path, errno=error.errno, reason=error.reason)
    return Failure(path=None, errno=None, reason=str(error.fields.get("reason", error)))


def _unseen(counters: Counters) -> None:
    pass


def tell(outcome: Outcome, *, as_json: bool) -> int:
    """Answers the exit status; one that says failure if the result could not be handed over."""
    for remark in copy_report.reservations(outcome):
        _complain(remark)
    text = copy_report.as_json(outcome) if as_json else copy_report.summary(outcome)
    try:
        _print(sys.stdout, text)
    except OSError as error:
        _complain(f"the result cannot be written to stdout: {error.strerror}")
        return outcome.status or 1
    return outcome.status


def _complain(text: str) -> None:
    """What cannot be said is no reason to fail."""
    with suppress(OSError):
        _print(sys.stderr, text if text.startswith(" ") else f"{NAME}: {text}")


def _print(stream: TextIO | None, text: str) -> None:
    if stream is None:  # closed by whoever started us
        return
    try:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        stream.write(text + "\n")
        stream.flush()
    except OSError:
        # Python would try the same again at its end, and end with a status of its own.
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, stream.fileno())
        os.close(null)
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    found = parser().parse_args(arguments)
    keep_large_blocks_apart()
    collect_seldom()
    cancelling = Cancelling()
    try:
        with (
            opened_places(os.fsencode(found.source), os.fsencode(found.target)) as places,
            cancelling.noticed(),
        ):
            outcome = Job(found, places, cancelled=cancelling.is_wanted).run()
            outcome.signal = cancelling.number
            return tell(outcome, as_json=found.json)
    except exception.Invalid as error:
        _complain(f"error: {error}")
        return REFUSED
    except KeyboardInterrupt:  # before anything was copied
        _complain("cancelled (SIGINT)")
        return copy_report.SIGNALLED + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
