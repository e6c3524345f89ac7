# SPDX-License-Identifier: Apache-2.0
"""What manila-data and the process that works for it as root say to each other: one JSON object
per line, a :class:`Job` down, signs of life and one :class:`Outcome` up.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from manila_backup.types import BackupDescription, BackupRef, Counters, Mount, Parallelism


class JobKind(StrEnum):
    """CLEAN undoes what an earlier job of the same operation may have left: its worker, its
    mounts, and with ``discard`` its data.
    """

    BACKUP = "backup"
    RESTORE = "restore"
    DELETE = "delete"
    CLEAN = "clean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """``directory`` is root's own. ``ref.epoch`` matters to BACKUP and CLEAN only: a restore reads
    the newest epoch that is published, a delete removes all.
    """

    kind: JobKind
    operation_id: str
    directory: str
    store: Mount
    ref: BackupRef
    parallelism: Parallelism
    share: Mount | None = None
    description: BackupDescription | None = None
    discard: bool = False

    def dump(self) -> bytes:
        """One line."""
        return _line(asdict(self))

    @classmethod
    def load(cls, line: bytes) -> Job:
        """:raises ValueError: this is no job; says why."""
        try:
            fields = json.loads(line)
            return cls(
                **{
                    **fields,
                    "kind": JobKind(fields["kind"]),
                    "store": _mount(fields["store"]),
                    "ref": BackupRef(**fields["ref"]),
                    "parallelism": Parallelism(**fields["parallelism"]),
                    "share": None if fields["share"] is None else _mount(fields["share"]),
                    "description": _description(fields["description"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a job: {type(error).__name__}: {error}") from error


def _mount(fields: dict[str, Any]) -> Mount:
    return Mount(**{**fields, "options": tuple(fields["options"])})


def _description(fields: dict[str, Any] | None) -> BackupDescription | None:
    if fields is None:
        return None
    return BackupDescription(**{**fields, "ref": BackupRef(**fields["ref"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended. ``error`` is None when it did what it was to do. ``clean``: no mount, worker
    or record of the operation is left; data of a failed backup may be.
    """

    clean: bool
    error: str | None = None
    counters: Counters | None = None

    def dump(self) -> bytes:
        """One line."""
        return _line({"outcome": asdict(self)})

    @classmethod
    def load(cls, fields: dict[str, Any]) -> Outcome:
        counters = fields["counters"]
        return cls(**{**fields, "counters": None if counters is None else Counters(**counters)})


ALIVE = b'{"alive": true}\n'


def progress_line(percent: int) -> bytes:
    return _line({"percent": percent})


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
