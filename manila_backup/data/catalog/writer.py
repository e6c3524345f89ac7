# SPDX-License-Identifier: Apache-2.0
"""Writing a catalog."""

from __future__ import annotations

import zlib
from typing import Protocol

import zstandard
from blake3 import blake3

from manila_backup.data.catalog import blocks, codec
from manila_backup.data.catalog.entry import Entry, EntryType
from manila_backup.data.catalog.order import OrderCheck
from manila_backup.data.catalog.summary import CatalogSummary

_LEVEL = 1
"""Two thirds of what is left are hashes: level 3 makes it 1 % smaller for twice the time."""

_ENTRY_LIMIT_BYTES = blocks.RAW_LIMIT_BYTES - blocks.BLOCK_RAW_BYTES


class Sink(Protocol):
    """A binary file open for writing, buffered or raw."""

    def write(self, data: bytes, /) -> int | None: ...


class CatalogWriter:
    """Entries in, blocks out. Memory: one block. Without ``close`` the file is truncated: a reader
    refuses it.
    """

    def __init__(self, fileobj: Sink) -> None:
        self._file = fileobj
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self._hash = blake3()
        self._order = OrderCheck()
        self._block: list[bytes] = []
        self._block_bytes = 0
        self._bytes = 0
        self._entries = 0
        self._closed = False
        self._write(blocks.MAGIC)

    def add(self, entry: Entry) -> None:
        """Append one entry.

        :raises ValueError: not strictly after the one before in raw byte order of the path, its
            parent directory is missing, or the format cannot hold it. Nothing was written.
        :raises OSError: as the file's write.
        """
        if self._closed:
            raise ValueError("the catalog is closed")
        encoded = _encoded(entry)
        self._order.add(entry)
        self._append(encoded)

    def add_encoded(self, path: bytes, encoded: bytes) -> None:
        """Append the entry of ``path`` as :func:`~.codec.encode_file` made it: a file with content
        of its own and no hard-link group. Raises as :meth:`add` does.
        """
        if self._closed:
            raise ValueError("the catalog is closed")
        if len(encoded) > _ENTRY_LIMIT_BYTES:
            raise ValueError("one entry is larger than a block can be")
        self._order.add_file(path)
        self._append(encoded)

    def _append(self, encoded: bytes) -> None:
        self._block.append(encoded)
        self._block_bytes += len(encoded)
        self._entries += 1
        if len(self._block) >= blocks.BLOCK_ENTRIES or self._block_bytes >= blocks.BLOCK_RAW_BYTES:
            self._flush_block()

    def close(self) -> CatalogSummary:
        """Write what is left and the closing block. Neither flushes nor fsyncs nor closes the
        file: that is the caller's.

        :raises ValueError: closed already, or without any entry.
        """
        if self._closed or not self._entries:
            raise ValueError("the catalog is closed or empty")
        if self._block:
            self._flush_block()
        self._closed = True
        closing = blocks.CLOSING.pack(0, self._entries & 0xFFFFFFFF)
        self._write(b"\0\0\0\0" + closing + zlib.crc32(closing).to_bytes(4, "big"))
        return CatalogSummary(
            bytes=self._bytes, entries=self._entries, blake3_hex=self._hash.hexdigest()
        )

    def _flush_block(self) -> None:
        payload = self._compressor.compress(b"".join(self._block))
        header = blocks.HEADER.pack(
            len(payload), len(self._block), self._block_bytes, zlib.crc32(payload)
        )
        self._block.clear()
        self._block_bytes = 0
        self._write(header + payload)

    def _write(self, data: bytes) -> None:
        self._hash.update(data)
        self._bytes += len(data)
        rest = memoryview(data)
        while rest:
            # A raw file may take less than it is given; a buffered one answers with the length.
            written = self._file.write(bytes(rest) if len(rest) != len(data) else data)
            if not written:
                raise BlockingIOError("the catalog's file does not block")
            rest = rest[written:]


def _encoded(entry: Entry) -> bytes:
    if entry.content is not None and entry.type is not EntryType.FILE:
        raise ValueError("only regular files have content")
    try:
        encoded = codec.encode(entry)
    except OverflowError as error:
        raise ValueError("a number does not fit the format") from error
    if len(encoded) > _ENTRY_LIMIT_BYTES:
        raise ValueError("one entry is larger than a block can be")
    return encoded
