# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes they are fed, readers answer with the right entries or with "damaged"."""

from __future__ import annotations

import io
import json
import resource
import struct
import tracemalloc
import zlib
from typing import Any

import msgpack
import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from manila_backup.data.catalog import manifest as manifests
from manila_backup.data.catalog.errors import CatalogDamaged, ManifestDamaged
from manila_backup.data.catalog.reader import CatalogReader, check
from manila_backup.data.catalog.summary import CatalogSummary
from tests.data.catalog.conftest import directory, regular, sample, write
from tests.data.catalog.test_catalog import pack, read
from tests.data.catalog.test_manifest import MANIFEST

_MANY = [directory(b""), *(regular(b"%05d" % number, number) for number in range(5000))]
_DATA, _SUMMARY = write(_MANY)
_SMALL, _SMALL_SUMMARY = write(sample())

_MUTATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.floats(0, 1), st.integers(1, 255)),
        st.tuples(st.just("cut"), st.floats(0, 1), st.integers(1, 5000)),
        st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=20)),
        st.tuples(st.just("double"), st.floats(0, 1), st.integers(1, 5000)),
        st.tuples(st.just("end"), st.floats(0, 1), st.just(0)),
    ),
    min_size=1,
    max_size=3,
)


def mutate(data: bytes, mutations: list[tuple[str, float, Any]]) -> bytes:
    for kind, place, value in mutations:
        at = int(place * len(data))
        if kind == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ value]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at] + data[at + value :]
        elif kind == "insert":
            data = data[:at] + value + data[at:]
        elif kind == "double":
            data = data[:at] + data[at : at + value] * 2 + data[at + value :]
        elif kind == "end":
            data = data[:at]
    return data


@settings(max_examples=250, deadline=None)
@given(mutations=_MUTATIONS, small=st.booleans())
def test_a_mutated_catalog_is_damaged(mutations: list[tuple[str, float, Any]], small: bool) -> None:
    whole, summary = (_SMALL, _SMALL_SUMMARY) if small else (_DATA, _SUMMARY)
    data = mutate(whole, mutations)
    if data == whole:
        check(io.BytesIO(data), summary)
        return
    with pytest.raises(CatalogDamaged):
        check(io.BytesIO(data), summary)


@settings(max_examples=150, deadline=None)
@given(mutations=_MUTATIONS)
def test_mutated_entries_in_a_well_formed_file_are_damaged_or_entries(
    mutations: list[tuple[str, float, Any]],
) -> None:
    """With lengths and CRCs put right, so that the damage reaches the decoder."""
    raw = _raw(_SMALL)
    mutated = mutate(raw, mutations)
    payload = zstandard.ZstdCompressor().compress(mutated)
    try:
        found = read(_around(payload, len(sample()), len(mutated)))
    except CatalogDamaged:
        return
    assert [entry.path for entry in found] == sorted({entry.path for entry in found})


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_damaged(data: bytes) -> None:
    for start in (b"", b"MBKCAT01"):
        with pytest.raises(CatalogDamaged):
            read(start + data)


def _raw(data: bytes) -> bytes:
    length = struct.unpack_from(">I", data, 8)[0]
    return zstandard.ZstdDecompressor().decompress(data[24 : 24 + length])


def _around(payload: bytes, count: int, raw_length: int) -> bytes:
    block = struct.pack(">IIII", len(payload), count, raw_length, zlib.crc32(payload))
    closing = struct.pack(">II", 0, count)
    return (
        b"MBKCAT01" + block + payload + bytes(4) + closing + struct.pack(">I", zlib.crc32(closing))
    )


