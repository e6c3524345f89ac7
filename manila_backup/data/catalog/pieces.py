# SPDX-License-Identifier: Apache-2.0
"""Checksums of content: BLAKE3 per piece, and a root over them.

A piece is a data extent cut at the multiples of :data:`PIECE_BYTES`. Holes are not hashed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from blake3 import blake3

ALGORITHM = "blake3"
HASH_BYTES = 32
PIECE_BYTES = 4 << 20

_PLACE = struct.Struct(">QQ")

_ONE = struct.Struct(f">8xQ{HASH_BYTES}s")  # offset 0, length, hash

Piece = tuple[int, int, bytes]
"""Offset, length, hash."""

ROOT_OF_NOTHING = blake3().digest()
"""Of a file without content."""


def cut(extents: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The (offset, length) of each piece of these extents, in order."""
    for offset, length in extents:
        start, end = offset, offset + length
        while start < end:
            stop = min(end, start - start % PIECE_BYTES + PIECE_BYTES)
            yield start, stop - start
            start = stop


def count_pieces(extents: Iterable[tuple[int, int]]) -> int:
    """How many pieces :func:`cut` would give, without making them: cost per extent only."""
    return sum(
        (offset + length - 1) // PIECE_BYTES - offset // PIECE_BYTES + 1
        for offset, length in extents
    )


class Root:
    """The root over (offset, length, hash) of the pieces, fed in order."""

    def __init__(self) -> None:
        self._hash = blake3()

    def add(self, offset: int, length: int, piece_hash: bytes) -> None:
        self._hash.update(_PLACE.pack(offset, length) + piece_hash)

    def digest(self) -> bytes:
        return self._hash.digest()


def root_of(extents: Iterable[tuple[int, int]], pieces: Iterable[bytes]) -> bytes:
    """The root of a whole file.

    :raises ValueError: there are more or fewer pieces than the extents have.
    """
    root = Root()
    for (offset, length), piece_hash in zip(cut(extents), pieces, strict=True):
        root.add(offset, length, piece_hash)
    return root.digest()


def root_of_one(length: int, piece_hash: bytes) -> bytes:
    """The root of a file that is one piece: without holes, of 1 to ``PIECE_BYTES`` bytes."""
    return blake3(_ONE.pack(length, piece_hash)).digest()


def single(content: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """Pieces and root of a file without holes that is at most one piece long.

    :raises ValueError: it is longer.
    """
    if not content:
        return (), ROOT_OF_NOTHING
    if len(content) > PIECE_BYTES:
        raise ValueError("the content is more than one piece")
    piece_hash = blake3(content).digest()
    return (piece_hash,), root_of_one(len(content), piece_hash)
