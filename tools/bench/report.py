# SPDX-License-Identifier: Apache-2.0
"""What was measured, for people (Markdown tables that also read well on a terminal) and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.rounds import PartResult
from bench.system import Machine
from bench.targets import Summary, Verdict, summaries, verdicts

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """``options`` are those of the command line that change the figures."""

    date: str
    machine: Machine
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float]
    options: dict[str, Any]
    results: Sequence[PartResult]

    def by_part(self) -> dict[str, list[Summary]]:
        return {result.part.name: summaries(result) for result in self.results}

    def verdicts(self) -> list[Verdict]:
        return verdicts(self.by_part(), [result.part.name for result in self.results])

    def problems(self) -> list[str]:
        return [
            f"{result.part.name}: {run.tool} failed in round {run.round + 1}: {run.problem}"
            for result in self.results
            for run in result.runs
            if run.problem is not None
        ]


# --- JSON -----------------------------------------------------------------------------------------


def as_json(report: Report) -> dict[str, Any]:
    found = report.by_part()
    return {
        "format": "manila-backup-bench-copy",
        "version": FORMAT_VERSION,
        "date": report.date,
        "machine": dataclasses.asdict(report.machine),
        "load_before": report.load_before,
        "load_after": report.load_after,
        "options": report.options,
        "parts": {
            result.part.name: {
                "title": result.part.title,
                "data_set": dataclasses.asdict(result.extent),
                "tools": [dataclasses.asdict(summary) for summary in found[result.part.name]],
                "runs": [dataclasses.asdict(run) for run in result.runs],
            }
            for result in report.results
        },
        "targets": [_verdict_json(verdict) for verdict in report.verdicts()],
        "problems": report.problems(),
    }


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    target = verdict.target
    return {
        "part": target.part,
        "what": target.what,
        "tool": target.tool,
        "other": target.other,
        "limit": target.limit,
        "ratio": verdict.ratio,
        "verdict": str(verdict),
    }


# --- tables ---------------------------------------------------------------------------------------


def as_text(report: Report) -> str:
    machine = report.machine
    loads = " to ".join(
        " ".join(f"{load:.2f}" for load in loads)
        for loads in (report.load_before, report.load_after)
    )
    lines = [
        f"{report.date}: {machine.cpu}, {machine.cores} cores, {machine.memory_mib} MiB, "
        f"Linux {machine.kernel}, Python {machine.python}; load average {loads}.",
        "Versions: " + ("; ".join(machine.versions.values()) or "-") + ".",
        "Options: " + ", ".join(f"{key} {value}" for key, value in report.options.items()) + ".",
        "",
    ]
    found = report.by_part()
    for result in report.results:
        lines += _part_lines(result, found[result.part.name])
    lines += ["### Targets", "", *_target_table(report.verdicts()), ""]
    lines += [f"Problem: {problem}" for problem in report.problems()]
    return "\n".join(lines)


def _part_lines(result: PartResult, found: Sequence[Summary]) -> list[str]:
    extent = result.extent
    table = _latency_table if result.part.slow else _local_table
    return [
        f"### {result.part.title}",
        "",
        f"{extent.entries:,} entries, {extent.files:,} names of files, "
        f"{extent.logical_bytes / (1 << 20):,.1f} MiB; medians.",
        "",
        *table(found),
        "",
    ]


def _local_table(found: Sequence[Summary]) -> list[str]:
    times = ("wall s", "with sync s", "CPU us/entry")
    head = ("tool", *times, "CPU / floor", "wall / cp -a", "wall / rsync")
    rows = [
        (
            summary.title,
            f"{summary.wall_s:.2f}",
            f"{summary.with_sync_s:.2f}",
            f"{summary.cpu_us_per_entry:.1f}",
            _ratio(found, summary, "floor", lambda one: one.cpu_s),
            _ratio(found, summary, "cp", lambda one: one.wall_s),
            _ratio(found, summary, "rsync", lambda one: one.wall_s),
        )
        for summary in found
    ]
    return _table(head, rows)


def _latency_table(found: Sequence[Summary]) -> list[str]:
    head = ("tool", "ms/file", "files/s", "requests/file", "/ cp -a", "/ rsync", "/ fpsync")
    rows = [
        (
            summary.title,
            f"{summary.ms_per_file:.3f}",
            f"{summary.files_per_s:.0f}",
            f"{summary.requests_per_file or 0:.1f}",
            _ratio(found, summary, "cp", lambda one: one.wall_s),
            _ratio(found, summary, "rsync", lambda one: one.wall_s),
            _ratio(found, summary, "fpsync", lambda one: one.wall_s),
        )
        for summary in found
    ]
    return _table(head, rows)


def _target_table(found: Sequence[Verdict]) -> list[str]:
    head = ("part", "what", "tool", "to", "at most", "measured", "verdict")
    rows = [
        (
            verdict.target.part,
            verdict.target.what,
            verdict.target.tool,
            verdict.target.other,
            f"{verdict.target.limit:.3f}",
            "-" if verdict.ratio is None else f"{verdict.ratio:.3f}",
            str(verdict),
        )
        for verdict in found
    ]
    return _table(head, rows)


def _ratio(
    found: Sequence[Summary], mine: Summary, other: str, measure: Callable[[Summary], float]
) -> str:
    for summary in found:
        if summary.tool == other:
            return f"{measure(mine) / measure(summary):.3f}"
    return "-"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, all others to the right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(widths))
    return [lines[0], rule + "|", *lines[1:]]
