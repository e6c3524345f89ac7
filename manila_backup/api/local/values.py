# SPDX-License-Identifier: Apache-2.0
"""Values of request bodies that several nouns read alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manila_backup.api.local.schemas import MAX_PROPERTIES
from manila_backup.exception import Invalid, NotFound


class MetadataItemNotFound(NotFound):
    message = "Metadata item is not found."


def names_in(
    wanted: Mapping[str, Any], name: str | None = None, description: str | None = None
) -> tuple[str | None, str | None]:
    """Name and description, under either of their keys; what is not given stays."""
    return (
        wanted.get("name", wanted.get("display_name", name)),
        wanted.get("description", wanted.get("display_description", description)),
    )


def flag(value: bool | str) -> bool:
    """What ``schemas.FLAG`` has let pass."""
    if isinstance(value, bool):
        return value
    return value.lower() in {"true", "yes", "on", "1"}


def merged_metadata(old: Mapping[str, str], added: Mapping[str, str]) -> dict[str, str]:
    """:raises Invalid: there would be too many."""
    merged = {**old, **added}
    if len(merged) > MAX_PROPERTIES:
        raise Invalid(reason=f"At most {MAX_PROPERTIES} properties are kept.")
    return merged


def without_key(old: Mapping[str, str], key: str) -> dict[str, str]:
    """:raises MetadataItemNotFound:"""
    if key not in old:
        raise MetadataItemNotFound()
    return {name: value for name, value in old.items() if name != key}
