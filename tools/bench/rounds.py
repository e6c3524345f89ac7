# SPDX-License-Identifier: Apache-2.0
"""Rounds: each tool copies once per round, in an order that rotates, each time into a new file
system. What disturbs the machine for a while disturbs all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.dataset import Extent, warm, write_dataset
from bench.images import make_read_only, mounted_image
from bench.measure import RunFailed, measured
from bench.parts import Part, image_of
from bench.slow import slow_mount
from bench.system import load_average, sync_file_system
from bench.tools import CATALOG, Ours, Task, Tool

_XFS_ALIAS = "trusted.SGI_ACL_"
"""Under such names xfs lists ACLs a second time."""

_WARM_UP = -1
"""The number of a copy before the first round that nobody counts: memory of a virtual machine, once
touched, is faster. By the first tool, or where that takes a minute by the last, the ceiling."""

_COMPARE = Path(__file__).parents[1] / "compare_trees.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One copy by one tool.

    ``wall_s`` is without the final sync, ``sync_s`` what that took (0 through the slow file
    system). ``requests`` are those of both sides together, by kind. ``differences`` between source
    and copy, as ``compare_trees.py`` prints them; None: not compared. ``problem`` says why there
    are no figures.
    """

    tool: str
    round: int
    wall_s: float = 0.0
    sync_s: float = 0.0
    cpu_s: float = 0.0
    load_before: float = 0.0
    requests: Mapping[str, int] = field(default_factory=dict)
    differences: tuple[str, ...] | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartResult:
    part: Part
    extent: Extent
    tools: tuple[Tool, ...]
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all parts share. ``directory`` is ours and empty; ``slowfs`` is None when no part needs
    it. ``check`` compares each tool's first copy with the source."""

    directory: Path
    rounds: int
    chosen: frozenset[str]
    seed: int
    delay_us: int
    check: bool
    ours: Ours
    floor: Path
    slowfs: Path | None
    say: Callable[[str], None]


def tools_of(part: Part, chosen: frozenset[str]) -> tuple[Tool, ...]:
    wanted = [tool for name, tool in part.catalogue.tools.items() if name in chosen]
    return (*wanted, *part.catalogue.ceilings)


def measured_part(bench: Bench, part: Part) -> PartResult:
    """A tool that fails is left out of later rounds. Before the first there is a copy that does
    not count.

    :raises RuntimeError: the benchmark's own means failed.
    """
    tools, extent = tools_of(part, bench.chosen), part.extent()
    runs: list[Run] = []
    failed: set[str] = set()
    with mounted_image(image_of(extent, "ext4"), bench.directory, "source") as mount_point:
        source = _made_source(bench, part, mount_point)
        _Runner(bench, part, extent, source).run(tools[-1 if part.slow else 0], _WARM_UP)
        if any(tool.restores for tool in tools):
            _make_catalog(bench, part, extent, source)
        for number in range(bench.rounds):
            for tool in _rotated(tools, number):
                if tool.name in failed:
                    continue
                run = _Runner(bench, part, extent, source).run(tool, number)
                bench.say(_line(part, run, bench.rounds))
                runs.append(run)
                if run.problem is not None:
                    failed.add(tool.name)
    return PartResult(part=part, extent=extent, tools=tools, runs=tuple(runs))


def _made_source(bench: Bench, part: Part, mount_point: Path) -> Path:
    """Written, on the disk, mounted read-only and then read once."""
    start = time.monotonic()
    source = mount_point / "tree"
    source.mkdir()
    write_dataset(part.shape(), source, bench.seed)
    sync_file_system(mount_point)
    make_read_only(mount_point)
    warm(source)
    bench.say(f"{part.name}: data set made in {time.monotonic() - start:.1f} s")
    return source


def _make_catalog(bench: Bench, part: Part, extent: Extent, source: Path) -> None:
    """Of the source, by a backup of it that nobody counts.

    :raises RuntimeError: there is none.
    """
    run = _Runner(bench, part, extent, source).run(CATALOG, _WARM_UP)
    if run.problem is not None:
        raise RuntimeError(f"no catalog to restore from: {run.problem}")


