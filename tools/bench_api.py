#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long the API takes with very many backups in the database.

Starts the database server (from this checkout's test fixtures, in a temporary directory), fills it,
starts manila-backup-api on it, and asks over HTTP, one request after another, all kinds in turn.
Nothing of it is left afterwards. Measured tables are in doc/performance.md.

    .venv/bin/python tools/bench_api.py --database mariadb --backups 1000000 --json result.json

The servers do not wait for the disk when they commit (they are those of the tests): a create takes
longer by one sync of the disk in production.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import http.client
import json
import os
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.system import described_machine, load_average
from sqlalchemy import Connection, insert, text

from manila_backup.db import migration
from manila_backup.db.engine import Database
from manila_backup.db.models import BackupRow, OperationRow, QuotaUsageRow
from manila_backup.types import Counters
from tests.acceptance.cluster import Cluster
from tests.acceptance.rest import Rest
from tests.support.databases import SERVERS

PROJECT = "project-000000"
MEMBER = f"user:{PROJECT}"
LIMIT_MS = 50.0
"""What a request that can use an index may take, in the median."""

_UUID_PARTS = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
_POOL_BYTES = 2 << 30
_NOW_US = 1_790_000_000_000_000
_STATUSES = ("available",) * 92 + ("error",) * 5 + ("deleted",) * 3
_EVERY_US = 7_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """``limit_ms`` None: a request that has to look at all rows of the project or the table."""

    database: str
    request: str
    limit_ms: float | None
    median_ms: float
    p95_ms: float
    rows: int


# --- the data set ---------------------------------------------------------------------------------


def backup_rows(count: int, every_us: int, draw: random.Random) -> Iterator[dict[str, Any]]:
    """Of one project."""
    for number in range(count):
        status = draw.choice(_STATUSES)
        created_us = _NOW_US - (count - number) * every_us
        yield {
            "id": str(uuid.UUID(int=draw.getrandbits(128), version=4)),
            "project_id": PROJECT,
            "user_id": "user",
            "share_id": share_of(number % 200),
            "share_name": f"share {number % 200}",
            "share_proto": "NFS",
            "status": status,
            "name": f"nightly {number % 1000} of {number % 17}",
            "description": None if number % 3 else f"backup number {number}",
            "size_gib": 1 + number % 100,
            "charged_gib": 1 + number % 100,
            "stored_bytes": number * 4096,
            "availability_zone": "nova",
            "host": f"node{number % 5}",
            "topic": "manila-backup",
            "backup_type": None,
            "driver": "tree",
            "options": "{}",
            "progress": 100,
            "restore_progress": 0,
            "published_epoch": 1,
            "fail_reason": None,
            "created_at_us": created_us,
            "updated_at_us": created_us + 60_000_000,
            "deleted_at_us": created_us + 90_000_000 if status == "deleted" else None,
        }


def share_of(share: int) -> str:
    return str(uuid.UUID(int=share, version=4))


def operation_row(backup: dict[str, Any]) -> dict[str, Any]:
    """The create that made it."""
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, backup["id"])),
        "kind": "create",
        "status": "failed" if backup["status"] == "error" else "done",
        "phase": None,
        "backup_id": backup["id"],
        "active_backup_id": None,
        "share_id": backup["share_id"],
        "project_id": backup["project_id"],
        "user_id": "user",
        "request_id": f"req-{backup['id']}",
        "mode": None,
        "host": backup["host"],
        "epoch": 1,
        "lease_until_us": None,
        "not_before_us": backup["created_at_us"],
        "attempts": 1,
        "cancel_requested": False,
        "then_delete": False,
        "share_written": False,
        "share_was_in_error": False,
        "worker_pid": None,
        "worker_started": None,
        "progress": 100,
        "progress_source": None,
        "counters": json.dumps(dataclasses.asdict(Counters(files=10, bytes=4096))),
        "fail_reason": None,
        "created_at_us": backup["created_at_us"],
        "started_at_us": backup["created_at_us"] + 1_000_000,
        "updated_at_us": backup["updated_at_us"],
        "finished_at_us": backup["updated_at_us"],
        "availability_zone": "nova",
    }


