# SPDX-License-Identifier: Apache-2.0
"""The block structure of a catalog file; ``doc/format.md`` has the offset tables."""

from __future__ import annotations

import struct

MAGIC = b"MBKCAT01"

HEADER = struct.Struct(">IIII")
"""Payload length, entries, raw length, CRC-32; in the closing block 0, 0, all entries, CRC-32."""

CLOSING = struct.Struct(">II")
"""What the closing block's CRC-32 covers."""

BLOCK_ENTRIES = 4096
BLOCK_RAW_BYTES = 1 << 20

RAW_LIMIT_BYTES = 1 << 30
"""No block is longer when decompressed: more than enough for one entry (28 million pieces, a file
of 100 TiB), little enough to be refused before memory is given out."""

PAYLOAD_LIMIT_BYTES = RAW_LIMIT_BYTES + (RAW_LIMIT_BYTES >> 6)
"""zstd makes incompressible data a little longer."""