def _rotated(tools: Sequence[Tool], number: int) -> tuple[Tool, ...]:
    first = number % len(tools)
    return (*tools[first:], *tools[:first])


@dataclass(frozen=True, slots=True)
class _Runner:
    bench: Bench
    part: Part
    extent: Extent
    source: Path

    def run(self, tool: Tool, number: int) -> Run:
        spec = image_of(self.extent, "xfs")
        scratch = self.bench.directory / "scratch"
        scratch.mkdir()
        try:
            with mounted_image(spec, self.bench.directory, "target") as mount_point:
                (mount_point / "tree").mkdir()
                sync_file_system(mount_point)
                return self._measured(tool, number, mount_point, scratch)
        finally:
            shutil.rmtree(scratch)

    def _measured(self, tool: Tool, number: int, mount_point: Path, scratch: Path) -> Run:
        load_before = load_average()[0]
        requests: dict[str, int] = {}
        log = self.bench.directory / "run.log"
        try:
            with self._seen(tool, mount_point, requests) as (source, target):
                task = self._task(source, target, scratch)
                result = measured(tool.command(task), log=log)
            sync_s = result.sync_s + (0.0 if self.part.slow else _timed_sync(mount_point))
        except RunFailed as failed:
            return Run(tool=tool.name, round=number, problem=str(failed))
        compared = self.bench.check and number == 0
        return Run(
            tool=tool.name,
            round=number,
            wall_s=result.wall_s,
            sync_s=sync_s,
            cpu_s=result.cpu_s,
            load_before=load_before,
            requests=requests,
            differences=differences(self.source, mount_point / "tree") if compared else None,
        )

    @contextmanager
    def _seen(
        self, tool: Tool, mount_point: Path, requests: dict[str, int]
    ) -> Iterator[tuple[Path, Path]]:
        """Source and target as the tool sees them; ``requests`` is filled afterwards."""
        slowfs = self.bench.slowfs
        if not self.part.slow or slowfs is None:
            yield self.source, mount_point / "tree"
            return
        delay_us = self.bench.delay_us if tool.delay_us is None else tool.delay_us
        places = {"slow-source": self.source, "slow-target": mount_point}
        with ExitStack() as stack:
            mounts = [
                stack.enter_context(
                    slow_mount(slowfs, place, self.bench.directory / name, delay_us)
                )
                for name, place in places.items()
            ]
            yield mounts[0].path, mounts[1].path / "tree"
        for mount in mounts:
            for kind, count in mount.requests.items():
                requests[kind] = requests.get(kind, 0) + count

    def _task(self, source: Path, target: Path, scratch: Path) -> Task:
        return Task(
            source=source,
            target=target,
            scratch=scratch,
            catalog=self.bench.directory / f"catalog-{self.part.name}",
            entries=self.extent.entries,
            jobs=self.part.jobs,
            floor=self.bench.floor,
            ours=self.bench.ours,
        )


def _timed_sync(mount_point: Path) -> float:
    start = time.perf_counter()
    sync_file_system(mount_point)
    return time.perf_counter() - start


def differences(source: Path, copy: Path) -> tuple[str, ...]:
    """As ``compare_trees.py`` finds them, which shares no code with any of the tools.

    :raises RuntimeError: it could not compare.
    """
    argv = [sys.executable, os.fspath(_COMPARE), os.fspath(source), os.fspath(copy)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode not in {0, 1}:
        raise RuntimeError(f"compare_trees.py failed: {done.stderr.strip()}")
    lines = done.stdout.splitlines()[:-1]
    return tuple(line for line in lines if _XFS_ALIAS not in line)


def _line(part: Part, run: Run, rounds: int) -> str:
    head = f"{part.name} {run.round + 1}/{rounds} {run.tool:<12}"
    if run.problem is not None:
        return f"{head} failed: {run.problem}"
    tail = "" if not run.differences else f", {len(run.differences)} differences"
    return f"{head} {run.wall_s:8.2f} s, CPU {run.cpu_s:.2f} s, sync {run.sync_s:.2f} s{tail}"
