# SPDX-License-Identifier: Apache-2.0
"""The catalog gets entries in the order of their paths, as soon as all that comes before is known,
in whatever order and pieces the tree becomes known.
"""

from __future__ import annotations

import io
import random
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manila_backup.data.catalog import codec, writer
from manila_backup.data.catalog.codec import Malformed
from manila_backup.data.catalog.entry import Entry, EntryType, TreeContent
from manila_backup.data.catalog.pieces import Root
from manila_backup.data.catalog.reader import CatalogReader
from manila_backup.data.catalog.writer import CatalogWriter
from manila_backup.data.copy.attributes import Attributes
from manila_backup.data.copy.emission import Emission
from manila_backup.data.copy.groups import Group, Groups, Name
from manila_backup.data.copy.node import Chunk, Node, Slot, State
from manila_backup.data.copy.tasks import Directory, Entered, Record, Whole
from manila_backup.exception import CopyFailed

NAMES = st.sampled_from(
    [b"a", b"a-", b"a-b", b"a.", b"a.txt", b"a\xff", b"a0", b"aa", b"b", b"b!", b" "]
)
_EMPTY = TreeContent(root=Root().digest())


def entry_of(path: bytes, type_: EntryType = EntryType.FILE, **more: Any) -> Entry:
    content = _EMPTY if type_ is EntryType.FILE else None
    fields = {"mode": 0o644, "uid": 0, "gid": 0, "mtime_ns": 0, "ctime_ns": 0, "inode": 1}
    return Entry(path=path, type=type_, content=content, **{**fields, **more})


def entered(path: bytes) -> Entered:
    entry = entry_of(path, EntryType.DIRECTORY)
    return Entered(
        directory=Directory(path=path, source=(1, 1), target=(1, 2), fresh=True),
        entry=entry,
        wanted=Attributes.of_entry(entry),
        losses=(),
        names=[],
    )


# --- trees ----------------------------------------------------------------------------------------

# What is at a name: "file"; "skipped" (no record of it); "gone" (a directory that vanishes);
# ("link", inode); ("dir", names); ("slot", what): known later than the others of its batch;
# ("instead", what): a directory that turns out to be something else.
What = Any

LEAVES = st.one_of(
    st.sampled_from(["file", "file", "skipped", "gone"]),
    st.tuples(st.just("link"), st.integers(1, 3)),
)


def _more(what: st.SearchStrategy[What]) -> st.SearchStrategy[What]:
    return st.one_of(
        st.tuples(st.just("dir"), st.dictionaries(NAMES, what, max_size=6)),
        st.tuples(st.just("dir"), st.dictionaries(NAMES, what, max_size=6)),
        st.tuples(st.sampled_from(["slot", "instead"]), what),
    )


Names = list[tuple[bytes, What]]

TREES = st.dictionaries(NAMES, st.recursive(LEAVES, _more, max_leaves=25), max_size=7)


def paths_of(names: dict[bytes, What], prefix: bytes = b"") -> list[bytes]:
    """Those that the catalog must get, in no order."""
    found = []
    for name, given_what in names.items():
        what = given_what
        while what[0] in ("slot", "instead"):
            what = what[1]
        if what not in ("skipped", "gone"):
            found.append(prefix + name)
        if what[0] == "dir":
            found += paths_of(what[1], prefix + name + b"/")
    return found


def behind(node: Node, names: Names, index: int) -> bytes:
    """The place right behind the last name before ``index`` that has a record: as long as it is not
    known which name comes next, the contents of directories before it have to wait as well."""
    for name, what in reversed(names[:index]):
        if what != "skipped":
            return node.path_of(name) + b"\0"
    return node.path + b"/" if node.path else b"\0"


class Recording(CatalogWriter):
    """The real thing, which tells what it has got so far."""

    def __init__(self, sink: io.BytesIO) -> None:
        super().__init__(sink)
        self.paths: list[bytes] = []

    def add(self, entry: Entry) -> None:
        super().add(entry)
        self.paths.append(entry.path)

    def add_encoded(self, path: bytes, encoded: bytes) -> None:
        super().add_encoded(path, encoded)
        self.paths.append(path)