def fill(url: str, count: int, per_project: int, seed: int) -> list[str]:
    """Answers the ids of the project's backups that are not deleted, oldest first. The other
    projects have the same ones at other times, under other ids."""
    database = Database(url)
    migration.sync(database)
    projects = max(count // per_project, 1)
    rows = list(backup_rows(per_project, _EVERY_US * projects, random.Random(seed)))
    mine = [row for row in rows if row["deleted_at_us"] is None]
    used = {"backups": len(mine), "backup_gigabytes": sum(row["charged_gib"] for row in mine)}
    with database.writer_engine.connect() as connection:
        _prepare(connection)
        connection.execute(insert(BackupRow), rows)
        connection.execute(insert(OperationRow), [operation_row(row) for row in rows])
        usage = [
            {"project_id": PROJECT, "resource": resource, "in_use": in_use}
            for resource, in_use in used.items()
        ]
        connection.execute(insert(QuotaUsageRow), usage)
        connection.commit()
        for number in range(1, projects):
            for table in (BackupRow, OperationRow, QuotaUsageRow):
                _copy_project(connection, table.__table__, number)
            connection.commit()
        analyze = {"mysql": "ANALYZE TABLE backups, operations", "postgresql": "ANALYZE"}
        # As these servers do on their own after a while; SQLite never does.
        if statement := analyze.get(connection.dialect.name):
            connection.execute(text(statement))
            connection.commit()
    database.close()
    return [row["id"] for row in mine]


def _prepare(connection: Connection) -> None:
    """So that filling is quick, and has the functions that it needs."""
    if connection.dialect.name == "mysql":
        # As on a server that is there for more than tests: with 128 MiB each random key would
        # be a page from the disk.
        connection.execute(text(f"SET GLOBAL innodb_buffer_pool_size = {_POOL_BYTES}"))
    elif connection.dialect.name == "sqlite":
        raw: Any = connection.connection.dbapi_connection
        raw.create_function(
            "MD5", 1, lambda value: md5(value.encode(), usedforsecurity=False).hexdigest()
        )
        raw.create_function("CONCAT", -1, lambda *values: "".join(map(str, values)))


def _copy_project(connection: Connection, table: Any, number: int) -> None:
    """What the first project has, as another one's."""

    def other(name: str) -> str:
        if name in ("id", "backup_id", "share_id"):
            digest = f"MD5(CONCAT({name}, '-{number}'))"
            parts = [f"SUBSTR({digest}, {start}, {size})" for start, size in _UUID_PARTS]
            return "CONCAT(" + ", '-', ".join(parts) + ")"
        if name == "project_id":
            return f"'{PROJECT[:-6]}{number:06}'"
        return f"{name} + {number * _EVERY_US}" if name.endswith("_us") else name

    names = [column.name for column in table.columns]
    values = ", ".join(other(name) for name in names)
    connection.execute(
        text(
            f"INSERT INTO {table.name} ({', '.join(names)}) "  # noqa: S608 - no input
            f"SELECT {values} FROM {table.name} WHERE project_id = '{PROJECT}'"
        )
    )


# --- requests -------------------------------------------------------------------------------------


class Client:
    """One connection that is kept, as a client library does."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        self._headers = {
            "X-Auth-Token": token,
            "X-OpenStack-Manila-API-Version": "2.98",
            "X-OpenStack-Manila-API-Experimental": "true",
            "Content-Type": "application/json",
        }

    def call(self, method: str, path: str, body: Any = None) -> tuple[float, Any]:
        """(seconds, document)"""
        payload = None if body is None else json.dumps(body)
        begun_s = time.perf_counter()
        self._connection.request(method, path, body=payload, headers=self._headers)
        response = self._connection.getresponse()
        answered = response.read()
        took_s = time.perf_counter() - begun_s
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {answered!r}")
        is_json = "json" in (response.getheader("Content-Type") or "")
        return took_s, json.loads(answered) if is_json else answered

    def close(self) -> None:
        self._connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """``path(n)``: of the n-th time. ``times``: how often at most; None: as often as asked."""

    title: str
    path: Callable[[int], str]
    has_index: bool = True
    is_admin: bool = False
    times: int | None = None
    body: Callable[[int], Any] | None = None


def requests(mine: Sequence[str], shares: Sequence[str]) -> list[Request]:
    backups = "/v2/share-backups"
    detail = f"{backups}/detail"

    def fixed(path: str) -> Callable[[int], str]:
        return lambda number: path

    def any_id(number: int) -> str:
        return mine[number * 7919 % len(mine)]

    def new(number: int) -> Any:
        return {"share_backup": {"share_id": shares[number], "name": f"new {number}"}}

    return [
        Request(title="show", path=lambda number: f"{backups}/{any_id(number)}"),
        Request(title="list, first 100", path=fixed(f"{backups}?limit=100")),
        Request(title="list, first 1,000", path=fixed(f"{backups}?limit=1000")),
        Request(title="list with detail, first 100", path=fixed(f"{detail}?limit=100")),
        Request(title="list with detail, first 1,000", path=fixed(f"{detail}?limit=1000")),
        Request(
            title="next 100 after a marker",
            path=lambda number: f"{detail}?limit=100&marker={any_id(number)}",
        ),
        Request(title="status=error", path=fixed(f"{detail}?limit=100&status=error")),
        Request(
            title="share_id=...",
            path=lambda number: f"{detail}?limit=100&share_id={share_of(number % 200)}",
        ),
        Request(title="name=...", path=fixed(f"{detail}?limit=100&name=nightly+7+of+0")),
        Request(
            title="sorted by size, after a marker",
            path=lambda number: (
                f"{detail}?limit=100&sort_key=size&sort_dir=asc&marker={any_id(number)}"
            ),
        ),
        Request(
            title="sorted by name",
            path=fixed(f"{detail}?limit=100&sort_key=name&sort_dir=asc"),
        ),
        Request(title="create", path=fixed(backups), body=new, times=len(shares)),
        Request(
            title="its operations", path=lambda number: f"{backups}/{any_id(number)}/operations"
        ),
        Request(title="quota", path=fixed(f"/v2/quota-sets/{PROJECT}/detail"), is_admin=True),
        Request(title="name~", path=fixed(f"{detail}?limit=100&name~=7+of"), has_index=False),
        Request(
            title="offset 9,000", path=fixed(f"{detail}?limit=100&offset=9000"), has_index=False
        ),
        Request(
            title="all projects, newest 100",
            path=fixed(f"{detail}?limit=100&all_tenants=1"),
            has_index=False,
            is_admin=True,
            times=5,
        ),
        Request(
            title="all projects, name~",
            path=fixed(f"{detail}?limit=100&all_tenants=1&name~=999+of"),
            has_index=False,
            is_admin=True,
            times=5,
        ),
        Request(
            title="all projects, sorted by name, offset 100,000",
            path=fixed(f"{detail}?limit=100&all_tenants=1&sort_key=name&offset=100000"),
            has_index=False,
            is_admin=True,
            times=5,
        ),
        Request(title="/metrics", path=fixed("/metrics"), has_index=False, times=1),
    ]


def measure(port: int, asked: Sequence[Request], times: int) -> dict[str, tuple[list[float], int]]:
    """Title -> (seconds of each, rows in the last answer)."""
    member, admin = Client(port, MEMBER), Client(port, f"admin:{PROJECT}:admin")
    found: dict[str, tuple[list[float], int]] = {one.title: ([], 0) for one in asked}
    for number in range(times):
        for one in asked:
            if one.times is not None and number >= one.times:
                continue
            client = admin if one.is_admin else member
            body = one.body(number) if one.body is not None else None
            took_s, document = client.call("POST" if body else "GET", one.path(number), body)
            rows = document.get("share_backups", ()) if isinstance(document, dict) else ()
            found[one.title] = ([*found[one.title][0], took_s], len(rows))
    member.close()
    admin.close()
    return found


# --- a run ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(kind: str, directory: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if kind == "sqlite":
        yield f"sqlite:///{directory / 'state.sqlite'}"
        return
    with SERVERS[kind]() as server:
        yield server.url


def started(cluster: Cluster) -> float:
    """Seconds from the start of the API to its first answer."""
    begun_s = time.perf_counter()
    cluster.apis[0].start()
    cluster.until_answering()
    return time.perf_counter() - begun_s


def measured(kind: str, options: argparse.Namespace) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="bench-api-") as name, served(kind, Path(name)) as url:
        directory = Path(name)
        for part in ("store", "shares"):
            (directory / part).mkdir(mode=0o700)
        cluster = Cluster(root=directory, database=url)
        cluster.options["quota_backups"] = cluster.options["quota_backup_gigabytes"] = -1
        config = cluster.add_api().config
        config.write_text(config.read_text() + "enable_metrics = true\n")
        cluster.manage("db sync")
        empty_s = started(cluster)
        cluster.apis[0].stop()
        begun_s = time.perf_counter()
        mine = fill(url, options.backups, options.per_project, options.seed)
        print(f"{kind}: filled in {time.perf_counter() - begun_s:.0f} s", file=sys.stderr)
        full_s = started(cluster)
        try:
            port = cluster.apis[0].port
            rest = Rest(f"http://127.0.0.1:{port}/v2", token=MEMBER)
            shares = [rest.create_share(f"share {number}") for number in range(options.requests)]
            found = measure(port, requests(mine, shares), options.requests)
        finally:
            cluster.apis[0].stop()
        asked = {one.title: one for one in requests(mine, shares)}
        results = [
            Result(
                database=kind,
                request=title,
                limit_ms=LIMIT_MS if asked[title].has_index else None,
                median_ms=1000 * statistics.median(took),
                p95_ms=1000 * sorted(took)[int(len(took) * 0.95)],
                rows=rows,
            )
            for title, (took, rows) in found.items()
        ]
        for title, took_s in (("start, empty database", empty_s), ("start, filled", full_s)):
            results.append(
                Result(
                    database=kind,
                    request=title,
                    limit_ms=None,
                    median_ms=1000 * took_s,
                    p95_ms=1000 * took_s,
                    rows=0,
                )
            )
        return results


def table(results: Sequence[Result]) -> str:
    lines = [
        "| database | request | rows | median ms | 95 % ms | limit |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for one in results:
        limit = "-" if one.limit_ms is None else f"{one.limit_ms:.0f}"
        missed = " missed" if one.limit_ms is not None and one.median_ms > one.limit_ms else ""
        figures = f"{one.median_ms:.1f} | {one.p95_ms:.1f} | {limit}{missed}"
        lines.append(f"| {one.database} | {one.request} | {one.rows} | {figures} |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = ["sqlite", *SERVERS]
    found.add_argument(
        "--database", action="append", choices=kinds, help="may be repeated (all of them)"
    )
    found.add_argument("--backups", type=int, default=1_000_000, help="in all (1000000)")
    found.add_argument("--per-project", type=int, default=10_000, help="of each project (10000)")
    found.add_argument("--requests", type=int, default=50, help="of each kind (50)")
    found.add_argument("--seed", type=int, default=1, help="of the data set (1)")
    found.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return found


def main(argv: Sequence[str]) -> int:
    options = parser().parse_args(argv)
    os.umask(0o077)
    before = load_average()
    results: list[Result] = []
    for kind in options.database or ["sqlite", *SERVERS]:
        results += measured(kind, options)
    document = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": dataclasses.asdict(described_machine([])),
        "load_before": before,
        "load_after": load_average(),
        "backups": options.backups,
        "results": [dataclasses.asdict(one) for one in results],
    }
    print(table(results))
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
