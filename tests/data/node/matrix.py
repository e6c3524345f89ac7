# SPDX-License-Identifier: Apache-2.0
"""The kill matrix: what may befall a data node at each step of each kind of operation, and who goes
on with its work.

A cell is (step, fault, successor). :func:`chosen` draws the cells of a run.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Any

from manila_backup.states import OperationKind
from tests.data.node.killing import END
from tests.data.node.world import IS_ROOT

ALL = "MANILA_BACKUP_MATRIX_ALL"
"""Environment variable: not empty, all cells are run."""


class Fault(StrEnum):
    NODE_KILLED = "node killed"
    """SIGKILL of the node's process, while its worker lives if there is one by then."""

    WORKER_KILLED = "worker killed"

    SUSPENDED = "suspended"
    """SIGSTOP until the lease has ended and somebody else has done the work, then SIGCONT."""

    EXCEPTION = "exception"
    """Something that passes: a provider or a mount that fails once."""

    MISTAKE = "mistake"
    """An exception that nobody has thought of."""


class Successor(StrEnum):
    SAME = "same node"
    """It is started again."""

    OTHER = "another node"

    RIVAL = "a rival on the same address"
    """A node of another name with the first one's address: it may do nothing before that one has
    been silent for as long as a lease."""


class Where(StrEnum):
    """What kind of step it is, and so which faults can happen there."""

    CALL = "call"
    """Of the provider, or of mount and umount."""

    STATEMENT = "statement"
    """Right before one is executed."""

    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Step:
    """``name`` and a number, at which time: a call of :class:`~tests.data.node.faulty.Steps`, or
    the beginning of a statement. The name alone: a step of a worker, or :data:`END`.
    """

    kind: OperationKind
    name: str
    where: Where


@dataclass(frozen=True, slots=True)
class Cell:
    step: Step
    fault: Fault
    successor: Successor

    def __str__(self) -> str:
        return f"{self.step.kind}, {self.step.name}, {self.fault}, {self.successor}"


_FAULTS = {
    Where.CALL: (Fault.NODE_KILLED, Fault.SUSPENDED, Fault.EXCEPTION, Fault.MISTAKE),
    # SQLite's writer locks all others out: one that is suspended there would suspend them, too.
    Where.STATEMENT: (Fault.NODE_KILLED,),
    Where.WORKER: tuple(Fault),
}

_BEFORE_THE_WORKER = (
    "get 1",
    *("INSERT INTO intents 1", "mark 1", "marked 1"),
    *("INSERT INTO intents 2", "grant 1", "granted 1"),
    *(("INSERT INTO intents 3", "mount 1", "INSERT INTO intents 4", "mount 2") if IS_ROOT else ()),
)
_AFTER_THE_WORKER = (
    *(("umount 1", "umount 2") if IS_ROOT else ()),
    "revoke 1",
    "unmark 1",
    *("DELETE FROM intents 1", "DELETE FROM intents 2"),
    *(("DELETE FROM intents 3", "DELETE FROM intents 4") if IS_ROOT else ()),
    END,
)
_AT_WORK = {
    OperationKind.CREATE: ("backup", "publish", "done"),
    OperationKind.RESTORE: ("restore", "write", "done"),
    OperationKind.DELETE: ("delete",),
}
_AROUND_DELETE = (END,)


def steps() -> list[Step]:
    found = []
    for kind, at_work in _AT_WORK.items():
        is_delete = kind is OperationKind.DELETE
        around = _AROUND_DELETE if is_delete else (*_BEFORE_THE_WORKER, *_AFTER_THE_WORKER)
        found += [Step(kind, name, Where.WORKER) for name in at_work]
        for name in around:
            is_statement = name == END or " INTO " in name or " FROM " in name
            found.append(Step(kind, name, Where.STATEMENT if is_statement else Where.CALL))
    return found


def cells() -> list[Cell]:
    """All that there are."""
    return [
        Cell(step, fault, successor)
        for step in steps()
        for fault, successor in product(_FAULTS[step.where], Successor)
        if fault is not Fault.SUSPENDED or successor is not Successor.SAME
    ]


def chosen(seed: int) -> tuple[list[Cell], list[Cell]]:
    """First so many that each step meets each fault that can happen there, and each fault each
    successor; then those with which each step meets each successor, too, which are run by hand.
    """
    left = cells()
    random.Random(seed).shuffle(left)
    some = _cover(left, lambda cell: {(cell.step, cell.fault), (cell.fault, cell.successor)})
    met = {(cell.step, cell.successor) for cell in some}
    more = _cover(left, lambda cell: {(cell.step, cell.successor)} - met)
    return some, more


def _cover(left: list[Cell], pairs: Callable[[Cell], set[Any]]) -> list[Cell]:
    """Takes out of ``left`` as few as it can that have all the pairs that there are."""
    missing = set().union(*(pairs(cell) for cell in left))
    found = []
    while missing:
        best = max(left, key=lambda cell: len(missing & pairs(cell)))
        found.append(best)
        left.remove(best)
        missing -= pairs(best)
    return found
