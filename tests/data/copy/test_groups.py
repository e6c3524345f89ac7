# SPDX-License-Identifier: Apache-2.0
"""Names of one inode, when only few groups are held in memory: nobody sees the difference."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manila_backup.data.catalog.entry import Entry, EntryType, TreeContent
from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.groups import Group, Groups, Name
from manila_backup.data.copy.links import LinkedName, TargetLinks
from manila_backup.data.copy.overflow import Overflow
from manila_backup.data.copy.tasks import Linked, Whole
from tests.data.copy.conftest import Run
from tests.support.syscalls import open_fds
from tests.support.trees import assert_same

HELD = [0, 1, 2, 3, 7]
INODES = st.integers(1, 12)


def entry_of(inode: int, *, path: bytes = b"", pieces: int = 1) -> Entry:
    return Entry(
        path=path,
        type=EntryType.FILE,
        mode=0o644,
        uid=inode,
        gid=0,
        size=inode,
        mtime_ns=inode,
        ctime_ns=0,
        inode=inode,
        xattrs={b"user.a": b"%d" % inode},
        content=TreeContent(root=b"%032d" % inode, pieces=(b"%032d" % inode,) * pieces),
        losses=("owner",),
    )


# --- the groups of a copy -------------------------------------------------------------------------


class Coordinator:
    """Goes about the groups as the one of a copy does, with its tasks done at any time and in any
    order; answers what the catalog gets."""

    def __init__(self, links: dict[int, int], *, held: int) -> None:
        self.groups = Groups(held=held)
        self.catalog: list[Entry] = []
        self._links = links
        self._slots: list[list[Name]] = []
        self._work: list[Callable[[bool], None]] = []

    def name(self, inode: int) -> None:
        slot: list[Name] = []
        self._slots.append(slot)
        self._linked(slot, inode)

    def work(self, index: int, gone: bool) -> None:
        """One of the tasks ends; if it is a link, its first name may be gone."""
        if self._work:
            self._work.pop(index % len(self._work))(gone)

    def emit(self) -> None:
        position = len(self.catalog)
        if position < len(self._slots) and self._slots[position]:
            name = self._slots[position].pop()
            self.catalog.append(self.groups.entry(name, b"%04d" % position))

    def end(self) -> None:
        while self._work:
            self.work(0, gone=False)
        for _ in self._slots:
            self.emit()

    def _linked(self, slot: list[Name], inode: int) -> None:
        linked = Linked(inode=(1, inode), type=EntryType.FILE, size=inode, mtime_ns=inode)
        group = self.groups.get(linked.inode)
        if group is None:
            group = Group()
            self.groups.put(linked.inode, group)
            self._work.append(partial(self._copied, slot, linked, group))
        elif group.first is None:
            group.waiting.append((slot, inode))
        else:
            assert group.is_current(linked)
            self._work.append(partial(self._made, slot, linked, group))

    def _copied(self, slot: list[Name], linked: Linked, group: Group, gone: bool) -> None:
        inode = linked.inode[1]
        links = self._links[inode]
        group.copied(Whole(entry=entry_of(inode), links=links, made=linked.inode))
        slot.append(Name(group, ()))
        if not group.left:
            self.groups.drop(linked.inode, group)
        waiting, group.waiting = group.waiting, []
        for other, _ in waiting:
            self._linked(other, inode)

    def _made(self, slot: list[Name], linked: Linked, group: Group, gone: bool) -> None:
        if gone:
            self.groups.drop(linked.inode, group)
            self._linked(slot, linked.inode[1])
            return
        slot.append(Name(group, ("link",)))
        self.groups.passed(linked.inode, group)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("name"), INODES, st.just(False)),
        st.tuples(st.just("name"), INODES, st.just(False)),
        st.tuples(st.just("work"), st.integers(0, 30), st.booleans()),
        st.tuples(st.just("emit"), st.just(0), st.just(False)),
    ),
    max_size=100,
)


def go_through(steps: list[tuple[str, int, bool]], *, held: int, gone: bool) -> Coordinator:
    links: dict[int, int] = {}
    for act, number, _ in steps:
        if act == "name":
            links[number] = links.get(number, 0) + 1
    coordinator = Coordinator(links, held=held)
    for act, number, is_gone in steps:
        if act == "name":
            coordinator.name(number)
        elif act == "work":
            coordinator.work(number, is_gone and gone)
        else:
            coordinator.emit()
    coordinator.end()
    coordinator.groups.close()
    return coordinator


@settings(max_examples=200, deadline=None)
@given(steps=STEPS, held=st.sampled_from(HELD), gone=st.booleans())
def test_the_catalog_gets_the_same_however_few_are_held(
    steps: list[tuple[str, int, bool]], held: int, gone: bool
) -> None:
    few = go_through(steps, held=held, gone=gone)
    many = go_through(steps, held=1000, gone=gone)
    assert few.catalog == many.catalog
    assert len(few.catalog) == sum(act == "name" for act, _, _ in steps)


@settings(max_examples=100, deadline=None)
@given(steps=STEPS, held=st.sampled_from([*HELD, 1000]))
def test_each_inode_is_one_group_whose_first_name_has_the_content(
    steps: list[tuple[str, int, bool]], held: int
) -> None:
    coordinator = go_through(steps, held=held, gone=False)
    numbers: dict[int, int] = {}
    for position, entry in enumerate(coordinator.catalog):
        first = entry.inode not in numbers
        assert entry.path == b"%04d" % position
        assert entry.link_group == numbers.setdefault(entry.inode, len(numbers) + 1)
        assert (entry.content is not None) is first
        assert ("owner" in entry.losses) is first


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, held=st.sampled_from([*HELD, 1000]))
def test_nothing_is_kept_of_a_group_whose_names_have_all_been_seen(
    steps: list[tuple[str, int, bool]], held: int
) -> None:
    coordinator = go_through(steps, held=held, gone=False)
    assert len(coordinator.groups._groups) == len(coordinator.groups._overflow) == 0


def test_a_group_put_away_while_a_link_is_made_stays_the_one_of_its_inode() -> None:
    """While names of an inode are being linked others push its group out; then both are there, and
    the second one finds the first name gone."""
    groups = Groups(held=2)
    group = Group()
    groups.put((1, 1), group)
    group.copied(Whole(entry=entry_of(1), links=3, made=(1, 1)))
    for inode in range(2, 9):
        other = Group()
        other.copied(Whole(entry=entry_of(inode), links=9, made=(1, inode)))
        groups.put((1, inode), other)
    assert len(groups._overflow) > 0
    groups.passed((1, 1), group)
    assert groups.get((1, 1)) is group
    assert group.left == 1
    groups.drop((1, 1), group)
    assert groups.get((1, 1)) is None
    groups.close()


def test_a_group_that_takes_anothers_place_is_not_forgotten_for_the_one_put_away() -> None:
    groups = Groups(held=2)
    for inode in range(1, 9):
        group = Group()
        group.copied(Whole(entry=entry_of(inode), links=9, made=(1, inode)))
        groups.put((1, inode), group)
    new = Group()
    groups.put((1, 1), new)
    groups.drop((1, 1), new)
    assert groups.get((1, 1)) is None
    groups.close()


def test_groups_that_the_catalog_waits_for_are_not_looked_through_again_and_again() -> None:
    """A large file comes first, and behind it a hundred thousand links: none can be put away."""

    class Counting(Groups):
        looked_at = 0

        def _make_room(self, latest: tuple[int, int]) -> None:
            self.looked_at += len(self._groups)
            super()._make_room(latest)

    groups = Counting(held=400)
    names = []
    for inode in range(8000):
        group = Group()
        group.copied(Whole(entry=entry_of(inode), links=2, made=(1, inode)))
        names.append(Name(group, ()))
        groups.put((1, inode), group)
    assert len(groups._groups) == 8000
    assert groups.looked_at < 30 * 8000
    for inode, name in enumerate(names):
        groups.entry(name, b"%d" % inode)
    for inode in range(400):
        groups.put((2, inode), Group())
    assert len(groups._groups) < 1000, "what is idle again is put away"
    assert groups.get((1, 7)) is names[7].group
    groups.close()


# --- the links of a restore -----------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(1, 30)), max_size=120),
    held=st.sampled_from(HELD),
)
def test_links_of_a_restore_are_a_dictionary(steps: list[tuple[bool, int]], held: int) -> None:
    links = TargetLinks(held=held)
    naive: dict[int, LinkedName] = {}
    for number, (puts, group) in enumerate(steps):
        if puts:
            pieces = number % 20
            name = LinkedName(b"%d" % number, (1, number), entry_of(1, pieces=pieces).content)
            links.put(group, name)
            # What is too large to be kept is looked up in the catalog again.
            naive[group] = name if pieces <= 16 else LinkedName(name.path, name.inode, None)
        assert links.get(group) == naive.get(group)
    for group in range(31):
        assert links.get(group) == naive.get(group)
    links.close()


# --- through the engine ---------------------------------------------------------------------------


def fill(root: Path, *, inodes: int, names: int) -> None:
    """Inodes of all kinds, with their names strewn over directories."""
    draw = random.Random(5)
    directories = [root / f"d{number}" for number in range(7)]
    for directory in directories:
        directory.mkdir()
    made: list[Path] = []
    for number in range(inodes):
        path = draw.choice(directories) / f"{number}"
        if number % 5 == 0:
            path.symlink_to(f"to{number}")
        elif number % 5 == 1:
            os.mkfifo(path)
        else:
            path.write_bytes(b"%d" % number * number)
        made.append(path)
    for number in range(names):
        link = draw.choice(directories) / f"l{number}"
        os.link(draw.choice(made), link, follow_symlinks=False)


@pytest.mark.parametrize(
    ("held", "processes"), [(1, 1), pytest.param(4, 2, marks=pytest.mark.root)]
)
def test_a_backup_and_its_restore_are_the_same_however_few_are_held(
    run: Run, held: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(run.source, inodes=200, names=800)
    options = CopyOptions(processes=processes)
    wanted = run.backup(options=options)
    entries = list(run.entries())
    put_away: list[str] = []
    real_put = Overflow.put

    def put(self: Overflow, key: bytes, value: bytes) -> None:
        put_away.append("groups" if b":" in key else "links")
        real_put(self, key, value)

    monkeypatch.setattr(Overflow, "put", put)
    for kind in (Groups, TargetLinks):
        monkeypatch.setitem(kind.__init__.__kwdefaults__, "held", held)
    fds = open_fds()
    again = Run(run.source.parent, make=False)
    again.data = run.source.parent / "data2"
    again.data.mkdir()
    assert again.backup(options=options) == wanted
    assert list(again.entries()) == entries
    again.restore()
    assert set(put_away) == {"groups", "links"}
    assert open_fds() == fds
    assert_same(str(run.source), str(run.target))
