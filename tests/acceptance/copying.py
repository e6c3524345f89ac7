# SPDX-License-Identifier: Apache-2.0
"""``manila-backup-copy`` as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema

from manila_backup.cmd.copy import Job, parser
from manila_backup.cmd.copy_places import opened_places
from manila_backup.cmd.copy_report import Outcome
from manila_backup.data.drivers.durable import Disk
from tests.acceptance.programs import Ended, run
from tests.acceptance.trees import fill_with_many

COMMAND = [sys.executable, "-m", "manila_backup.cmd.copy"]
PROJECT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
MIB = 1 << 20

Places = tuple[Path, Path]


def copied(*arguments: str | Path) -> Ended:
    return run([*COMMAND, *arguments])


@contextmanager
def mounted(point: Path, *options: str, device: str = "none") -> Iterator[Path]:
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, device, str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)


def run_job(disk: Disk, *arguments: str | Path) -> Outcome:
    """In this process, with a disk of the test's."""
    found = parser().parse_args([str(argument) for argument in arguments])
    with opened_places(os.fsencode(found.source), os.fsencode(found.target)) as places:
        return Job(found, places, cancelled=lambda: False, disk=disk).run()


MANY = 1500
LARGE_BYTES = 96 * MIB


def fill_with_much(source: Path) -> Path:
    """A large file that comes first, and many small ones."""
    fill_with_many(source, MANY)
    block = os.urandom(MIB)
    with (source / "a-large").open("wb") as file:
        for _ in range(LARGE_BYTES // MIB):
            file.write(block)
    return source


_COUNT = {"type": "integer", "minimum": 0}
_NAMES = {"type": "array", "items": {"type": "string"}, "maxItems": 100}
_SECONDS = {"type": ["number", "null"], "minimum": 0}
COUNTERS = (
    *("files", "directories", "others", "bytes", "skipped"),
    *("changed", "losses", "warnings", "deleted"),
)


def closed_object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SCHEMA = closed_object(
    result={"enum": ["complete", "incomplete", "failed", "cancelled"]},
    source={"type": "string"},
    target={"type": "string"},
    counters=closed_object(**dict.fromkeys(COUNTERS, _COUNT)),
    bytes=_COUNT,
    logical_bytes={"type": ["integer", "null"], "minimum": 0},
    seconds={"type": "number", "minimum": 0},
    phases=closed_object(copy=_SECONDS, sync=_SECONDS, verify=_SECONDS),
    rates=closed_object(
        files_per_second={"type": "number", "minimum": 0},
        bytes_per_second={"type": "number", "minimum": 0},
    ),
    losses=_NAMES,
    changed=_NAMES,
    skipped=_NAMES,
    checksum={
        "oneOf": [
            {"type": "null"},
            closed_object(
                algorithm={"const": "blake3"},
                root={"type": "string", "pattern": "^[0-9a-f]{64}$"},
                files=_COUNT,
                bytes=_COUNT,
                sparse_files=_COUNT,
            ),
        ]
    },
    verified={"type": ["boolean", "null"]},
    problems=_NAMES,
    problem_count=_COUNT,
    error={
        "oneOf": [
            {"type": "null"},
            closed_object(
                path={"type": ["string", "null"]},
                errno={"type": ["integer", "null"]},
                reason={"type": "string"},
            ),
        ]
    },
)


def check_schema(found: Any) -> None:
    jsonschema.validate(found, SCHEMA)
