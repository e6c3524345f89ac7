# SPDX-License-Identifier: Apache-2.0
"""What the manifest says about the catalog file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogSummary:
    """``bytes`` and ``blake3_hex`` are of the whole file, ``entries`` the number of entries."""

    bytes: int
    entries: int
    blake3_hex: str
