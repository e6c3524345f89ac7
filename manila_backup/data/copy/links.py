# SPDX-License-Identifier: Apache-2.0
"""Which names belong to one inode. The one table of the engine that grows with the tree; it holds
inodes with more than one name only, and forgets those whose names have all been seen.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass

from manila_backup.data.catalog.entry import Entry, EntrySource, EntryType, TreeContent, one_pass
from manila_backup.data.copy.attributes import storable_time
from manila_backup.data.copy.dirstack import Identity


@dataclass(slots=True)
class Linked:
    """``first`` is the entry of the first name, without its content; ``target`` the inode that was
    made for it, None if the target has none (a special file left out)."""

    first: Entry
    left: int
    target: Identity | None

    def entry_at(self, path: bytes) -> Entry:
        return dataclasses.replace(self.first, path=path)


class SourceLinks:
    """While a live tree is walked: from the source's inode to the first name."""

    def __init__(self) -> None:
        self._linked: dict[Identity, Linked] = {}
        self._groups = 0

    def find(self, inode: Identity, type_: EntryType, info: os.stat_result) -> Linked | None:
        """The names before, if what ``info`` describes is still the same object: an inode number
        may have been given to another file meanwhile, or the file have been written to. Then it
        is a file of its own.
        """
        linked = self._linked.get(inode)
        if linked is None or linked.first.type is not type_ or not self.is_current(linked, info):
            return None
        return linked

    def is_current(self, linked: Linked, info: os.stat_result) -> bool:
        first = linked.first
        is_file = first.type is EntryType.FILE
        return first.mtime_ns == storable_time(info.st_mtime_ns) and (
            not is_file or first.size == info.st_size
        )

    def forget(self, inode: Identity) -> None:
        """Its name in the target is gone; the next name is the first of a new group."""
        del self._linked[inode]

    def passed(self, inode: Identity) -> None:
        """One more name was dealt with."""
        linked = self._linked.get(inode)
        if linked is None:
            return
        linked.left -= 1
        if linked.left <= 0:
            del self._linked[inode]

    def next_group(self) -> int:
        """The number for an entry that is certain to be recorded."""
        self._groups += 1
        return self._groups

    def add(self, inode: Identity, names: int, first: Entry, target: Identity | None) -> None:
        bare = dataclasses.replace(first, content=None)
        self._linked[inode] = Linked(bare, names - 1, target)


_SMALL_PIECES = 16
"""Content of files up to 64 MiB (without many holes) is kept with the group."""


@dataclass(slots=True)
class _Group:
    path: bytes
    target: Identity
    content: TreeContent | None


class TargetLinks:
    """While a catalog is laid over a target: from the group's number to a name and its inode."""

    def __init__(self) -> None:
        self._groups: dict[int, _Group] = {}

    def add(
        self, group: int, path: bytes, target: Identity, content: TreeContent | None = None
    ) -> None:
        if content is not None and len(content.pieces) > _SMALL_PIECES:
            content = None
        self._groups[group] = _Group(path, target, content)

    def content(self, group: int) -> TreeContent | None:
        """The group's content, if it is remembered."""
        known = self._groups.get(group)
        return known.content if known is not None else None

    def link(self, group: int, make: Callable[[bytes, Identity], bool]) -> bool:
        """Try ``make`` with what is known of the group; False: it has no usable name."""
        known = self._groups.get(group)
        return known is not None and make(known.path, known.target)


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
