#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Follow the newest operation of a backup and print each new percent until it has ended.

    watch_operation.py ENDPOINT BACKUP [--distinct N]

Talks plain REST, as any tenant's program could: GET /share-backups/{id}/operations. Ends 0 when the
operation is done, 1 when it failed or was cancelled. With ``--distinct`` it also ends 1 when fewer
different percents were seen.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.request
from typing import Any

HEADERS = {
    "X-Auth-Token": "notused",
    "X-OpenStack-Manila-API-Version": "2.98",
    "X-OpenStack-Manila-API-Experimental": "true",
}
POLL_S = 0.02


def get(url: str) -> Any:
    request = urllib.request.Request(url, headers=HEADERS)  # noqa: S310 - the service's own URL
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        return json.load(response)


def find(endpoint: str, backup: str) -> str:
    """The id of a backup given by id or name."""
    for found in get(f"{endpoint}/share-backups")["share_backups"]:
        if backup in (found["id"], found["name"]):
            return str(found["id"])
    raise SystemExit(f"there is no backup {backup}")


def follow(endpoint: str, backup_id: str) -> tuple[str, list[int]]:
    """Print each step; returns the final status and the percents seen, in order."""
    seen: list[int] = []
    shown = ""
    while True:
        operation = get(f"{endpoint}/share-backups/{backup_id}/operations")["operations"][0]
        percent = int(operation["progress"])
        counters = operation["counters"]
        line = f"{operation['status']:>8} {operation['phase'] or '':<10} {percent:3d} %"
        if line != shown:
            shown = line
            print(f"{line}  {counters['files']} files, {counters['bytes']} bytes", flush=True)
        if not seen or percent != seen[-1]:
            seen.append(percent)
        if operation["status"] in ("done", "failed", "cancelled"):
            if operation["fail_reason"]:
                print(operation["fail_reason"])
            return str(operation["status"]), seen
        time.sleep(POLL_S)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("endpoint")
    parser.add_argument("backup", help="name or id")
    parser.add_argument("--distinct", type=int, default=0, metavar="N")
    found = parser.parse_args(arguments)
    status, seen = follow(found.endpoint, find(found.endpoint, found.backup))
    if seen != sorted(seen):
        print("progress went backwards")
        return 1
    if len(set(seen)) < found.distinct:
        print(f"only {len(set(seen))} different percents were seen")
        return 1
    return 0 if status == "done" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