_ROOT = {"p": b"", "t": "d", "m": 0, "u": 0, "g": 0, "mt": 0, "ct": 0, "i": 1}
_FILE = {**_ROOT, "p": b"f", "t": "f", "z": 0, "c": {"k": "t", "s": [], "o": blake3().digest()}}


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({**_FILE, "p": b"/f"}, "component"),
        ({**_FILE, "p": b"f/"}, "component"),
        ({**_FILE, "p": b"../f"}, "component"),
        ({**_FILE, "p": b"."}, "component"),
        ({**_FILE, "p": b".."}, "component"),
        ({**_FILE, "p": b"a\0b"}, "NUL"),
        ({**_FILE, "p": "f"}, "not bytes"),
        ({**_FILE, "t": "x"}, "type"),
        ({**_FILE, "t": 5}, "type"),
        ({**_FILE, "m": 0o10000}, "'m'"),
        ({**_FILE, "u": -1}, "'u'"),
        ({**_FILE, "g": True}, "'g'"),
        ({**_FILE, "mt": 1.5}, "'mt'"),
        ({**_FILE, "z": 2**63}, "'z'"),
        ({**_FILE, "i": None}, "'i'"),
        ({**_FILE, "x": {"user.a": b""}}, "attribute"),
        ({**_FILE, "x": {b"user.a": 1}}, "attribute"),
        ({**_FILE, "x": [b"user.a"]}, "attributes"),
        ({**_FILE, "h": 0}, "'h'"),
        ({**_FILE, "q": [b"owner"]}, "losses"),
        ({**_FILE, "w": 1}, "'w'"),
        ({**_FILE, "c": {"k": "r", "chunks": []}}, "later version"),
        ({**_FILE, "c": [1]}, "content"),
        ({**_FILE, "c": {"k": "t", "s": [b"short"], "o": bytes(32)}}, "length"),
        ({**_FILE, "c": {"k": "t", "s": [bytes(32)], "o": bytes(32)}}, "as many"),
        ({**_FILE, "c": {"k": "t", "s": [], "o": bytes(32)}}, "root"),
        ({**_FILE, "c": {**_FILE["c"], "e": [[0, 1]]}}, "extents"),
        ({**_FILE, "z": 9, "c": {**_FILE["c"], "e": [[5, 2], [0, 2]]}}, "extents"),
        ({**_FILE, "z": 9, "c": {**_FILE["c"], "e": [[5, 0]]}}, "extents"),
        ({**_FILE, "z": 9, "c": {**_FILE["c"], "e": [[5]]}}, "pair"),
        ({**_ROOT, "p": b"l", "t": "l", "z": 1, "l": b""}, "link target"),
        ({**_ROOT, "p": b"l", "t": "l", "z": 1}, "link target"),
        ({key: value for key, value in _FILE.items() if key != "c"}, "content"),
        ({**_FILE, "p": b"d/f"}, "parent"),
        ([1, 2], "not a map"),
        (7, "not a map"),
    ],
)
def test_an_entry_that_no_writer_writes_is_damaged(item: object, says: str) -> None:
    with pytest.raises(CatalogDamaged, match=says):
        read(pack([_ROOT, item]))


def test_the_pattern_of_those_tests_is_itself_valid() -> None:
    assert [entry.path for entry in read(pack([_ROOT, _FILE]))] == [b"", b"f"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "truncated"),
        (b"MBKCAT02" + _SMALL[8:], "magic"),
        (_SMALL[:-16], "truncated"),
        (_SMALL[:-1], "truncated"),
        (_SMALL + b"\0", "after the closing"),
        (_SMALL[:-9] + b"\x01" + _SMALL[-8:], "closing block"),
        (_SMALL[:30] + bytes([_SMALL[30] ^ 1]) + _SMALL[31:], "wrong checksum"),
    ],
)
def test_damage_is_named(data: bytes, says: str) -> None:
    with pytest.raises(CatalogDamaged, match=says):
        read(data)


def test_a_whole_missing_block_is_noticed_without_the_manifest() -> None:
    length = struct.unpack_from(">I", _DATA, 8)[0]
    with pytest.raises(CatalogDamaged):
        read(_DATA[:8] + _DATA[24 + length :])


