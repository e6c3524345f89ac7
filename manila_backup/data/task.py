# SPDX-License-Identifier: Apache-2.0
"""What a worker is asked to do: one driver call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from manila_backup.types import MountedTree, Parallelism

METHODS = frozenset(
    {"backup", "inspect", "restore", "delete", "discard", "verify", "scan", "orphans"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One driver call. ``root`` is the mounted backup share; methods that take a ``Control`` get
    the worker's own as their last argument.
    """

    driver: str
    root: MountedTree
    parallelism: Parallelism
    method: str
    arguments: tuple[Any, ...] = field(default=())
    controlled: bool = True
