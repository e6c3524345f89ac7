#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Copying small files over real kernel NFS, where each request takes a while: ours beside others.

Boots the virtual machine of the tests (tests/nfs/vm.py): a client and two NFS servers, with netem
between them. Programs run twenty times slower in there than outside, so only ratios mean anything,
and they flatter whoever asks the servers much and the processor little. What is counted exactly are
requests per file (/proc/self/mountstats). Needs root and what tools/test.sh installs.

    .venv/bin/python tools/bench_nfs.py --files 200 --delay-ms 0.5 2
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.system import described_machine, load_average

from tests.nfs.vm import CLIENT, Agent, Vm, agent, missing

TOOLS = ("cp -a", "rsync -aHAX", "tar | tar", "a process per file", "ours")
TARGET = 1 / 8
"""Of cp -a's time per file, at 2 ms."""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--files", type=int, default=200, help="of 4 KiB (200)")
    found.add_argument("--rounds", type=int, default=3, help="copies per tool (3)")
    found.add_argument(
        "--delay-ms", type=float, nargs="+", default=[0.5, 2.0], help="of a request (0.5 2)"
    )
    found.add_argument("--version", default="4.2", help="of NFS (4.2)")
    found.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return found


def measured(client: Agent, options: argparse.Namespace, delay_ms: float) -> list[dict[str, Any]]:
    """Round by round, each tool once."""
    client.call("bench.prepare", files=options.files, delay_ms=delay_ms)
    found = []
    for number in range(options.rounds):
        for tool in TOOLS:
            result = client.call("bench.copy", tool=tool, version=options.version)
            if result["files"] != options.files:
                raise SystemExit(f"{tool} copied {result['files']} files")
            found.append({"tool": tool, "delay_ms": delay_ms, "round": number, **result})
            print(f"{delay_ms:g} ms {tool}: {result['seconds']:.1f} s", file=sys.stderr)
    return found


def table(found: list[dict[str, Any]], files: int) -> str:
    """Medians; one line per tool and delay."""
    lines = ["| delay ms | tool | ms/file | / cp -a | requests/file |", "|--:|---|--:|--:|--:|"]
    for delay_ms in dict.fromkeys(one["delay_ms"] for one in found):
        medians = {
            tool: [
                statistics.median(
                    one[what] for one in found if (one["tool"], one["delay_ms"]) == (tool, delay_ms)
                )
                / files
                for what in ("seconds", "requests")
            ]
            for tool in TOOLS
        }
        for tool, (seconds, requests) in medians.items():
            ratio = seconds / medians["cp -a"][0]
            name = tool.replace("|", r"\|")
            lines.append(
                f"| {delay_ms:g} | {name} | {seconds * 1000:.1f} | {ratio:.3f} | {requests:.1f} |"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 it was measured; 2 it cannot run here, and says why."""
    options = parser().parse_args(arguments)
    lacking = missing()
    if lacking:
        print(f"bench_nfs.py {lacking}", file=sys.stderr)
        return 2
    before_s = load_average()[0]
    found: list[dict[str, Any]] = []
    with Vm() as vm, agent(vm, CLIENT, sys.executable) as client:
        for delay_ms in options.delay_ms:
            found += measured(client, options, delay_ms)
    now = datetime.datetime.now(datetime.UTC)
    machine = described_machine([])
    print(
        f"{now:%Y-%m-%d %H:%M} UTC, on {machine.cores} cores of {machine.cpu}, load average "
        f"{before_s:.1f} to {load_average()[0]:.1f}: {options.files} files of 4 KiB, NFS "
        f"{options.version}, emulated.\n"
    )
    print(table(found, options.files))
    print(f"\nTarget at 2 ms: ours at most {TARGET:.3f} of cp -a, and no more requests than it.")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
