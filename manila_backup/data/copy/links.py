# SPDX-License-Identifier: Apache-2.0
"""Which names belong to one inode, while a catalog is laid over a target."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

from manila_backup.data.catalog.entry import EntrySource, TreeContent, one_pass
from manila_backup.data.copy.dirstack import Identity
from manila_backup.data.copy.overflow import Overflow

HELD_GROUPS = 20_000
"""Groups in memory at most; the others are on disk."""

_SMALL_PIECES = 16
"""Content of files up to 64 MiB (without many holes) is kept with the group."""


@dataclass(frozen=True, slots=True)
class LinkedName:
    """A name in the target, and the inode that it had when it was made."""

    path: bytes
    inode: Identity
    content: TreeContent | None


class TargetLinks:
    """From a group's number to one of its names in the target."""

    def __init__(self, *, held: int = HELD_GROUPS) -> None:
        self._held = held
        self._groups: dict[int, LinkedName] = {}
        self._overflow = Overflow()

    def put(self, group: int, name: LinkedName) -> None:
        """Later names of the group are linked to this one."""
        if name.content is not None and len(name.content.pieces) > _SMALL_PIECES:
            name = LinkedName(name.path, name.inode, None)
        self._groups[group] = name
        if len(self._groups) > self._held:
            for number in list(self._groups)[: len(self._groups) - self._held // 2]:
                packed = pickle.dumps(self._groups.pop(number), pickle.HIGHEST_PROTOCOL)
                self._overflow.put(b"%d" % number, packed)

    def get(self, group: int) -> LinkedName | None:
        known = self._groups.get(group)
        if known is None and (packed := self._overflow.get(b"%d" % group)) is not None:
            known = pickle.loads(packed)  # noqa: S301 - of this process
        return known

    def close(self) -> None:
        self._overflow.close()


class NamesLeft:
    """Counts inodes with several names once each; forgets those whose names have all come."""

    def __init__(self, *, held: int = HELD_GROUPS) -> None:
        self._held = held
        self._left: dict[Identity, int] = {}
        self._overflow = Overflow()

    def is_first(self, inode: Identity, names: int) -> bool:
        """Take one name of an inode that has ``names``; whether it is the first to come."""
        key = b"%x:%x" % inode
        left = self._left.pop(inode, None)
        if left is None and (packed := self._overflow.pop(key)) is not None:
            left = int(packed)
        rest = (names if left is None else left) - 1
        if rest and len(self._left) < self._held:
            self._left[inode] = rest
        elif rest:
            self._overflow.put(key, b"%d" % rest)
        return left is None

    def close(self) -> None:
        self._overflow.close()


class GroupContents:
    """The content of a group's first entry, looked up in the catalog again: needed only when a
    name cannot be linked to the first one and the content was too large to be kept. Each look-up
    may read the whole catalog, so they are limited; the group looked up last is remembered.
    """

    def __init__(self, entries: EntrySource, *, lookups: int = 100) -> None:
        self._entries = entries
        self._lookups = lookups
        self._last: tuple[int, TreeContent | None] = (0, None)

    def find(self, group: int) -> TreeContent | None:
        """None: there were too many look-ups already."""
        if self._last[0] == group:
            return self._last[1]
        if not self._lookups:
            return None
        self._lookups -= 1
        with one_pass(self._entries) as stream:
            first = next((entry for entry in stream if entry.link_group == group), None)
        self._last = (group, first.content if first is not None else None)
        return self._last[1]
