# SPDX-License-Identifier: Apache-2.0
"""Entries to bytes and back: the fast ways make what the slow ones would."""

from __future__ import annotations

import dataclasses
import io
import pickle
from typing import Any

import msgpack
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from manila_backup.data.catalog import codec
from manila_backup.data.catalog.entry import (
    Entry,
    EntryType,
    TreeContent,
    new_content,
    new_entry,
)
from manila_backup.data.catalog.pieces import PIECE_BYTES, cut, root_of, single
from manila_backup.data.catalog.reader import check
from manila_backup.data.catalog.writer import CatalogWriter
from tests.data.catalog.conftest import content, directory, entry, regular, sample, write
from tests.data.catalog.test_catalog import read


def by_the_book(item: Entry) -> bytes:
    """The map of ``doc/format.md``, key by key."""
    made: dict[str, Any] = {"p": item.path, "t": item.type.value, "m": item.mode}
    made |= {"u": item.uid, "g": item.gid, "mt": item.mtime_ns, "ct": item.ctime_ns}
    made["i"] = item.inode
    if item.type in (EntryType.FILE, EntryType.SYMLINK):
        made["z"] = item.size
    if item.type in (EntryType.CHAR_DEVICE, EntryType.BLOCK_DEVICE):
        made["r"] = item.rdev
    if item.type is EntryType.SYMLINK:
        made["l"] = item.link_target
    if item.xattrs:
        made["x"] = dict(item.xattrs)
    if item.link_group is not None:
        made["h"] = item.link_group
    if item.content is not None:
        made["c"] = {"k": "t", "s": list(item.content.pieces), "o": item.content.root}
        if item.content.extents is not None:
            made["c"]["e"] = [list(extent) for extent in item.content.extents]
    if item.losses:
        made["q"] = list(item.losses)
    if item.changed:
        made["w"] = True
    packed: bytes = msgpack.packb(made, use_bin_type=True)
    return packed


_NAMES = st.binary(min_size=1, max_size=300).filter(
    lambda name: not {0, ord("/")} & set(name) and name not in (b".", b"..")
)
_SIZES = st.one_of(
    st.integers(0, 70_000),
    st.sampled_from([PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES]),
)
_COMMON = st.fixed_dictionaries(
    {
        "path": _NAMES,
        "mode": st.integers(0, 0o7777),
        "uid": st.integers(0, 2**32 - 1),
        "gid": st.integers(0, 2**32 - 1),
        "mtime_ns": st.integers(-(2**63), 2**64 - 1),
        "ctime_ns": st.integers(-(2**63), 2**64 - 1),
        "inode": st.integers(0, 2**64 - 1),
        "xattrs": st.dictionaries(_NAMES, st.binary(max_size=300), max_size=2),
        "losses": st.lists(st.sampled_from(["owner", "xattr:ü", "link"]), max_size=2).map(tuple),
    }
)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    type_ = draw(st.sampled_from([EntryType.FILE, EntryType.FILE, *EntryType]))
    more: dict[str, Any] = {}
    if type_ is EntryType.SYMLINK:
        more = {"link_target": draw(_NAMES), "size": draw(_SIZES)}
    elif type_ in (EntryType.CHAR_DEVICE, EntryType.BLOCK_DEVICE):
        more = {"rdev": draw(st.integers(0, 2**64 - 1))}
    elif type_ is EntryType.FILE:
        size = draw(_SIZES)
        gap = draw(st.integers(0, size // 2))
        extents = None if not gap else ((gap, size - 2 * gap),) if size > 2 * gap else ()
        more = {"size": size, "content": content(size, extents), "changed": draw(st.booleans())}
    if type_ is not EntryType.DIRECTORY and draw(st.booleans()):
        more["link_group"] = 1
    return Entry(type=type_, **draw(_COMMON), **more)


@settings(max_examples=200, deadline=None)
@given(entries())
def test_an_entry_is_encoded_by_the_book_and_comes_back(item: Entry) -> None:
    encoded = codec.encode(item)
    assert encoded == by_the_book(item)
    decoded = codec.decode(msgpack.unpackb(encoded, strict_map_key=False))
    assert decoded == item
    assert type(decoded) is Entry
    data, _ = write([directory(b""), item])
    assert read(data) == [directory(b""), item]


@settings(max_examples=100, deadline=None)
@given(common=_COMMON, size=_SIZES)
def test_a_file_without_holes_is_encoded_without_an_entry(common: Any, size: int) -> None:
    made = content(size)
    item = Entry(type=EntryType.FILE, size=size, content=made, **common)
    numbers = [common[key] for key in ("mode", "uid", "gid", "mtime_ns", "ctime_ns", "inode")]
    for xattrs in (common["xattrs"], None):
        encoded = codec.encode_file(
            item.path, *numbers, size, xattrs, made.pieces, made.root, item.losses
        )
        assert encoded == by_the_book(dataclasses.replace(item, xattrs=xattrs or {}))


@settings(max_examples=100, deadline=None)
@given(item=entries(), length=st.sampled_from([0, 1, 255, 256, 65535, 65536, 200_000]))
def test_an_encoded_entry_can_be_moved_to_another_path(item: Entry, length: int) -> None:
    path = b"p" * length
    there = codec.moved(codec.encode(item), path)
    assert there == by_the_book(dataclasses.replace(item, path=path))
    assert codec.moved(there, item.path) == by_the_book(item)


def test_what_msgpack_cannot_hold_is_refused_as_ever() -> None:
    with pytest.raises(OverflowError):
        codec.encode_file(b"f", 0, 0, 0, 2**64, 0, 0, 0, None, (), single(b"")[1])


# --- each value that is not what it must be -------------------------------------------------------

_KEYS = ["p", "t", "m", "u", "g", "z", "mt", "ct", "i", "c", "x", "h", "q", "w", "l", "r"]
_ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=40),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["k", "s", "o", "e"]), st.binary(max_size=3), max_size=3),
)