class Coordinator:
    """Comes to know a tree, one thing after another, in random order and random pieces."""

    def __init__(self, tree: dict[bytes, What], draw: random.Random) -> None:
        self._tree = tree
        self._draw = draw
        self._sink = io.BytesIO()
        self.catalog = Recording(self._sink)
        self._table = Groups()
        self._groups: dict[int, Group] = {}
        self.emission = Emission(self.catalog, self._table)
        # What is not known yet: where it would stand, and how it becomes known.
        self._unknown: list[tuple[bytes, Callable[[], None]]] = []

    def go(self) -> list[Entry]:
        wanted = sorted([b"", *paths_of(self._tree)])
        root = Node(None, b"")
        self.emission.start(root)
        self.emission.run()
        assert self.catalog.paths == []
        self._later(b"", partial(self._enter, root, self._tree))
        while self._unknown:
            self._unknown.pop(self._draw.randrange(len(self._unknown)))[1]()
            self.emission.run()
            first = min((place for place, _ in self._unknown), default=b"\xff" * 9)
            # All that can be written is, and nothing else.
            assert self.catalog.paths == [path for path in wanted if path < first]
        assert self.catalog.paths == wanted
        assert self.emission.buffered_bytes == 0
        self.catalog.close()
        self._table.close()
        return list(CatalogReader(io.BytesIO(self._sink.getvalue())))

    def _later(self, place: bytes, act: Callable[[], None]) -> None:
        self._unknown.append((place, act))

    def _enter(self, node: Node, names: dict[bytes, What]) -> None:
        node.state = State.ENTERED
        node.enter(entered(node.path), keep_entry=True)
        self._list(node, sorted(names.items()), 0)

    def _list(self, node: Node, names: Names, start: int) -> None:
        """Hand out a batch of the names from ``start`` on, which may be none."""
        end = self._draw.randrange(start, len(names) + 1)
        chunk = Chunk()
        node.chunks.append(chunk)
        self._known_later(node, chunk, names, (start, end))
        if end < len(names) or self._draw.random() < 0.3:
            self._later(behind(node, names, end), partial(self._list, node, names, end))
        else:
            node.is_listed = True

    def _known_later(self, node: Node, chunk: Chunk, names: Names, batch: tuple[int, int]) -> None:
        place = behind(node, names, batch[0])
        self._later(place, partial(self._known, node, chunk, names, batch))

    def _known(self, node: Node, chunk: Chunk, names: Names, batch: tuple[int, int]) -> None:
        start, end = batch
        if start < end and self._draw.random() < 0.4:  # the task gives a part of it back
            end = self._draw.randrange(start, end)
            chunk.tail = Chunk()
            self._known_later(node, chunk.tail, names, (end, batch[1]))
        records: list[Record] = []
        for name, what in names[start:end]:
            if what != "skipped":
                records.append((name, self._value(node, name, what)))
        self.emission.known(chunk, records)

    def _value(self, node: Node, name: bytes, what: What) -> Any:
        path = node.path_of(name)
        if what == "file":
            return codec.encode(entry_of(path))
        if what == "skipped":
            return None
        if what[0] == "link":
            return self._link(path, what[1])
        if what[0] == "slot":
            slot = Slot()
            self._later(path, partial(self._fill, slot, node, name, what[1]))
            return slot
        child = Node(node, name)
        if what == "gone":
            self._later(path, partial(setattr, child, "state", State.GONE))
        elif what[0] == "dir":
            self._later(path, partial(self._enter, child, what[1]))
        else:
            self._later(path, partial(self._instead, child, what[1]))
        return child

    def _fill(self, slot: Slot, node: Node, name: bytes, what: What) -> None:
        slot.value = self._value(node, name, what)

    def _instead(self, child: Node, what: What) -> None:
        assert child.parent is not None
        child.state = State.INSTEAD
        place = child.path
        self._later(place, partial(self._fill, child.instead, child.parent, child.name, what))

    def _link(self, path: bytes, inode: int) -> Name:
        if inode not in self._groups:
            group = self._groups[inode] = Group()
            entry = entry_of(path, inode=inode)
            group.copied(Whole(entry=entry, links=99, made=(1, inode)))
        return Name(self._groups[inode], ())


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(tree=TREES, seed=st.integers(0, 1 << 32))
def test_entries_come_in_order_as_soon_as_they_can(tree: dict[bytes, What], seed: int) -> None:
    entries = Coordinator(tree, random.Random(seed)).go()
    assert [entry.path for entry in entries] == sorted([b"", *paths_of(tree)])
    first_of: dict[int, bytes] = {}
    for entry in entries:
        if entry.link_group is not None:
            first_of.setdefault(entry.inode, entry.path)
            assert (entry.content is not None) is (first_of[entry.inode] == entry.path)


SIBLINGS: dict[bytes, What] = {
    b"a": ("dir", {b"x": "file", b"-": "file", b"a": ("dir", {b"x": "file"})}),
    b"a-": ("dir", {b"y": "file", b"a": ("dir", {})}),
    b"a-b": ("dir", {b"z": "file"}),
    b"a.txt": "file",
    b"a0": ("dir", {b"w": "file"}),
    b"a\xff": "file",
}


