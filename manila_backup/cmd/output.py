# SPDX-License-Identifier: Apache-2.0
"""Tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from prettytable import PrettyTable

from manila_backup.types import Counters


def show(rows: Sequence[Mapping[str, Any]], output: str, *, nothing: str = "nothing found") -> None:
    """Print ``rows``, all with the same keys; an empty table as the word ``nothing``."""
    if output == "json":
        print(json.dumps([dict(row) for row in rows], indent=2))
    elif not rows:
        print(nothing)
    else:
        table = PrettyTable(list(rows[0]), align="l")
        for row in rows:
            table.add_row(["" if value is None else value for value in row.values()])
        print(table)


def counted(counters: Counters) -> dict[str, int]:
    """Columns of a row: what was done, and what is not as it should be."""
    return {
        "Files": counters.files,
        "Bytes": counters.bytes,
        "Skipped": counters.skipped,
        "Changed": counters.changed,
        "Losses": counters.losses,
        "Warnings": counters.warnings,
    }
