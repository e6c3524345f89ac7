# SPDX-License-Identifier: Apache-2.0
"""The manifest: what a stored backup is. ``doc/format.md`` is the reference."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from manila_backup.data.catalog import pieces
from manila_backup.data.catalog.errors import ManifestDamaged
from manila_backup.data.catalog.summary import CatalogSummary
from manila_backup.types import BackupDescription, BackupRef, Counters, StoredBackup

FORMAT = "manila-backup-tree"
VERSION = 1
LIMIT_BYTES = 1 << 20

_CHECKSUM = {"algorithm": pieces.ALGORITHM, "piece_bytes": pieces.PIECE_BYTES}
_SELF = "manifest_blake3"
_NUMBER_MAX = (1 << 63) - 1
_ID = re.compile(r"(?!\.\.?\Z)[A-Za-z0-9_.-]{1,255}\Z")
_UTF8 = re.compile(r"[^\ud800-\udfff]*\Z")
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_CREATED_AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """``description.ref`` is what the manifest claims; whoever loads it from a directory compares
    it with the directory's name.
    """

    description: BackupDescription
    driver: str = "nfs"
    catalog: CatalogSummary
    counters: Counters
    stored_bytes: int
    logical_bytes: int
    version: int = VERSION

    def stored(self) -> StoredBackup:
        """As the rest of the service knows it."""
        return StoredBackup(
            description=self.description,
            driver=self.driver,
            counters=self.counters,
            stored_bytes=self.stored_bytes,
            logical_bytes=self.logical_bytes,
            format_version=self.version,
        )


def dump(manifest: Manifest) -> bytes:
    """The bytes of ``manifest.json``.

    :raises ValueError: longer than :data:`LIMIT_BYTES`, or a value that ``load`` would refuse.
    """
    item = _item(manifest)
    item[_SELF] = _checksum(item)
    data = json.dumps(item, indent=1, sort_keys=True).encode() + b"\n"
    try:
        load(data)
    except ManifestDamaged as error:
        raise ValueError(str(error)) from error
    return data


def load(data: bytes) -> Manifest:
    """Read and check. Give it at most ``LIMIT_BYTES + 1`` bytes: more is refused anyway.

    :raises ManifestDamaged: whatever is wrong with it, a later version included.
    """
    item = _parsed(data)
    if item.get("format") != FORMAT:
        raise ManifestDamaged(what="it is not a manifest of this format")
    version = item.get("version")
    if type(version) is not int or version < 1:
        raise ManifestDamaged(what="it has no version")
    if version > VERSION:
        # Refused before the checksum, whose rule a later version may have changed.
        raise ManifestDamaged(what=f"version {min(version, 10**9)} was made by a later release")
    claimed = item.pop(_SELF, None)
    try:
        right = claimed == _checksum(item)
    except RecursionError as error:
        raise ManifestDamaged(what="it is nested too deeply") from error
    if not right:
        raise ManifestDamaged(what="its checksum is wrong")
    if item.get("parent", "") is not None or item.get("checksum") != _CHECKSUM:
        raise ManifestDamaged(what="its parent or checksum rule is not of this version")
    return _manifest(_Fields(item), version)


def _item(manifest: Manifest) -> dict[str, Any]:
    described = dataclasses.asdict(manifest.description)
    return {
        "format": FORMAT,
        "version": manifest.version,
        "driver": manifest.driver,
        **described.pop("ref"),
        **described,
        "parent": None,
        "checksum": _CHECKSUM,
        "catalog": {
            "bytes": manifest.catalog.bytes,
            "entries": manifest.catalog.entries,
            "blake3": manifest.catalog.blake3_hex,
        },
        "counters": dataclasses.asdict(manifest.counters),
        "stored_bytes": manifest.stored_bytes,
        "logical_bytes": manifest.logical_bytes,
    }


def _checksum(item: dict[str, Any]) -> str:
    return blake3(json.dumps(item, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _parsed(data: bytes) -> dict[str, Any]:
    if len(data) > LIMIT_BYTES:
        raise ManifestDamaged(what="it is longer than 1 MiB")
    try:
        item = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise ManifestDamaged(what="it is not JSON") from error
    if not isinstance(item, dict):
        raise ManifestDamaged(what="it is not a JSON object")
    return item


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    item = dict(pairs)
    if len(item) != len(pairs):
        raise ValueError("a key stands there twice")
    return item


def _no_constant(_: str) -> float:
    raise ValueError("not a JSON number")


def _manifest(fields: _Fields, version: int) -> Manifest:
    catalog = _Fields(fields.mapping("catalog"))
    counters = _Fields(fields.mapping("counters"))
    names = [field.name for field in dataclasses.fields(Counters)]
    return Manifest(
        version=version,
        driver=fields.text("driver"),
        description=_description(fields),
        catalog=CatalogSummary(
            bytes=catalog.number("bytes"),
            entries=catalog.number("entries"),
            blake3_hex=catalog.matching("blake3", _HEX),
        ),
        counters=Counters(**{name: counters.number(name) for name in names}),
        stored_bytes=fields.number("stored_bytes"),
        logical_bytes=fields.number("logical_bytes"),
    )


def _description(fields: _Fields) -> BackupDescription:
    options = fields.mapping("options")
    if not all(_UTF8.match(key) for key in options) or not all(
        isinstance(value, str) and _UTF8.match(value) for value in options.values()
    ):
        raise ManifestDamaged(what="key 'options' is not an object of strings")
    return BackupDescription(
        ref=BackupRef(
            project_id=fields.matching("project_id", _ID),
            backup_id=fields.matching("backup_id", _ID),
            epoch=fields.number("epoch"),
        ),
        share_id=fields.text("share_id"),
        share_name=fields.text_or_none("share_name"),
        share_proto=fields.text("share_proto"),
        size_gib=fields.number("size_gib"),
        user_id=fields.text_or_none("user_id"),
        name=fields.text_or_none("name"),
        description=fields.text_or_none("description"),
        availability_zone=fields.text_or_none("availability_zone"),
        created_at=fields.matching("created_at", _CREATED_AT),
        options=options,
    )


class _Fields:
    """Typed access to a parsed object; every miss is a ManifestDamaged that names the key."""

    def __init__(self, item: dict[str, Any]) -> None:
        self._item = item

    def text(self, key: str) -> str:
        value = self._item.get(key)
        # JSON can spell lone surrogates, which no database and no answer can hold.
        if not isinstance(value, str) or not _UTF8.match(value):
            raise ManifestDamaged(what=f"key '{key}' is not a string")
        return value

    def text_or_none(self, key: str) -> str | None:
        return None if self._item.get(key, "") is None else self.text(key)

    def matching(self, key: str, pattern: re.Pattern[str]) -> str:
        value = self.text(key)
        if not pattern.match(value):
            raise ManifestDamaged(what=f"key '{key}' has not the right form")
        return value

    def number(self, key: str) -> int:
        value = self._item.get(key)
        if type(value) is not int or not 0 <= value <= _NUMBER_MAX:
            raise ManifestDamaged(what=f"key '{key}' is not a number in its range")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        value = self._item.get(key)
        if not isinstance(value, dict):
            raise ManifestDamaged(what=f"key '{key}' is not an object")
        return value