def test_siblings_stand_between_a_directory_and_what_is_in_it() -> None:
    entries = Coordinator(SIBLINGS, random.Random(1)).go()
    assert [entry.path for entry in entries] == [
        b"",
        b"a",
        b"a-",
        b"a-/a",
        b"a-/y",
        b"a-b",
        b"a-b/z",
        b"a.txt",
        b"a/-",
        b"a/a",
        b"a/a/x",
        b"a/x",
        b"a0",
        b"a0/w",
        b"a\xff",
    ]


@pytest.mark.parametrize("seed", range(20))
def test_wide_trees(seed: int) -> None:
    draw = random.Random(seed)

    def directory(depth: int) -> dict[bytes, What]:
        names: dict[bytes, What] = {}
        for _ in range(draw.randrange(40 >> depth, 60 >> depth)):
            name = bytes(draw.choice(b"ab-./0"[: 4 if depth else 6]) for _ in range(3))
            name = name.replace(b"/", b"0").strip(b".") or b"n"
            kind = draw.random()
            if kind < 0.2 and depth < 3:
                names[name] = ("dir", directory(depth + 1))
            elif kind < 0.3:
                names[name] = ("slot", draw.choice(["file", "gone", ("link", 1)]))
            else:
                names[name] = draw.choice(["file", "file", "skipped", ("link", 2)])
        return names

    Coordinator(directory(0), draw).go()


def test_an_entry_that_the_format_cannot_hold_fails_by_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "_ENTRY_LIMIT_BYTES", 10_000)
    emission = Emission(CatalogWriter(io.BytesIO()), Groups())
    root = Node(None, b"")
    emission.start(root)
    root.enter(entered(b""), keep_entry=True)
    chunk = Chunk()
    chunk.records = [(b"large", b"x" * 10_001)]
    root.chunks.append(chunk)
    with pytest.raises(CopyFailed) as caught:
        emission.run()
    assert caught.value.path == "large"


def test_a_mistake_of_the_engine_is_no_failure_of_the_tree() -> None:
    emission = Emission(CatalogWriter(io.BytesIO()), Groups())
    root = Node(None, b"")
    emission.start(root)
    root.enter(entered(b""), keep_entry=True)
    chunk = Chunk()
    chunk.records = [(name, codec.encode(entry_of(name))) for name in (b"b", b"a")]
    root.chunks.append(chunk)
    with pytest.raises(Malformed):
        emission.run()


# --- deep trees -----------------------------------------------------------------------------------


def chain(levels: int) -> list[Node]:
    nodes = [Node(None, b"")]
    for level in range(levels):
        nodes.append(Node(nodes[-1], b"%d" % (level % 10)))
    return nodes


def test_paths_of_deep_directories() -> None:
    nodes = chain(5000)
    names: list[bytes] = []
    for level, node in enumerate(nodes):
        assert node.depth == level
        if level in (0, 1, 63, 64, 65, 100, 1023, 1024, 1025, 2047, 2048, 2049, 5000):
            assert node.path == b"/".join(names)
            assert node.path_of(b"f") == b"/".join([*names, b"f"])
        names.append(b"%d" % (level % 10))


def test_a_deep_tree_does_not_hold_the_path_of_each_directory() -> None:
    """They would be 300 MB."""
    tracemalloc.start()
    try:
        nodes = chain(25_000)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 25_000 * 1000
    assert sys.getsizeof(nodes[-1].path) > 49_000


def test_a_deep_tree_is_written() -> None:
    """Directory in directory, each with a sibling before and one behind what is in it."""
    sink = io.BytesIO()
    catalog = Recording(sink)
    table = Groups()
    emission = Emission(catalog, table)
    node = Node(None, b"")
    emission.start(node)
    levels = 1500
    node.enter(entered(b""), keep_entry=True)
    for _ in range(levels):
        child = Node(node, b"d")
        chunk = Chunk()
        path = node.path
        prefix = path + b"/" if path else path
        records = [
            (b"d", child),
            (b"d-", codec.encode(entry_of(prefix + b"d-"))),
            (b"d0", codec.encode(entry_of(prefix + b"d0"))),
        ]
        emission.known(chunk, records)
        node.chunks.append(chunk)
        node.is_listed = True
        child.enter(entered(child.path), keep_entry=True)
        node = child
    emission.run()
    # The last directory is not listed yet; what comes behind it waits for that.
    assert len(catalog.paths) == 1 + 2 * levels
    assert catalog.paths == sorted(catalog.paths)
    node.is_listed = True
    emission.run()
    assert len(catalog.paths) == 1 + 3 * levels
    assert catalog.paths == sorted(catalog.paths)
    assert emission.buffered_bytes == 0
    table.close()
