#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compare the copy engine with other tools on this machine, side by side.

Data sets, file systems and the C programs are made by the benchmark itself, in a mount namespace of
its own, below one temporary directory; nothing of it is left afterwards. What is measured and how,
and measured tables, are in doc/performance.md.

    .venv/bin/python tools/bench_copy.py --rounds 3 --json result.json

Exit status: 0 it was measured, whether or not targets are met; 1 a tool failed; 2 it cannot run
here, and says why; 130 interrupted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import FrameType

from bench.parts import PART_NAMES, Part, needed_bytes, parts
from bench.report import Report, as_json, as_text
from bench.rounds import Bench, measured_part, tools_of
from bench.slow import built_floor, built_slowfs
from bench.system import (
    CannotRun,
    adopt_orphans,
    described_machine,
    leave_mount_namespace,
    load_average,
    raised_dirty_limits,
    require_programs,
    require_root,
    require_space,
)
from bench.tools import ALL_NAMES, Ours, our_command

_BUILD_PROGRAMS = ("gcc", "mkfs.ext4", "mkfs.xfs", "mount", "losetup")
_VERSIONS_OF = ("cp", "rsync", "tar", "fpsync")
_OPTIONS = (
    *("scale", "rounds", "seed", "delay_us", "latency_files", "processes", "threads"),
    *("raise_dirty_limits", "dir"),
)
"""Those that change the figures, and so are printed with them."""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--scale", type=float, default=1.0, help="size of the data sets (1)")
    found.add_argument("--rounds", type=int, default=3, help="copies per tool (3)")
    found.add_argument(
        "--only", type=_Names(PART_NAMES), default=PART_NAMES, metavar="S,L,M,latency"
    )
    found.add_argument(
        "--tools", type=_Names(ALL_NAMES), default=ALL_NAMES, metavar=",".join(ALL_NAMES)
    )
    found.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    found.add_argument(
        "--dir", type=Path, metavar="DIR", help="a place for the file systems (TMPDIR or /tmp)"
    )
    found.add_argument(
        "--delay-us", type=int, default=1000, help="latency of one request in us (1000)"
    )
    found.add_argument(
        "--latency-files", type=int, metavar="N", help="files of that part (4000, times scale)"
    )
    found.add_argument("--processes", type=int, help="for our tools (their defaults)")
    found.add_argument("--threads", type=int, help="for our tools (their defaults)")
    found.add_argument("--seed", type=int, default=1, help="of the data sets (1)")
    found.add_argument(
        "--raise-dirty-limits",
        action="store_true",
        help="keep writing back out of the copies: sets vm.dirty_bytes and dirty_background_bytes "
        "of the machine for the run and puts them back (not when killed with SIGKILL)",
    )
    found.add_argument(
        "--check", action="store_true", help="compare each tool's first copy with the source"
    )
    return found


class _Names:
    """A list of names with commas between, in the order of ``known``."""

    def __init__(self, known: Sequence[str]) -> None:
        self._known = known

    def __call__(self, text: str) -> tuple[str, ...]:
        wanted = text.split(",")
        unknown = [name for name in wanted if name not in self._known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(unknown)}; there are {', '.join(self._known)}"
            )
        return tuple(name for name in self._known if name in wanted)


def main(arguments: Sequence[str] | None = None) -> int:
    command_line = parser()
    found = command_line.parse_args(arguments)
    if found.scale <= 0 or found.rounds < 1 or found.delay_us < 0:
        command_line.error("--scale and --rounds must be positive, --delay-us not negative")
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        report = _measured(found)
    except CannotRun as why:
        print(f"bench_copy: {why}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    print(as_text(report))
    if found.json is not None:
        found.json.write_text(json.dumps(as_json(report), indent=2) + "\n")
    return 1 if report.problems() else 0


def _measured(found: argparse.Namespace) -> Report:
    all_parts = parts(scale=found.scale, seed=found.seed, latency_files=found.latency_files)
    chosen = [all_parts[name] for name in found.only]
    require_root()
    tools = frozenset(found.tools)
    _require(chosen, tools)
    ours = Ours(command=our_command(), processes=found.processes, threads=found.threads)
    with tempfile.TemporaryDirectory(prefix="bench-copy-", dir=found.dir) as name:
        directory = Path(name)
        require_space(directory, max(needed_bytes(part.extent()) for part in chosen))
        leave_mount_namespace()
        adopt_orphans()
        bench = Bench(
            directory=directory,
            rounds=found.rounds,
            chosen=tools,
            seed=found.seed,
            delay_us=found.delay_us,
            check=found.check,
            ours=ours,
            floor=built_floor(directory),
            slowfs=built_slowfs(directory) if any(part.slow for part in chosen) else None,
            say=_say,
        )
        load_before = load_average()
        with raised_dirty_limits() if found.raise_dirty_limits else nullcontext():
            results = [measured_part(bench, part) for part in chosen]
        load_after = load_average()
    return Report(
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=described_machine([name for name in _VERSIONS_OF if name in tools]),
        load_before=load_before,
        load_after=load_after,
        options=_options(found),
        results=results,
    )


def _require(chosen: Sequence[Part], tools: frozenset[str]) -> None:
    programs = set(_BUILD_PROGRAMS)
    for part in chosen:
        for tool in tools_of(part, tools):
            programs.update(tool.needs)
        if part.slow:
            programs.add("pkg-config")
    require_programs(programs)


def _options(found: argparse.Namespace) -> dict[str, str]:
    return {name: str(value) for name in _OPTIONS if (value := getattr(found, name)) is not None}


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
