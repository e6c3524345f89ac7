# SPDX-License-Identifier: Apache-2.0
"""Catalogs: what is written is read, in order, streaming; and the offset tables of the format."""

from __future__ import annotations

import io
import itertools
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from manila_backup.data.catalog.chain import Chain
from manila_backup.data.catalog.entry import Entry, EntryType, TreeContent
from manila_backup.data.catalog.pieces import PIECE_BYTES, count_pieces, cut, root_of
from manila_backup.data.catalog.reader import CatalogReader, check
from manila_backup.data.catalog.writer import CatalogWriter
from tests.data.catalog.conftest import content, directory, entry, regular, sample, write


def read(data: bytes) -> list[Entry]:
    return list(CatalogReader(io.BytesIO(data)))


def test_every_kind_of_entry_comes_back_as_it_was() -> None:
    data, summary = write(sample())
    assert read(data) == sample()
    check(io.BytesIO(data), summary)


def test_summary_is_of_the_whole_file() -> None:
    data, summary = write(sample())
    assert summary.bytes == len(data)
    assert summary.entries == len(sample())
    assert summary.blake3_hex == blake3(data).hexdigest()


def test_the_file_is_as_the_format_document_says() -> None:
    """Read by hand, from the offset tables, without the reader."""
    data, _ = write(sample())
    assert data[:8] == b"MBKCAT01"
    length, count, raw_length, crc = struct.unpack_from(">IIII", data, 8)
    payload = data[24 : 24 + length]
    assert (count, crc) == (len(sample()), zlib.crc32(payload))
    raw = zstandard.ZstdDecompressor().decompress(payload)
    assert len(raw) == raw_length
    unpacker = msgpack.Unpacker(raw=False, strict_map_key=False)
    unpacker.feed(raw)
    items = list(unpacker)
    assert items[0] == {
        "p": b"",
        "t": "d",
        "m": 0o755,
        "u": 1000,
        "g": 1000,
        "mt": -5,
        "ct": 7,
        "i": 42,
        "x": {b"user.r": b"\0"},
    }
    hashes = list(sample()[3].content.pieces)  # type: ignore[union-attr]
    offsets = [(0, 4 << 20), (4 << 20, 4 << 20), (8 << 20, 2 << 20)]
    over = b"".join(
        struct.pack(">QQ", *place) + hash_ for place, hash_ in zip(offsets, hashes, strict=True)
    )
    assert items[3]["c"] == {"k": "t", "s": hashes, "o": blake3(over).digest()}
    assert items[11]["c"]["e"] == [[4096, 100], [5 << 20, 9 << 20]]
    assert (items[11]["w"], items[1]["q"]) == (True, ["owner", "xattr:user.x"])
    assert "c" not in items[9]
    closing = data[24 + length :]
    covered = struct.pack(">II", 0, len(sample()))
    assert closing == bytes(4) + covered + struct.pack(">I", zlib.crc32(covered))


def test_blocks_are_closed_at_4096_entries() -> None:
    names = [directory(b"")] + [regular(b"%06d" % number, 0) for number in range(9000)]
    data, _ = write(names)
    assert [count for _, count, _ in _blocks(data)] == [4096, 4096, 809]
    assert read(data) == names


def test_blocks_are_closed_at_1_mib_and_never_split_an_entry() -> None:
    value = bytes(300_000)
    names = [directory(b"")] + [
        regular(b"%d" % number, 0, xattrs={b"user.a": value}) for number in range(9)
    ]
    data, _ = write(names)
    assert [count for _, count, _ in _blocks(data)] == [5, 4, 1]
    assert read(data) == names


def _blocks(data: bytes) -> list[tuple[int, int, int]]:
    blocks, offset = [], 8
    while True:
        length, count, raw, _ = struct.unpack_from(">IIII", data, offset)
        if not length:
            return blocks
        blocks.append((length, count, raw))
        offset += 16 + length


def test_reading_is_streaming() -> None:
    """The first entries come before the rest of the file has been read."""
    data, _ = write([directory(b"")] + [regular(b"%06d" % number, 0) for number in range(20_000)])
    source = io.BytesIO(data)
    reader = iter(CatalogReader(source))
    next(reader)
    assert source.tell() < len(data) // 2


def test_unknown_keys_are_ignored() -> None:
    item = {"p": b"", "t": "d", "m": 0, "u": 0, "g": 0, "mt": 0, "ct": 0, "i": 1, "new": [1]}
    data = pack([item])
    assert [(entry.path, entry.mode) for entry in read(data)] == [(b"", 0)]


