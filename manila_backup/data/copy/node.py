# SPDX-License-Identifier: Apache-2.0
"""What the coordinator of a copy knows of a directory under way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from enum import Enum
from typing import Any

from manila_backup.data.catalog.entry import Entry
from manila_backup.data.copy.attributes import Attributes
from manila_backup.data.copy.dirstack import Identity
from manila_backup.data.copy.tasks import Directory, Entered, Name

_NEAR = 64
_APART = 1024
"""Nodes that keep their whole path: those near the root, and further down one in so many. Else a
tree of 100,000 levels would need gigabytes for the paths alone."""


class State(Enum):
    WAITING = 0
    """Not known yet."""

    ENTERED = 1

    GONE = 2
    """It vanished; nothing is recorded."""

    INSTEAD = 3
    """It turned out to be something else, which ``instead`` tells."""


UNKNOWN = object()


class Slot:
    """What becomes of an entry that is not known yet: ``value`` is UNKNOWN, then None, an encoded
    entry, a :class:`~.groups.Name` of a hard-linked inode, or a :class:`Node`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = UNKNOWN


class Chunk:
    """Consecutive entries of a directory. ``records``: None while they are in work; ``tail``: the
    entries that come right after them, split off."""

    __slots__ = ("bytes", "position", "records", "tail")

    def __init__(self, tail: Chunk | None = None) -> None:
        self.records: list[tuple[bytes, Any]] | None = None
        self.bytes = 0
        self.position = 0
        self.tail = tail


class Names:
    """The names of a directory that are left to be handed out, in order."""

    def __init__(self, names: Iterator[Name]) -> None:
        self._names = names
        self._next = next(names, None)

    def close(self) -> None:
        """Give back what the names are kept in, if they are not read to their end."""
        close = getattr(self._names, "close", None)
        if close is not None:
            close()

    @property
    def next(self) -> bytes | None:
        return self._next[0] if self._next is not None else None

    def take(self, count: int) -> list[Name]:
        if self._next is None:
            return []
        taken = [self._next, *itertools.islice(self._names, count - 1)]
        self._next = next(self._names, None)
        return taken


class Below:
    """A directory by its name and the one above it."""

    __slots__ = ("_path", "depth", "name", "parent")

    def __init__(self, parent: Below | None, name: bytes) -> None:
        self.parent = parent
        self.name = name
        self.depth: int = parent.depth + 1 if parent is not None else 0
        keeps = self.depth < _NEAR or self.depth % _APART == 0
        self._path = self._joined() if keeps else None

    @property
    def path(self) -> bytes:
        return self._path if self._path is not None else self._joined()

    def _joined(self) -> bytes:
        names = [self.name]
        place = self.parent
        while place is not None and place._path is None:
            names.append(place.name)
            place = place.parent
        if place is not None and place._path:
            names.append(place._path)
        return b"/".join(reversed(names))

    def path_of(self, name: bytes) -> bytes:
        path = self.path
        return path + b"/" + name if path else name


class Node(Below):
    """``left``: what has to end before the directory can be finished: its own task, batches of its
    names, directories in it, names of hard-linked files. ``target``: None too when it is
    finished already. ``chunks``: what the catalog still has to
    get; no more will come when ``is_listed``. ``entry`` is kept until the catalog has it.
    """

    __slots__ = (
        "chunks",
        "entry",
        "fresh",
        "instead",
        "is_listed",
        "left",
        "looks",
        "losses",
        "names",
        "source",
        "state",
        "target",
        "wanted",
    )

    parent: Node | None

    def __init__(self, parent: Node | None, name: bytes) -> None:
        super().__init__(parent, name)
        self.left = 1
        self.looks = 1
        self.state = State.WAITING
        self.entry: Entry | None = None
        self.source: Identity | None = None
        self.target: Identity | None = None
        self.fresh = False
        self.wanted: Attributes | None = None
        self.losses: tuple[str, ...] = ()
        self.instead = Slot()
        self.names: Names | None = None
        self.chunks: list[Chunk] = []
        self.is_listed = False

    def enter(self, answer: Entered, *, keep_entry: bool) -> None:
        """It was entered. What names its path is not kept: there may be very many levels."""
        self.state = State.ENTERED
        self.entry = answer.entry if keep_entry else None
        self.source = answer.directory.source
        self.target = None if answer.is_finished else answer.directory.target
        self.fresh = answer.directory.fresh
        self.wanted, self.losses = answer.wanted, answer.losses

    @property
    def directory(self) -> Directory:
        """For tasks in it."""
        if self.source is None or self.target is None:
            raise RuntimeError("a directory that was not entered")
        return Directory(path=self.path, source=self.source, target=self.target, fresh=self.fresh)
