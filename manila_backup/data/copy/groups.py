# SPDX-License-Identifier: Apache-2.0
"""Which names belong to one inode, while a live tree is copied.

The one table of the engine that grows with the tree. It holds inodes with more than one name only,
forgets those whose names have all been seen, and puts away on disk what does not fit.
"""

from __future__ import annotations

import dataclasses
import pickle
import weakref
from typing import Any

from manila_backup.data.catalog.entry import Entry, EntryType
from manila_backup.data.copy.dirstack import Identity
from manila_backup.data.copy.overflow import Overflow
from manila_backup.data.copy.tasks import Linked, Whole

HELD_GROUPS = 20_000
"""Groups in memory at most, but for those with names in work."""


class Group:
    """The names of one inode. ``first`` is the entry of the name that was copied (with its content
    until the catalog has it), None while that is in work; then ``waiting`` are those that came
    meanwhile. ``made`` is the inode in the target, None if it was left out there. ``owed``: names
    that the catalog has not got yet.
    """

    __slots__ = ("__weakref__", "first", "left", "made", "number", "owed", "waiting")

    def __init__(self) -> None:
        self.first: Entry | None = None
        self.made: Identity | None = None
        self.left = 0
        self.number: int | None = None
        self.owed = 0
        self.waiting: list[Any] = []

    def copied(self, whole: Whole) -> None:
        self.first = whole.entry
        self.made = whole.made
        self.left = whole.links - 1

    def is_current(self, linked: Linked) -> bool:
        """Whether what was seen is still the object that was copied: an inode number may have been
        given to another file meanwhile, or the file have been written to."""
        first = self.first
        if first is None or first.type is not linked.type or first.mtime_ns != linked.mtime_ns:
            return False
        return first.type is not EntryType.FILE or first.size == linked.size


class Name:
    """One name of a group that the catalog gets; ``losses`` are this name's own."""

    __slots__ = ("group", "losses")

    def __init__(self, group: Group, losses: tuple[str, ...]) -> None:
        self.group = group
        self.losses = losses
        group.owed += 1


class Groups:
    """All groups by the source's inode; numbered in the order in which the catalog asks.

    While a link to its first name is being made nothing in a group shows that. So one that was put
    away is still known as long as anybody has it: no inode ever has two, of which one is out of
    date.
    """

    def __init__(self, *, held: int = HELD_GROUPS) -> None:
        self._held = held
        self._full = held
        self._groups: dict[Identity, Group] = {}
        self._away: weakref.WeakValueDictionary[Identity, Group] = weakref.WeakValueDictionary()
        self._overflow = Overflow()
        self._numbers = 0

    def get(self, inode: Identity) -> Group | None:
        group = self._groups.get(inode)
        if group is None and (packed := self._overflow.pop(_key(inode))) is not None:
            group = self._away.pop(inode, None) or _unpacked(packed)
            self.put(inode, group)
        return group

    def put(self, inode: Identity, group: Group) -> None:
        """From now on it is the inode's."""
        if inode not in self._groups:
            self._overflow.pop(_key(inode))
            self._away.pop(inode, None)
        self._groups[inode] = group
        if len(self._groups) > self._full:
            self._make_room(inode)

    def passed(self, inode: Identity, group: Group) -> None:
        """One more of its names was dealt with."""
        known = self.get(inode)
        group.left -= 1
        if group.left <= 0 and known is group:
            self.drop(inode, group)

    def drop(self, inode: Identity, group: Group) -> None:
        """The next name of the inode begins a new group."""
        if self.get(inode) is group:
            del self._groups[inode]

    def entry(self, name: Name, path: bytes) -> Entry:
        """The entry that the catalog gets for ``path`` now; the first one carries the content."""
        group = name.group
        group.owed -= 1
        first = group.first
        if first is None:
            raise RuntimeError("a group without its first name")
        losses = name.losses
        if group.made is None:
            # Nor has the target the name that was copied first, wherever it stands.
            losses = tuple(dict.fromkeys((*losses, "special")))
        if group.number is None:
            self._numbers += 1
            group.number = self._numbers
            # What the inode has lost, every name has lost; it is told once.
            losses = tuple(dict.fromkeys(first.losses + losses))
            group.first = dataclasses.replace(first, content=None)
        else:
            first = dataclasses.replace(first, content=None)
        return dataclasses.replace(first, path=path, link_group=group.number, losses=losses)

    def _make_room(self, latest: Identity) -> None:
        """Put away the oldest of those that nobody is at, but for ``latest``, till half is left."""
        idle = [
            inode
            for inode, group in self._groups.items()
            if group.first is not None and not group.owed and not group.waiting and inode != latest
        ]
        for inode in idle[: len(self._groups) - self._held // 2]:
            group = self._groups.pop(inode)
            self._overflow.put(_key(inode), _packed(group))
            self._away[inode] = group
        # They may all be waiting for the catalog: then not to be looked through at each new one.
        self._full = max(self._held, len(self._groups) + self._held // 2)

    def close(self) -> None:
        self._overflow.close()


def _packed(group: Group) -> bytes:
    state = (group.first, group.made, group.left, group.number)
    return pickle.dumps(state, pickle.HIGHEST_PROTOCOL)


def _unpacked(packed: bytes) -> Group:
    group = Group()
    group.first, group.made, group.left, group.number = pickle.loads(packed)  # noqa: S301 - ours
    return group


def _key(inode: Identity) -> bytes:
    return b"%x:%x" % inode
