# SPDX-License-Identifier: Apache-2.0
"""The tables of transitions of ``manila_backup/states.py``, and what its comments say of them.

The cells are the running code's; who may fire one is said in the comment above it, which only the
source has.
"""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from manila_backup import states

TABLES: dict[str, Mapping[Any, StrEnum]] = {
    "backup": states.BACKUP_TRANSITIONS,
    "operation": states.OPERATION_TRANSITIONS,
    "share": states.SHARE_TRANSITIONS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    before: str
    event: str
    after: str
    who: str


def transitions(kind: str) -> list[Transition]:
    """Of a backup, an operation or a share, in the order of the source.

    :raises ValueError: a cell has no comment.
    """
    comments = _comments()
    return [
        Transition(
            before=str(before),
            event=str(event),
            after=str(after),
            who=comments[(type(event).__name__, event.name)],
        )
        for (before, event), after in TABLES[kind].items()
    ]


def statuses(kind: str) -> dict[str, str]:
    """All statuses of a kind, in the order of the source, with what is said below each."""
    first, _ = next(iter(TABLES[kind]))
    said = _docstrings()
    return {str(one): said.get((type(first).__name__, one.name), "") for one in type(first)}


def _comments() -> dict[tuple[str, str], str]:
    """(enum, event) -> the comment above the first cell of the event, or above its loop."""
    source = inspect.getsource(states)
    lines = source.splitlines()
    names = {"_BE": "BackupEvent", "_OE": "OperationEvent", "_SE": "ShareEvent"}
    found: dict[tuple[str, str], str] = {}
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Tuple(elts=[_, ast.Attribute(value=ast.Name(id=alias), attr=event)]):
                found.setdefault((names[alias], event), _comment_above(lines, node.lineno - 1))
    return found


def _comment_above(lines: list[str], number: int) -> str:
    while not lines[number].lstrip().startswith("#"):
        number -= 1
    found: list[str] = []
    while lines[number].lstrip().startswith("#"):
        found.insert(0, lines[number].lstrip().removeprefix("#").strip())
        number -= 1
    return " ".join(found).replace("``", "`")


def _docstrings() -> dict[tuple[str, str], str]:
    """(enum, member) -> the string below the member."""
    found: dict[tuple[str, str], str] = {}
    for cls in ast.parse(inspect.getsource(states)).body:
        if isinstance(cls, ast.ClassDef):
            for member, text in _pairs(cls.body):
                found[(cls.name, member)] = " ".join(text.replace("``", "`").split())
    return found


def _pairs(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for above, below in itertools.pairwise(body):
        match above, below:
            case (
                ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield name, text


def everywhere(kind: str) -> set[str]:
    """Events that may be fired in every status but the last: an administrator's means. Of three
    statuses or fewer that is nothing special."""
    cells = transitions(kind)
    living = {one.before for one in cells}
    return {
        event
        for event in {one.event for one in cells}
        if {one.before for one in cells if one.event == event} == living and len(living) > 3
    }
