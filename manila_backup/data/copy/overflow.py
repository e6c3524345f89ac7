# SPDX-License-Identifier: Apache-2.0
"""A table on disk, for what a hostile tree would otherwise make grow in memory.

Records are appended to an unnamed temporary file; in memory there are 16 bytes per slot of an open
hash table that is at most two thirds full. When most of the file is records that were taken out,
the others move to a new one: what goes in and out again and again costs no space.
"""

from __future__ import annotations

import errno
import os
import struct
import tempfile
from array import array
from typing import IO

_RECORD = struct.Struct("=II")
"""Lengths of key and value; key and value follow."""

_FREE, _TAKEN_OUT = 0, 1
"""Instead of a record's offset; offsets begin at 2."""

_FIRST_SLOTS = 1 << 10

_GARBAGE_BYTES = 16 << 20
"""So much, at least, has to be worth it."""


class Overflow:
    """Bytes by key. The file is made when the first value comes, and gone when this process is."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._end = 2
        self._garbage = 0
        self._count = 0
        self._used = 0  # those taken out, too
        self._hashes = array("q")
        self._offsets = array("Q")
        self._clear(_FIRST_SLOTS)

    def __len__(self) -> int:
        return self._count

    def put(self, key: bytes, value: bytes) -> None:
        """Replaces a value that is there.

        :raises OSError: there is no room for it.
        """
        self.pop(key)
        if 3 * (self._used + 1) > 2 * len(self._offsets):
            self._rehash(2 * (self._count + 1))
        self._insert(hash(key), self._append(key, value))
        self._count += 1

    def get(self, key: bytes) -> bytes | None:
        """:raises OSError:"""
        found = self._find(key)
        return found[1] if found is not None else None

    def pop(self, key: bytes) -> bytes | None:
        """Take it out; None if it is not there.

        :raises OSError:
        """
        found = self._find(key)
        if found is None:
            return None
        slot, value = found
        self._offsets[slot] = _TAKEN_OUT
        self._count -= 1
        self._garbage += _RECORD.size + len(key) + len(value)
        if not self._count:
            self._forget_all()
        elif self._garbage > max(_GARBAGE_BYTES, self._end // 2):
            self._move_all()
        return value

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    # --- the table --------------------------------------------------------------------------------

    def _find(self, key: bytes) -> tuple[int, bytes] | None:
        """Its slot and value."""
        if not self._count:
            return None
        wanted, mask = hash(key), len(self._offsets) - 1
        slot = wanted & mask
        while (offset := self._offsets[slot]) != _FREE:
            if offset != _TAKEN_OUT and self._hashes[slot] == wanted:
                found, value = self._read_from(self._file, offset)
                if found == key:
                    return slot, value
            slot = (slot + 1) & mask
        return None

    def _insert(self, hashed: int, offset: int) -> None:
        mask = len(self._offsets) - 1
        slot = hashed & mask
        while self._offsets[slot] != _FREE:
            slot = (slot + 1) & mask
        self._hashes[slot] = hashed
        self._offsets[slot] = offset
        self._used += 1

    def _rehash(self, at_least: int) -> None:
        slots = _FIRST_SLOTS
        while slots < at_least:
            slots *= 2
        old = zip(self._hashes, self._offsets, strict=True)
        self._clear(slots)
        for hashed, offset in old:
            if offset > _TAKEN_OUT:
                self._insert(hashed, offset)

    def _clear(self, slots: int) -> None:
        self._hashes = array("q", [0]) * slots
        self._offsets = array("Q", [_FREE]) * slots
        self._used = 0

    def _forget_all(self) -> None:
        self._clear(_FIRST_SLOTS)
        self._end = 2
        self._garbage = 0
        if self._file is not None:
            os.ftruncate(self._file.fileno(), 0)

    def _move_all(self) -> None:
        """Leave what was taken out behind, in a file that is given up."""
        left, self._file, self._end, self._garbage = self._file, None, 2, 0
        try:
            for slot, offset in enumerate(self._offsets):
                if offset > _TAKEN_OUT:
                    key, value = self._read_from(left, offset)
                    self._offsets[slot] = self._append(key, value)
        finally:
            if left is not None:
                left.close()

    # --- the file ---------------------------------------------------------------------------------

    def _append(self, key: bytes, value: bytes) -> int:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by close()
        offset = self._end
        rest = memoryview(_RECORD.pack(len(key), len(value)) + key + value)
        while rest:
            written = os.pwrite(self._file.fileno(), rest, self._end)
            self._end += written
            rest = rest[written:]
        return offset

    def _read_from(self, file: IO[bytes] | None, offset: int) -> tuple[bytes, bytes]:
        if file is None:
            raise OSError(errno.EIO, "a temporary file is closed")
        fd = file.fileno()
        key_bytes, value_bytes = _RECORD.unpack(os.pread(fd, _RECORD.size, offset))
        data = os.pread(fd, key_bytes + value_bytes, offset + _RECORD.size)
        if len(data) != key_bytes + value_bytes:
            raise OSError(errno.EIO, "a temporary file has become shorter")
        return data[:key_bytes], data[key_bytes:]