@settings(max_examples=300, deadline=None)
@given(item=entries(), key=st.sampled_from(_KEYS), odd=_ODD, inner=st.sampled_from([None, *"kseo"]))
def test_an_odd_value_is_malformed_or_kept(
    item: Entry, key: str, odd: object, inner: str | None
) -> None:
    """Never another exception, and what is taken is encoded as the same again."""
    unpacked = msgpack.unpackb(by_the_book(item), strict_map_key=False)
    if inner is not None and "c" in unpacked:
        unpacked["c"][inner] = odd
    else:
        unpacked[key] = odd
    try:
        decoded = codec.decode(unpacked)
    except codec.Malformed:
        return
    again = msgpack.unpackb(codec.encode(decoded), strict_map_key=False)
    empty: dict[str, Any] = {"x": {}, "q": [], "w": False}
    known = {"p", "t", "m", "u", "g", "mt", "ct", "i", "x", "h", "c", "q", "w"}
    known |= {"z"} if decoded.type in (EntryType.FILE, EntryType.SYMLINK) else set()
    known |= {"l"} if decoded.type is EntryType.SYMLINK else set()
    known |= {"r"} if "DEVICE" in decoded.type.name else set()
    kept = {name: value for name, value in unpacked.items() if name in known}
    assert empty | again == empty | kept


@pytest.mark.parametrize("key", ["p", "t", "m", "u", "g", "z", "mt", "ct", "i"])
def test_no_key_of_a_file_may_be_missing(key: str) -> None:
    unpacked = msgpack.unpackb(by_the_book(regular(b"f")), strict_map_key=False)
    codec.decode(dict(unpacked))
    del unpacked[key]
    with pytest.raises(codec.Malformed):
        codec.decode(unpacked)


# --- fast construction ----------------------------------------------------------------------------


def test_entries_made_fast_are_entries() -> None:
    for item in sample():
        values = [getattr(item, field.name) for field in dataclasses.fields(Entry)]
        made = new_entry(*values)
        assert made == item
        assert type(made) is Entry
        assert pickle.loads(pickle.dumps(item)) == item  # noqa: S301
        assert pickle.loads(pickle.dumps(codec.decode(_unpacked(item)))) == item  # noqa: S301
        assert dataclasses.replace(made, path=b"z") == dataclasses.replace(item, path=b"z")
        with pytest.raises(dataclasses.FrozenInstanceError):
            made.path = b"other"  # type: ignore[misc]


