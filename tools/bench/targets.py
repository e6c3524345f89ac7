# SPDX-License-Identifier: Apache-2.0
"""What our tools must reach, as ratios to others in the same run on the same data."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.rounds import PartResult, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One tool in one part: medians over its rounds, and the shortest wall time.

    ``requests_per_file`` is None where requests are not counted.
    """

    part: str
    tool: str
    title: str
    rounds: int
    wall_s: float
    wall_min_s: float
    with_sync_s: float
    cpu_s: float
    cpu_us_per_entry: float
    ms_per_file: float
    files_per_s: float
    requests_per_file: float | None


def summaries(result: PartResult) -> list[Summary]:
    """In the order of the tools; without those that failed."""
    found = []
    for tool in result.tools:
        runs = [run for run in result.runs if run.tool == tool.name]
        if runs and all(run.problem is None for run in runs):
            found.append(_summary(result, tool.name, tool.title, runs))
    return found


def _summary(result: PartResult, name: str, title: str, runs: Sequence[Run]) -> Summary:
    def median(value: Callable[[Run], float]) -> float:
        return statistics.median(value(run) for run in runs)

    wall_s, cpu_s = median(lambda run: run.wall_s), median(lambda run: run.cpu_s)
    files = result.extent.files
    requests = median(waited_requests) / files if result.part.slow else None
    return Summary(
        part=result.part.name,
        tool=name,
        title=title,
        rounds=len(runs),
        wall_s=wall_s,
        wall_min_s=min(run.wall_s for run in runs),
        with_sync_s=median(lambda run: run.wall_s + run.sync_s),
        cpu_s=cpu_s,
        cpu_us_per_entry=cpu_s * 1e6 / result.extent.entries,
        ms_per_file=wall_s * 1e3 / files,
        files_per_s=files / wall_s,
        requests_per_file=requests,
    )


_NOT_WAITED_FOR = frozenset({"RELEASE", "RELEASEDIR", "PROBE"})


def waited_requests(run: Run) -> int:
    """The requests that were held back."""
    return sum(count for kind, count in run.requests.items() if kind not in _NOT_WAITED_FOR)


# --- targets --------------------------------------------------------------------------------------


def _wall(summary: Summary) -> float:
    return summary.wall_s


def _cpu(summary: Summary) -> float:
    return summary.cpu_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """``tool`` may need at most ``limit`` times what ``other`` needs."""

    part: str
    what: str
    tool: str
    other: str
    limit: float
    measure: Callable[[Summary], float]


def _wall_targets(part: str, tool: str, limits: Mapping[str, float]) -> Iterator[Target]:
    for other, limit in limits.items():
        yield Target(part=part, what="wall", tool=tool, other=other, limit=limit, measure=_wall)


def _cpu_target(part: str, tool: str, limit: float) -> Target:
    return Target(part=part, what="CPU", tool=tool, other="floor", limit=limit, measure=_cpu)


TARGETS = (
    _cpu_target("S", "ours", 1.25),
    *_wall_targets("S", "ours", {"cp": 0.5, "rsync": 0.33}),
    *_wall_targets("L", "ours", {"cp": 0.77, "rsync": 0.25}),
    *_wall_targets("latency", "ours", {"cp": 1 / 30, "rsync": 1 / 40, "fpsync": 1 / 8}),
    _cpu_target("S", "ours-backup", 1.6),
    *_wall_targets("L", "ours-backup", {"cp": 1.3}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``ratio`` is None when one of the two was not measured."""

    target: Target
    ratio: float | None

    @property
    def is_met(self) -> bool:
        return self.ratio is not None and self.ratio <= self.target.limit

    def __str__(self) -> str:
        if self.ratio is None:
            return "not measured"
        if self.is_met:
            return "met"
        return f"missed by {(self.ratio / self.target.limit - 1) * 100:.0f} %"


def verdicts(found: Mapping[str, Sequence[Summary]], parts: Sequence[str]) -> list[Verdict]:
    """Of the targets of these parts. ``found`` has the summaries by part."""
    results = []
    for target in TARGETS:
        if target.part not in parts:
            continue
        by_tool = {summary.tool: summary for summary in found.get(target.part, ())}
        mine, other = by_tool.get(target.tool), by_tool.get(target.other)
        ratio = None
        if mine is not None and other is not None:
            ratio = target.measure(mine) / target.measure(other)
        results.append(Verdict(target=target, ratio=ratio))
    return results
