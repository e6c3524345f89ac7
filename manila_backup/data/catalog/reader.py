# SPDX-License-Identifier: Apache-2.0
"""Reading a catalog.

Whatever bytes it is fed, a reader raises nothing but
:class:`~manila_backup.data.catalog.errors.CatalogDamaged` (and the OSErrors of its file). Lengths
are checked before memory is given out for them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import msgpack
import zstandard
from blake3 import blake3

from manila_backup.data.catalog import blocks, codec
from manila_backup.data.catalog.entry import Entry
from manila_backup.data.catalog.errors import CatalogDamaged
from manila_backup.data.catalog.order import OrderCheck
from manila_backup.data.catalog.summary import CatalogSummary

_READ_BYTES = 1 << 20
_ENTRY_MIN_BYTES = 8
"""No entry is shorter; bounds the number of entries a block can claim."""

_WINDOW_BYTES = 8 << 20
"""More than a writer of blocks asks for."""

_AT_ONCE_BYTES = 4 << 20
"""Blocks up to this length are held decompressed: all but those of a single huge entry."""


class Source(Protocol):
    """A binary file open for reading at the catalog's first byte, buffered or raw."""

    def read(self, size: int, /) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class _Block:
    payload: bytes
    count: int
    raw_length: int


class CatalogReader:
    """Iterates the entries of a catalog once, streaming; memory: one block.

    With ``expected``, length, count and BLAKE3 of the file are compared too. They are known at the
    end only: whoever must not act on damage reads the whole catalog with :func:`check` first.
    """

    def __init__(self, fileobj: Source, expected: CatalogSummary | None = None) -> None:
        self._file = fileobj
        self._expected = expected
        self._hash = blake3()
        self._bytes = 0
        self._entries = 0

    def __iter__(self) -> Iterator[Entry]:
        """:raises CatalogDamaged: says in which block and how."""
        if self._bytes:
            raise ValueError("a catalog reader reads once")
        if self._take(len(blocks.MAGIC), "magic") != blocks.MAGIC:
            raise CatalogDamaged(what="it does not begin with the magic of this format")
        order = OrderCheck()
        number = 0
        while (block := self._next_block(number)) is not None:
            yield from _entries(block, order, number)
            self._entries += block.count
            number += 1
        self._check_end()

    def _next_block(self, number: int) -> _Block | None:
        header = self._take(blocks.HEADER.size, f"block {number}")
        length, count, raw_length, crc = blocks.HEADER.unpack(header)
        if not length:
            self._check_closing(header, crc, count, raw_length)
            return None
        if length > blocks.PAYLOAD_LIMIT_BYTES or raw_length > blocks.RAW_LIMIT_BYTES:
            raise CatalogDamaged(what=f"block {number} claims an impossible length")
        if not 0 < count <= min(blocks.BLOCK_ENTRIES, raw_length // _ENTRY_MIN_BYTES):
            raise CatalogDamaged(what=f"block {number} claims an impossible number of entries")
        payload = self._take(length, f"block {number}")
        if zlib.crc32(payload) != crc:
            raise CatalogDamaged(what=f"block {number} has a wrong checksum")
        return _Block(payload, count, raw_length)

    def _check_closing(self, header: bytes, crc: int, count: int, total: int) -> None:
        if crc != zlib.crc32(header[4:12]) or count:
            raise CatalogDamaged(what="the closing block has a wrong checksum")
        if total != self._entries & 0xFFFFFFFF or not self._entries:
            raise CatalogDamaged(what="the closing block counts other entries than there are")

    def _check_end(self) -> None:
        if self._file.read(1):
            raise CatalogDamaged(what="there are bytes after the closing block")
        found = CatalogSummary(
            bytes=self._bytes, entries=self._entries, blake3_hex=self._hash.hexdigest()
        )
        if self._expected is not None and self._expected != found:
            raise CatalogDamaged(what="it is not the catalog that the manifest describes")

    def _take(self, length: int, what: str) -> bytes:
        """Exactly so many bytes, read in steps: a claimed length costs no memory before the bytes
        are there."""
        parts: list[bytes] = []
        missing = length
        while missing:
            part = self._file.read(min(missing, _READ_BYTES))
            if not part:
                raise CatalogDamaged(what=f"it is truncated ({what})")
            parts.append(part)
            missing -= len(part)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._hash.update(data)
        self._bytes += length
        return data


def _entries(block: _Block, order: OrderCheck, number: int) -> Iterator[Entry]:
    where = f"block {number}"
    try:
        unpacker, stream = _opened(block, where)
    except _DAMAGE as error:
        raise _damaged(where, error) from error
    unpack, decode, add = unpacker.unpack, codec.decode, order.add
    for index in range(block.count):
        try:
            entry = decode(unpack())
            add(entry)
        except _DAMAGE as error:
            raise _damaged(f"{where}, entry {index}", error) from error
        yield entry
    try:
        is_longer = unpacker.tell() != block.raw_length or (stream is not None and stream.read(1))
    except _DAMAGE as error:
        raise _damaged(where, error) from error
    if is_longer:
        raise CatalogDamaged(what=f"{where} is longer than its entries")


def _opened(block: _Block, where: str) -> tuple[msgpack.Unpacker, Source | None]:
    """A block of usual length is decompressed at once; a longer one step by step, so that a bomb is
    found out before it has grown."""
    if zstandard.get_frame_parameters(block.payload).content_size != block.raw_length:
        raise CatalogDamaged(what=f"{where} has another length than it claims")
    zstd = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
    stream = zstd.stream_reader(block.payload) if block.raw_length > _AT_ONCE_BYTES else None
    unpacker = msgpack.Unpacker(
        stream,
        raw=False,
        strict_map_key=False,
        read_size=min(_READ_BYTES, block.raw_length),
        max_buffer_size=block.raw_length,
    )
    if stream is None:
        unpacker.feed(zstd.decompress(block.payload, allow_extra_data=False))
    return unpacker, stream


_DAMAGE = (
    zstandard.ZstdError,
    msgpack.UnpackException,
    ValueError,  # codec.Malformed is one
    TypeError,
    OverflowError,
    MemoryError,
)


def _damaged(where: str, error: Exception) -> CatalogDamaged:
    if isinstance(error, codec.Malformed):
        return CatalogDamaged(what=f"{where}: {error}")
    if isinstance(error, zstandard.ZstdError):
        return CatalogDamaged(what=f"{where} cannot be decompressed")
    return CatalogDamaged(what=f"{where} is not an entry")


def check(fileobj: Source, summary: CatalogSummary) -> None:
    """Read the whole file, streaming, and compare it with ``summary``; every entry is checked.

    :raises CatalogDamaged: something is not as it should be.
    """
    for _ in CatalogReader(fileobj, summary):
        pass