def _unpacked(item: Entry) -> object:
    return msgpack.unpackb(by_the_book(item), strict_map_key=False)


def test_content_made_fast_is_content() -> None:
    slow = TreeContent(extents=((1, 2),), pieces=(bytes(32),), root=bytes(32))
    fast = new_content(((1, 2),), (bytes(32),), bytes(32))
    assert (fast, hash(fast), type(fast)) == (slow, hash(slow), TreeContent)
    with pytest.raises(dataclasses.FrozenInstanceError):
        fast.root = b""  # type: ignore[misc]


# --- single pieces --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 100_000, PIECE_BYTES])
def test_a_single_piece_has_the_hashes_of_the_format(size: int) -> None:
    data = bytes(size)
    extents = ((0, size),) if size else ()
    hashes = tuple(blake3(data[start : start + n]).digest() for start, n in cut(extents))
    assert single(data) == (hashes, root_of(extents, hashes))


def test_more_than_one_piece_is_not_single() -> None:
    with pytest.raises(ValueError, match="more than one piece"):
        single(bytes(PIECE_BYTES + 1))


# --- encoded entries into the catalog -------------------------------------------------------------


def encoded(path: bytes, data: bytes = b"abc") -> tuple[bytes, bytes]:
    pieces, root = single(data)
    return path, codec.encode_file(
        path, 0o644, 1000, 1000, -5, 7, 42, len(data), None, pieces, root
    )


def test_encoded_entries_make_the_same_catalog() -> None:
    names = [b"a", b"b", b"d", b"d/a", b"d/b", b"e"]
    sinks = io.BytesIO(), io.BytesIO()
    slow, fast = map(CatalogWriter, sinks)
    for writer in (slow, fast):
        writer.add(directory(b""))
    for name in names:
        if name == b"d":
            slow.add(directory(name))
            fast.add(directory(name))
            continue
        pieces, root = single(name)
        slow.add(regular(name, len(name), content=TreeContent(pieces=pieces, root=root)))
        fast.add_encoded(*encoded(name, name))
    summary = fast.close()
    assert slow.close() == summary
    assert sinks[0].getvalue() == sinks[1].getvalue()
    check(io.BytesIO(sinks[1].getvalue()), summary)


_GOOD = [directory(b""), directory(b"d"), regular(b"d/b"), directory(b"d0"), regular(b"f")]


@pytest.mark.parametrize(
    ("path", "after", "says"),
    [
        (b"a", 0, "root"),
        (b"", 1, "order"),
        (b"/f", 1, "component"),
        (b"d/b", 3, "order"),
        (b"d/a", 3, "order"),
        (b"x/f", 3, "parent"),
        (b"d/b/x", 3, "parent"),
        (b"d/..", 2, "component"),
        (b"d0/", 4, "component"),
        (b"d0/.", 4, "component"),
        (b"f/x", 5, "parent"),
        (b"x\0", 5, "NUL"),
    ],
)
def test_an_encoded_entry_that_cannot_stand_there_is_refused_and_does_not_count(
    path: bytes, after: int, says: str
) -> None:
    sink = io.BytesIO()
    writer = CatalogWriter(sink)
    for item in _GOOD[:after]:
        writer.add(item)
    with pytest.raises(codec.Malformed, match=says):
        writer.add_encoded(*encoded(path))
    for item in _GOOD[after:]:
        writer.add(item)
    writer.close()
    assert read(sink.getvalue()) == _GOOD
    with pytest.raises(ValueError, match="closed"):
        writer.add_encoded(*encoded(b"z"))


def test_an_entry_that_no_block_can_hold_is_refused() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 30

    writer = CatalogWriter(io.BytesIO())
    writer.add(directory(b""))
    with pytest.raises(ValueError, match="larger than a block"):
        writer.add_encoded(b"f", Huge())


def test_an_entry_longer_than_blocks_usually_are_comes_back() -> None:
    big = entry(b"f", EntryType.FIFO, xattrs={b"user.x": bytes(5 << 20)})
    data, summary = write([directory(b""), regular(b"a"), big, regular(b"g")])
    assert read(data) == [directory(b""), regular(b"a"), big, regular(b"g")]
    check(io.BytesIO(data), summary)
