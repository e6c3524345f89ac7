#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What more data nodes bring while the store, not a processor, is what they wait for.

Starts MariaDB and RabbitMQ (from this checkout's test fixtures), one manila-backup-api and one, two
or three manila-backup-data, each of which may do one operation at a time with one thread; queues
backups of many shares at once, and takes the time until all are available. The store answers each
request late (slowfs, see doc/performance.md). Nothing of it is left afterwards. Needs root.

    .venv/bin/python tools/bench_nodes.py --shares 12 --files 60
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.slow import built_slowfs, slow_mount
from bench.system import CannotRun, described_machine, load_average, require_programs, require_root

from tests.acceptance.cluster import Cluster, running
from tests.acceptance.rest import Rest
from tests.support.databases import NAME, MariaDb
from tests.support.rabbitmq import RabbitMq

NODES = (1, 2, 3)
LIMITS = {2: 1.6, 3: 2.2}
"""Nodes -> what they are to do in the time of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """``cpu``: the part of all processors' time that was used by anybody."""

    nodes: int
    round: int
    wall_s: float
    cpu: float


def cpu_times() -> tuple[int, int]:
    """(used, all) ticks of all processors since the machine's start; see proc_stat(5)."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def filled_share(rest: Rest, number: int, files: int) -> str:
    share_id = rest.create_share(f"share {number}")
    tree = Path(rest.tree(share_id))
    for file in range(files):
        (tree / f"file-{file}").write_bytes(os.urandom(3000))
    return share_id


def measured(cluster: Cluster, shares: int, files: int) -> tuple[float, float]:
    """(seconds, part of the processors)"""
    rest = cluster.rest()
    share_ids = [filled_share(rest, number, files) for number in range(shares)]
    used, total = cpu_times()
    begun_s = time.perf_counter()
    with ThreadPoolExecutor(shares) as pool:
        backup_ids = list(pool.map(rest.create_backup, share_ids))
    for backup_id in backup_ids:
        rest.until_done(backup_id)
    wall_s = time.perf_counter() - begun_s
    used_then, total_then = cpu_times()
    return wall_s, (used_then - used) / (total_then - total)


def one_run(
    directory: Path, servers: tuple[MariaDb, RabbitMq], nodes: int, options: argparse.Namespace
) -> tuple[float, float]:
    mariadb, bus = servers
    mariadb.execute(f"DROP DATABASE {NAME}", f"CREATE DATABASE {NAME} CHARACTER SET utf8mb4")
    slowfs = built_slowfs(directory)
    (directory / "kept").mkdir(mode=0o700)
    store = directory / "store"
    settings: dict[str, Any] = {"max_operations": 1, "quota_backups": -1, "lease_s": 60}
    with (
        slow_mount(slowfs, directory / "kept", store, options.delay_us),
        running(directory, mariadb.url, bus.url, nodes=nodes, **settings) as cluster,
    ):
        return measured(cluster, options.shares, options.files)


def table(results: Sequence[Result]) -> str:
    walls = {
        nodes: statistics.median(one.wall_s for one in results if one.nodes == nodes)
        for nodes in NODES
    }
    lines = ["| nodes | seconds | in the time of one | at least | CPU |", "|--:|--:|--:|--:|--:|"]
    for nodes, wall_s in walls.items():
        cpu = statistics.median(one.cpu for one in results if one.nodes == nodes)
        gain = walls[1] / wall_s
        limit = LIMITS.get(nodes)
        verdict = "-" if limit is None else f"{limit}" if gain >= limit else f"{limit} missed"
        lines.append(f"| {nodes} | {wall_s:.1f} | {gain:.2f} | {verdict} | {cpu:.0%} |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--shares", type=int, default=12, help="backed up at once (12)")
    found.add_argument("--files", type=int, default=60, help="in each (60)")
    found.add_argument("--delay-us", type=int, default=5000, help="of a request, in us (5000)")
    found.add_argument("--rounds", type=int, default=3, help="for each number of nodes (3)")
    found.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return found


def main(argv: Sequence[str]) -> int:
    options = parser().parse_args(argv)
    try:
        require_root()
        require_programs(("gcc", "mount"))
    except CannotRun as why:
        print(f"bench_nodes: {why}", file=sys.stderr)
        return 2
    before = load_average()
    results: list[Result] = []
    with MariaDb() as mariadb, RabbitMq() as bus:
        assert isinstance(mariadb, MariaDb)
        for number in range(options.rounds):
            for nodes in NODES:
                with tempfile.TemporaryDirectory(prefix="bench-nodes-") as name:
                    wall_s, cpu = one_run(Path(name), (mariadb, bus), nodes, options)
                results.append(Result(nodes=nodes, round=number, wall_s=wall_s, cpu=cpu))
                print(f"{nodes} nodes: {wall_s:.1f} s, CPU {cpu:.0%}", file=sys.stderr)
    print(table(results))
    document = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": dataclasses.asdict(described_machine([])),
        "load_before": before,
        "load_after": load_average(),
        "options": {"shares": options.shares, "files": options.files, "delay_us": options.delay_us},
        "results": [dataclasses.asdict(one) for one in results],
    }
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