def pack(items: list[object]) -> bytes:
    """A well-formed file around whatever is in it."""
    raw = b"".join(msgpack.packb(item, use_bin_type=True) for item in items)
    payload = zstandard.ZstdCompressor().compress(raw)
    block = struct.pack(">IIII", len(payload), len(items), len(raw), zlib.crc32(payload))
    closing = struct.pack(">II", 0, len(items))
    end = bytes(4) + closing + struct.pack(">I", zlib.crc32(closing))
    return b"MBKCAT01" + block + payload + end


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([regular(b"a")], id="no root"),
        pytest.param([regular(b"")], id="root is a file"),
        pytest.param([directory(b""), directory(b"")], id="twice"),
        pytest.param([directory(b""), regular(b"b"), regular(b"a")], id="descending"),
        pytest.param([directory(b""), regular(b"a/x")], id="parent missing"),
        pytest.param([directory(b""), regular(b"a"), regular(b"a/x")], id="parent is a file"),
        pytest.param(
            [directory(b""), directory(b"a"), regular(b"a0"), regular(b"a/x")], id="back again"
        ),
        pytest.param([directory(b""), regular(b"a", link_group=2)], id="group 2 first"),
        pytest.param([directory(b""), directory(b"a", link_group=1)], id="linked directory"),
        pytest.param([directory(b""), regular(b"a", content=None)], id="no content"),
        pytest.param([directory(b""), directory(b"a", content=content(0))], id="content of a dir"),
        pytest.param(
            [directory(b""), regular(b"a", link_group=1), regular(b"b", link_group=1)],
            id="content twice",
        ),
        pytest.param([directory(b""), directory(b"a", mtime_ns=2**64)], id="number too big"),
        pytest.param([directory(b""), regular(b"..")], id="no name"),
        pytest.param([directory(b""), directory(b"a"), regular(b"a//b")], id="empty name above"),
        pytest.param([directory(b""), directory(b"a"), regular(b"a/")], id="empty name"),
        pytest.param([directory(b""), regular(b"a\0b")], id="NUL"),
    ],
)
def test_the_writer_refuses_what_the_reader_would(entries: list[Entry]) -> None:
    writer = CatalogWriter(io.BytesIO())
    for good in entries[:-1]:
        writer.add(good)
    with pytest.raises(ValueError, match=r"."):
        writer.add(entries[-1])


def test_a_closed_or_empty_writer_refuses() -> None:
    with pytest.raises(ValueError, match="closed or empty"):
        CatalogWriter(io.BytesIO()).close()
    writer = CatalogWriter(io.BytesIO())
    writer.add(directory(b""))
    writer.close()
    for call in (writer.close, lambda: writer.add(directory(b"a"))):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_the_writer_copes_with_short_writes_and_passes_errors_on() -> None:
    class Slow:
        def __init__(self) -> None:
            self.data = bytearray()
            self.fail = False

        def write(self, data: bytes, /) -> int:
            if self.fail:
                raise OSError(28, "full")
            self.data += data[:7]
            return len(data[:7])

    slow = Slow()
    writer = CatalogWriter(slow)
    for item in sample():
        writer.add(item)
    summary = writer.close()
    check(io.BytesIO(bytes(slow.data)), summary)
    writer = CatalogWriter(slow)
    writer.add(directory(b""))
    slow.fail = True
    with pytest.raises(OSError, match="full"):
        writer.close()


# --- the order ------------------------------------------------------------------------------------

_PATHS = st.lists(
    st.sampled_from([b"a", b"a-", b"a.", b"a0", b"b", b"\xff"]), min_size=1, max_size=4
)


@settings(max_examples=200, deadline=None)
@given(paths=st.lists(_PATHS, max_size=12))
def test_a_chain_knows_every_directory_that_may_still_get_children(
    paths: list[list[bytes]],
) -> None:
    wanted = {b""}
    for parts in paths:
        wanted |= {b"/".join(parts[:n]) for n in range(1, len(parts) + 1)}
    chain: Chain[bytes] = Chain()
    done: list[bytes] = []
    for path in sorted(wanted):
        done += [path for path, _ in chain.done_before(path)]
        assert not path or chain.parent_of(path) == path.rpartition(b"/")[0]
        chain.push(path, path)
    done += [path for path, _ in chain.rest()]
    assert sorted(done) == sorted(wanted)
    for one, other in itertools.combinations(done, 2):
        assert not other.startswith(one + b"/"), "a parent is done after its children"
    assert done[-1] == b""


