# SPDX-License-Identifier: Apache-2.0
"""The coordinator's part in hard links while a live tree is copied: who is copied, who is linked.

The first name of an inode that comes is copied whole; names that come meanwhile wait for it, and
are then linked to it, as are later ones. What is to be done is gathered and handed out in batches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from manila_backup.data.catalog.entry import Entry, EntryType
from manila_backup.data.copy.copier import encoded
from manila_backup.data.copy.dispatch import Dispatch
from manila_backup.data.copy.groups import Group, Groups
from manila_backup.data.copy.groups import Name as GroupName
from manila_backup.data.copy.node import Node, Slot
from manila_backup.data.copy.sysio import Kind
from manila_backup.data.copy.tally import Tally
from manila_backup.data.copy.tasks import (
    CopyNames,
    Link,
    Linked,
    LinkMade,
    MakeLinks,
    Outcome,
    Whole,
)


class _Name(NamedTuple):
    """A name of a linked inode, and where to tell what became of it."""

    node: Node
    slot: Slot
    name: bytes
    linked: Linked
    group: Group


class HardLinks:
    """``begin`` settles a record that is no hard link after all; ``ended`` hears once of each name
    that was handed in when nothing is left to do for it.
    """

    def __init__(
        self,
        desk: Dispatch,
        tally: Tally,
        *,
        recorded: bool,
        begin: Callable[[Node, bytes, Any], Any],
        ended: Callable[[Node], None],
    ) -> None:
        """``recorded``: there is a catalog, so slots are filled."""
        self._desk = desk
        self._tally = tally
        self._recorded = recorded
        self._begin = begin
        self._ended = ended
        self.groups = Groups()
        self._firsts: list[_Name] = []
        self._links: list[tuple[Link, _Name]] = []

    def close(self) -> None:
        self.groups.close()

    def add(self, node: Node, slot: Slot, name: bytes, linked: Linked) -> None:
        group = self.groups.get(linked.inode)
        if group is not None and group.first is not None and not group.is_current(linked):
            group = None
        if group is None:
            group = Group()
            self.groups.put(linked.inode, group)
            self._firsts.append(_Name(node, slot, name, linked, group))
        elif group.first is None:
            group.waiting.append((node, slot, name, linked))
        else:
            self._link(_Name(node, slot, name, linked, group))

    def flush(self) -> None:
        """Hand out what has gathered."""
        size = self._desk.batch
        links, self._links = self._links, []
        for start in range(0, len(links), size):
            part = links[start : start + size]
            task = MakeLinks(links=[link for link, _ in part])
            self._desk.add(task, partial(self._made, [name for _, name in part]))
        by_node: dict[Node, list[_Name]] = {}
        for first in self._firsts:
            by_node.setdefault(first.node, []).append(first)
        self._firsts = []
        for node, firsts in by_node.items():
            for start in range(0, len(firsts), size):
                self._copy_whole(node, firsts[start : start + size], self._copied)

    def _copy_whole(
        self, node: Node, names: list[_Name], done: Callable[[list[_Name], Outcome], None]
    ) -> None:
        task = CopyNames(
            directory=node.directory,
            names=[(name.name, Kind.OTHER) for name in names],
            whole=True,
        )
        self._desk.add(task, partial(done, names))

    # --- the first name ---------------------------------------------------------------------------

    def _copied(self, names: list[_Name], outcome: Outcome) -> None:
        records = dict(outcome.records)
        left = {name for name, _ in outcome.rest}
        for name in names:
            if name.name in left:
                self._firsts.append(name)
                continue
            value = records.get(name.name)
            if isinstance(value, Whole):
                self._is_first(name, value)
            else:
                name.slot.value = self._settled(name, value)
                self.groups.drop(name.linked.inode, name.group)
            self._go_on(name.group)
            self._ended(name.node)

    def _settled(self, name: _Name, value: Any) -> Any:
        return None if value is None else self._begin(name.node, name.name, value)

    def _is_first(self, name: _Name, whole: Whole) -> None:
        group = name.group
        group.copied(whole)
        if self._recorded:
            name.slot.value = GroupName(group, ()) if whole.links > 1 else encoded(whole.entry)
        if not group.left:
            self.groups.drop(name.linked.inode, group)

    def _go_on(self, group: Group) -> None:
        """What waited for the first name of the group does so no longer."""
        waiting, group.waiting = group.waiting, []
        for node, slot, name, linked in waiting:
            self.add(node, slot, name, linked)

    # --- later names ------------------------------------------------------------------------------

    def _link(self, name: _Name) -> None:
        group = name.group
        if group.first is None or group.made is None:
            # A special file that the target does not have: the name has nothing to be linked to.
            self._is_name(name, ("special",))
            self._ended(name.node)
            return
        path = name.node.path_of(name.name)
        self._links.append((Link(path=path, first=group.first.path, inode=group.made), name))

    def _made(self, names: list[_Name], outcome: Outcome) -> None:
        for name, answer in zip(names, outcome.answer, strict=True):
            if answer is LinkMade.YES:
                self._is_name(name, ())
                self._ended(name.node)
            elif answer is LinkMade.IMPOSSIBLE:
                self._copy_whole(name.node, [name], self._unlinked)
            else:
                self.groups.drop(name.linked.inode, name.group)
                self.add(name.node, name.slot, name.name, name.linked)

    def _is_name(self, name: _Name, losses: tuple[str, ...]) -> None:
        if name.linked.type is EntryType.FILE:
            self._tally.files += 1
        else:
            self._tally.others += 1
        self._record(name, losses)

    def _record(self, name: _Name, losses: tuple[str, ...]) -> None:
        if self._recorded:
            name.slot.value = GroupName(name.group, losses)
        self.groups.passed(name.linked.inode, name.group)

    def _unlinked(self, names: list[_Name], outcome: Outcome) -> None:
        """The target could not take another link, so it has a copy; the catalog has the link."""
        name = names[0]
        value = outcome.records[0][1] if outcome.records else None
        if not isinstance(value, Whole):
            name.slot.value = self._settled(name, value)
        elif not value.entry.changed and _is_same(name.group, value.entry):
            self._tally.lose(value.entry.path, ["link"])
            self._tally.logical_bytes -= value.entry.size
            self._record(name, (*value.entry.losses, "link"))
        else:
            group = Group()
            self.groups.put(name.linked.inode, group)
            self._is_first(name._replace(group=group), value)
        self._ended(name.node)


def _is_same(group: Group, entry: Entry) -> bool:
    first = group.first
    return first is not None and (first.type, first.size, first.mtime_ns) == (
        entry.type,
        entry.size,
        entry.mtime_ns,
    )
