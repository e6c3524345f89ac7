# SPDX-License-Identifier: Apache-2.0
"""How a copy ended, for programs (JSON) and for people, and the exit status that says it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from manila_backup.cmd.copy_progress import duration, size
from manila_backup.names import printable
from manila_backup.types import Counters, Remarks

if TYPE_CHECKING:
    from manila_backup.cmd.copy_checksum import Checksum

SIGNALLED = 128
"""Added to the number of the signal."""


class Result(StrEnum):
    COMPLETE = "complete"
    """Exact, and on the disk."""

    INCOMPLETE = "incomplete"
    """All that could be done is done; what could not is counted."""

    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """``path`` is printable, or None if no path is the matter."""

    path: str | None
    errno: int | None
    reason: str


@dataclass(slots=True, kw_only=True)
class Outcome:
    """Filled while the command works. ``problems`` are printable, at most 100. Seconds are None for
    what was not begun.
    """

    source: bytes
    target: bytes
    result: Result = Result.FAILED
    counters: Counters = field(default_factory=Counters)
    logical_bytes: int | None = None
    remarks: Remarks = field(default_factory=Remarks)
    checksum: Checksum | None = None
    verified: bool | None = None
    problems: tuple[str, ...] = ()
    problem_count: int = 0
    copy_s: float | None = None
    sync_s: float | None = None
    verify_s: float | None = None
    failure: Failure | None = None
    signal: int | None = None

    @property
    def status(self) -> int:
        if self.result is Result.CANCELLED:
            return SIGNALLED + (self.signal or 0)
        return {Result.COMPLETE: 0, Result.FAILED: 1, Result.INCOMPLETE: 3}[self.result]

    @property
    def is_exact(self) -> bool:
        counters = self.counters
        return not (counters.losses or counters.changed or counters.skipped or counters.warnings)

    @property
    def copying_s(self) -> float:
        """What the rates are about: until all was on the disk."""
        return (self.copy_s or 0.0) + (self.sync_s or 0.0)

    @property
    def seconds(self) -> float:
        return self.copying_s + (self.verify_s or 0.0)


def as_json(outcome: Outcome) -> str:
    checksum, failure, seconds = outcome.checksum, outcome.failure, outcome.copying_s
    counters = outcome.counters
    found: dict[str, Any] = {
        "result": outcome.result.value,
        "source": printable(outcome.source),
        "target": printable(outcome.target),
        "counters": asdict(counters),
        "bytes": counters.bytes,
        "logical_bytes": outcome.logical_bytes,
        "seconds": round(outcome.seconds, 3),
        "phases": {
            "copy": _rounded(outcome.copy_s),
            "sync": _rounded(outcome.sync_s),
            "verify": _rounded(outcome.verify_s),
        },
        "rates": {
            "files_per_second": _rounded(counters.files / seconds if seconds else 0.0),
            "bytes_per_second": _rounded(counters.bytes / seconds if seconds else 0.0),
        },
        "losses": list(outcome.remarks.losses),
        "changed": list(outcome.remarks.changed),
        "skipped": list(outcome.remarks.skipped),
        "checksum": None if checksum is None else asdict(checksum),
        "verified": outcome.verified,
        "problems": list(outcome.problems),
        "problem_count": outcome.problem_count,
        "error": None if failure is None else asdict(failure),
    }
    return json.dumps(found, indent=2)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def summary(outcome: Outcome) -> str:
    """For people, on stdout."""
    counters, seconds = outcome.counters, outcome.copying_s
    parts = [
        _count(counters.files, "file"),
        _count(counters.directories, "directory", "directories"),
    ]
    if counters.others:
        parts.append(_count(counters.others, "other"))
    parts.append(size(counters.bytes))
    if counters.deleted:
        parts.append(f"{counters.deleted:,} deleted")
    lines = [f"{outcome.result.value}: {', '.join(parts)} in {_time(outcome.seconds)}"]
    if seconds:
        rates = f"{counters.files / seconds:,.0f} files/s, {size(counters.bytes / seconds)}/s"
        lines[0] += f" ({rates})"
    if outcome.checksum is not None:
        found = outcome.checksum
        lines.append(f"checksum: {found.algorithm} {found.root}")
        hashed = f"hashed: {found.bytes:,} bytes of {_count(found.files, 'file')}"
        sparse = f", {found.sparse_files:,} of them with holes" if found.sparse_files else ""
        lines.append(hashed + sparse)
    if outcome.verified is not None:
        lines.append(
            "verified: the target was read back and is as it was copied"
            if outcome.verified
            else f"verified: {_count(outcome.problem_count, 'problem')}"
        )
    return "\n".join(lines)


def reservations(outcome: Outcome) -> Iterator[str]:
    """What has to be said on stderr, line by line."""
    counters, remarks = outcome.counters, outcome.remarks
    yield from _named("lost (the target does not hold it)", counters.losses, remarks.losses)
    yield from _named("changed while it was copied", counters.changed, remarks.changed)
    yield from _named("skipped (vanished or replaced meanwhile)", counters.skipped, remarks.skipped)
    if counters.warnings:
        where = "left alone: mounts below SRC or DST, or files that are open elsewhere"
        yield f"{where}: {counters.warnings:,}"
    yield from _named("not as it was copied", outcome.problem_count, outcome.problems)
    if outcome.result is Result.CANCELLED:
        yield f"cancelled ({signal.Signals(outcome.signal or 0).name})"
    if outcome.failure is not None:
        yield f"failed: {_failure(outcome.failure)}"
    if outcome.result in (Result.FAILED, Result.CANCELLED):
        yield "what was copied so far stays; a second run completes it"


def _failure(failure: Failure) -> str:
    if failure.path is None:
        return failure.reason
    return f"{failure.path}: {failure.reason} (errno {failure.errno})"


def _named(what: str, count: int, names: Sequence[str]) -> Iterator[str]:
    if not count:
        return
    yield f"{what}: {count:,}"
    for name in names:
        yield f"  {name}"
    if count > len(names):
        yield f"  and {count - len(names):,} more"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def fails_with(path: str, error: OSError) -> Failure:
    number = error.errno or 0
    return Failure(path=path, errno=number, reason=os.strerror(number))