class NaiveChain:
    """What a chain must do, with every path spelled out."""

    def __init__(self) -> None:
        self.open: dict[bytes, int] = {}

    def done_before(self, path: bytes) -> list[tuple[bytes, int]]:
        done = [item for item in self.open.items() if item[0] and path >= item[0] + b"0"]
        for gone, _ in done:
            del self.open[gone]
        return done[::-1]


_ANY_PATHS = st.lists(
    st.lists(st.sampled_from([b"a", b"a-", b"a0", b"aa", b"b"]), min_size=1, max_size=5).map(
        b"/".join
    ),
    min_size=1,
    max_size=15,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(paths=_ANY_PATHS, looks=_ANY_PATHS, unread=st.booleans())
def test_a_chain_is_like_one_with_every_path_spelled_out(
    paths: list[bytes], looks: list[bytes], unread: bool
) -> None:
    """Whatever is asked of it, also when nobody looks at what is done."""
    chain: Chain[int] = Chain()
    naive = NaiveChain()
    for number, path in enumerate(sorted({b"", *paths})):
        done = chain.done_before(path)
        expected = naive.done_before(path)
        if not unread:
            assert list(done) == expected
            assert len(done) == len(expected)
            assert [*done[1:]] == expected[1:]
        chain.push(path, number)
        naive.open[path] = number
        for look in (*looks, b"", path, path + b"/x"):
            assert chain.get(look) == naive.open.get(look)
            assert chain.parent_of(look) == naive.open.get(look.rpartition(b"/")[0])
    assert list(chain.rest()) == list(naive.open.items())[::-1]
    assert not chain.rest()
    assert chain.get(b"") is None


@pytest.mark.parametrize("path", [b"", b"a", b"a/b", b"a/a", b"b"])
def test_a_chain_refuses_what_does_not_go_on_from_it(path: bytes) -> None:
    chain: Chain[int] = Chain()
    for number, good in enumerate([b"", b"a", b"a/b"]):
        chain.push(good, number)
    with pytest.raises(ValueError, match="order"):
        chain.push(path, 9)
    assert [value for _, value in chain.rest()] == [2, 1, 0]


LEVELS = 1500


def deep() -> Iterator[Entry]:
    """Directories in each other, a file beside each: 160 MB of paths, 150 KB the longest."""
    path = b""
    yield directory(path)
    for _ in range(LEVELS):
        path = path + b"/" + b"d" * 100 if path else b"d" * 100
        yield directory(path)
        yield regular(path + b"-", 0)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_the_paths(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        with (tmp_path / "catalog").open("wb") as sink:
            writer = CatalogWriter(sink)
            chain: Chain[bool] = Chain()
            for item in deep():
                chain.done_before(item.path)
                if item.type is EntryType.DIRECTORY:
                    chain.push(item.path, True)
                writer.add(item)
            summary = writer.close()
        assert summary.entries == 2 * LEVELS + 1
        assert max(len(path) for path, _ in chain.rest()) > 100 * LEVELS
        with (tmp_path / "catalog").open("rb") as source:
            check(source, summary)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


# --- pieces ---------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3 * PIECE_BYTES), st.integers(1, 3 * PIECE_BYTES)), max_size=5
    )
)
def test_pieces_are_the_extents_cut_at_multiples(gaps: list[tuple[int, int]]) -> None:
    extents, end = [], 0
    for gap, length in gaps:
        extents.append((end + gap, length))
        end += gap + length
    pieces = list(cut(extents))
    assert count_pieces(extents) == len(pieces)
    assert sum(length for _, length in pieces) == sum(length for _, length in extents)
    for offset, length in pieces:
        assert length > 0
        assert offset // PIECE_BYTES == (offset + length - 1) // PIECE_BYTES
    starts = {offset for offset, _ in extents}
    assert all(offset in starts or offset % PIECE_BYTES == 0 for offset, _ in pieces)


def test_the_root_of_an_empty_file_is_that_of_nothing() -> None:
    assert root_of((), ()) == blake3().digest()
    assert TreeContent(root=root_of((), ())).data_extents(0) == ()


def test_types_are_those_of_lstat() -> None:
    for type_ in EntryType:
        assert EntryType.of_mode(type_.file_format | 0o644) is type_
    assert entry(b"x", EntryType.FIFO).type.is_special
