# SPDX-License-Identifier: Apache-2.0
"""Manifests: what is dumped is loaded; the rules of the format."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from blake3 import blake3

from manila_backup.data.catalog import manifest as manifests
from manila_backup.data.catalog.errors import ManifestDamaged
from manila_backup.data.catalog.manifest import Manifest
from manila_backup.data.catalog.summary import CatalogSummary
from manila_backup.types import BackupDescription, BackupRef, Counters

MANIFEST = Manifest(
    description=BackupDescription(
        ref=BackupRef(project_id="p.1", backup_id="0a-b", epoch=7),
        share_id="s",
        share_name="näme \N{GRINNING FACE}\n",
        share_proto="NFS",
        size_gib=3,
        user_id=None,
        name="n",
        description=None,
        availability_zone="nova",
        created_at="2026-11-21T12:00:00.000001Z",
        options={"k": "ü"},
    ),
    catalog=CatalogSummary(bytes=1, entries=2, blake3_hex="ab" * 32),
    counters=Counters(files=1, directories=2, others=3, bytes=4, skipped=5, changed=6, losses=7),
    stored_bytes=10,
    logical_bytes=11,
)


def changed(**changes: Any) -> bytes:
    """The manifest with some keys set, and its checksum put right."""
    item = json.loads(manifests.dump(MANIFEST))
    item |= changes
    del item["manifest_blake3"]
    compact = json.dumps(item, sort_keys=True, separators=(",", ":"))
    item["manifest_blake3"] = blake3(compact.encode()).hexdigest()
    return json.dumps(item).encode()


def test_what_is_dumped_is_loaded() -> None:
    assert manifests.load(manifests.dump(MANIFEST)) == MANIFEST


def test_the_keys_are_those_of_the_format_document() -> None:
    item = json.loads(manifests.dump(MANIFEST))
    described = {
        *("backup_id", "project_id", "epoch", "share_id", "share_name", "share_proto", "size_gib"),
        *("user_id", "name", "description", "availability_zone", "created_at", "options"),
    }
    stored = {"catalog", "checksum", "counters", "stored_bytes", "logical_bytes", "parent"}
    assert set(item) == described | stored | {"format", "version", "driver", "manifest_blake3"}
    assert item["checksum"] == {"algorithm": "blake3", "piece_bytes": 4194304}
    assert set(item["counters"]) == {field.name for field in dataclasses.fields(Counters)}


def test_stored_is_what_the_rest_of_the_service_knows() -> None:
    stored = MANIFEST.stored()
    assert (stored.description, stored.format_version) == (MANIFEST.description, 1)
    assert (stored.stored_bytes, stored.logical_bytes) == (10, 11)


def test_unknown_keys_are_ignored() -> None:
    assert manifests.load(changed(colour="green")) == MANIFEST


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": 2}, "version 2 was made by a later release"),
        ({"version": "1"}, "no version"),
        ({"version": True}, "no version"),
        ({"format": "tar"}, "not a manifest"),
        ({"parent": "x"}, "parent"),
        ({"checksum": {"algorithm": "md5", "piece_bytes": 4194304}}, "checksum rule"),
        ({"project_id": ".."}, "project_id"),
        ({"backup_id": "a/b"}, "backup_id"),
        ({"epoch": -1}, "epoch"),
        ({"epoch": True}, "epoch"),
        ({"size_gib": 1.0}, "size_gib"),
        ({"created_at": "yesterday"}, "created_at"),
        ({"options": {"a": 1}}, "options"),
        ({"catalog": {"bytes": 1, "entries": 2, "blake3": "x"}}, "blake3"),
        ({"counters": {}}, "files"),
        ({"share_name": 5}, "share_name"),
        ({"share_name": "\ud800"}, "share_name"),
        ({"options": {"\udfff": "a"}}, "options"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ManifestDamaged, match=says):
        manifests.load(changed(**changes))


def test_a_changed_value_breaks_the_checksum() -> None:
    data = manifests.dump(MANIFEST).replace(b'"size_gib": 3', b'"size_gib": 4')
    with pytest.raises(ManifestDamaged, match="checksum"):
        manifests.load(data)


def test_a_key_given_twice_is_refused() -> None:
    data = manifests.dump(MANIFEST).replace(b'"size_gib": 3', b'"size_gib": 9,"size_gib": 3')
    with pytest.raises(ManifestDamaged, match="JSON"):
        manifests.load(data)


def test_more_than_a_mebibyte_is_refused_both_ways() -> None:
    with pytest.raises(ManifestDamaged, match="1 MiB"):
        manifests.load(manifests.dump(MANIFEST) + b" " * (1 << 20))
    description = dataclasses.replace(MANIFEST.description, description="x" * (1 << 20))
    with pytest.raises(ValueError, match="1 MiB"):
        manifests.dump(dataclasses.replace(MANIFEST, description=description))


def test_deep_nesting_is_refused() -> None:
    for depth in (900, 5000, 200_000):
        nested = b"[" * depth + b"]" * depth
        data = manifests.dump(MANIFEST)[:-3] + b',"x":' + nested + b"}"
        with pytest.raises(ManifestDamaged):
            manifests.load(data)