def test_a_whole_other_catalog_is_not_the_expected_one() -> None:
    check(io.BytesIO(_SMALL), _SMALL_SUMMARY)
    with pytest.raises(CatalogDamaged, match="manifest describes"):
        check(io.BytesIO(_SMALL), _SUMMARY)
    wrong = CatalogSummary(
        bytes=_SMALL_SUMMARY.bytes, entries=_SMALL_SUMMARY.entries, blake3_hex="0" * 64
    )
    with pytest.raises(CatalogDamaged, match="manifest describes"):
        list(CatalogReader(io.BytesIO(_SMALL), wrong))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            b"MBKCAT01" + struct.pack(">IIII", 2**31 - 1, 4096, 2**30, 0) + b"x" * 64,
            id="claims a payload of 2 GiB",
        ),
        pytest.param(
            _around(zstandard.ZstdCompressor().compress(bytes(1 << 29)), 1, 1 << 29),
            id="half a GiB of zeros in 17 KiB",
        ),
        pytest.param(
            _around(zstandard.ZstdCompressor().compress(bytes(1 << 28)), 1, 100),
            id="decompresses to more than it claims",
        ),
        pytest.param(
            _around(
                zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 28)), 1, 100
            ),
            id="does not say how much it decompresses to",
        ),
        pytest.param(
            _around(zstandard.ZstdCompressor().compress(b"\xdd\xff\xff\xff\xff" * 50), 1, 250),
            id="lists of four billion",
        ),
        pytest.param(
            _around(zstandard.ZstdCompressor().compress(b"\x91" * 100_000), 1, 100_000),
            id="a hundred thousand lists in each other",
        ),
    ],
)
def test_claims_cost_no_memory(data: bytes) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(CatalogDamaged):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 1200 << 10


# --- the manifest ---------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(mutations=_MUTATIONS)
def test_a_mutated_manifest_is_damaged_or_means_the_same(
    mutations: list[tuple[str, float, Any]],
) -> None:
    try:
        found = manifests.load(mutate(manifests.dump(MANIFEST), mutations))
    except ManifestDamaged:
        return
    assert found == MANIFEST  # white space


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(key=st.sampled_from(sorted(json.loads(manifests.dump(MANIFEST)))), value=_JSON)
def test_any_value_for_any_key_is_a_manifest_or_damaged(key: str, value: object) -> None:
    item = json.loads(manifests.dump(MANIFEST))
    item[key] = value
    del item["manifest_blake3"]
    compact = json.dumps(item, sort_keys=True, separators=(",", ":"))
    item["manifest_blake3"] = blake3(compact.encode()).hexdigest()
    try:
        manifests.load(json.dumps(item).encode())
    except ManifestDamaged as error:
        str(error).encode()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100))
def test_any_bytes_are_no_manifest(data: bytes) -> None:
    with pytest.raises(ManifestDamaged):
        manifests.load(data)


def test_msgpack_that_is_cut_short_is_damaged() -> None:
    raw = msgpack.packb(_ROOT)
    payload = zstandard.ZstdCompressor().compress(raw[:-1])
    with pytest.raises(CatalogDamaged, match="not an entry"):
        read(_around(payload, 1, len(raw) - 1))


def test_more_than_one_frame_is_damaged() -> None:
    raw = msgpack.packb(_ROOT)
    payload = zstandard.ZstdCompressor().compress(raw)
    assert len(read(_around(payload, 1, len(raw)))) == 1
    for more in (b"x", payload, zstandard.ZstdCompressor().compress(b"")):
        with pytest.raises(CatalogDamaged, match="cannot be decompressed"):
            read(_around(payload + more, 1, len(raw)))


@pytest.mark.parametrize("length", [100, 5 << 20], ids=["at once", "step by step"])
@pytest.mark.parametrize("harm", ["shorter", "longer", "flipped"])
def test_a_block_of_any_length_is_decompressed_with_care(length: int, harm: str) -> None:
    raw = msgpack.packb({**_ROOT, "x": {b"user.x": bytes(length)}})
    payload = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(raw))
    claimed = len(raw) + {"shorter": -1, "longer": 1, "flipped": 0}[harm]
    assert len(read(_around(bytes(payload), 1, len(raw)))) == 1
    if harm == "flipped":
        payload[-6] ^= 1
    with pytest.raises(CatalogDamaged, match="block 0"):
        read(_around(bytes(payload), 1, claimed))
