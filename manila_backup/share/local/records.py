# SPDX-License-Identifier: Apache-2.0
"""What the local provider knows about a share: its JSON documents as typed values.

Times are UTC in ISO 8601 without a zone, as Manila's views show them. Every document carries its
format and version; keys that this version does not know are dropped on the next write, so whoever
adds one that must survive raises the version.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from manila_backup.exception import PermanentError
from manila_backup.types import AccessLevel

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_VERSION = 1

DEFAULT_TYPE_ID = "5b1c2c1a-6d0f-4a55-9c55-0d1f6c1e7f00"
DEFAULT_TYPE_NAME = "default"


class RecordDamaged(PermanentError):
    """A document on disk is not one of ours; nothing is changed or removed because of it."""

    message = "The record {path} of the local share store cannot be read: {reason}"


def is_uuid(text: str) -> bool:
    """Whether ``text`` is a UUID in its canonical form, and so safe as the name of a directory."""
    return _UUID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareMark:
    """A backup operation holds the share; ``status`` is what the share is for meanwhile."""

    operation_id: str
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAccessRule:
    """One access rule. ``ours`` rules belong to the service and are hidden from tenants."""

    id: str
    access_type: str
    access_to: str
    access_level: AccessLevel
    created_at: str
    updated_at: str | None = None
    state: str = "active"
    ours: bool = False
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalShare:
    """One share with its access rules and its mark: everything that must change together.

    ``removing`` says that the content is being removed; a ``status`` says nothing about that, since
    administrators may set it to anything.
    """

    id: str
    project_id: str
    user_id: str | None
    name: str | None
    description: str | None
    size_gib: int
    created_at: str
    updated_at: str | None = None
    status: str = "available"
    removing: bool = False
    task_state: str | None = None
    share_proto: str = "NFS"
    is_public: bool = False
    availability_zone: str = "nova"
    share_type_id: str = DEFAULT_TYPE_ID
    share_type_name: str = DEFAULT_TYPE_NAME
    snapshot_support: bool = True
    metadata: dict[str, str] = field(default_factory=dict)
    mark: ShareMark | None = None
    access_rules: tuple[LocalAccessRule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSnapshot:
    """One snapshot. ``size_gib`` is the size of its share when it was taken.

    ``copying`` says that the content is not complete yet, ``removing`` that it is not any more.
    """

    id: str
    share_id: str
    project_id: str
    user_id: str | None
    name: str | None
    description: str | None
    size_gib: int
    created_at: str
    updated_at: str | None = None
    status: str = "creating"
    copying: bool = False
    removing: bool = False
    share_proto: str = "NFS"
    metadata: dict[str, str] = field(default_factory=dict)


def dump_store() -> bytes:
    return _dump("manila-backup-local-shares", {})


def dump_share(share: LocalShare) -> bytes:
    return _dump("manila-backup-local-share", asdict(share))


def load_share(path: str, content: bytes) -> LocalShare:
    """:raises RecordDamaged:"""
    values = _load(path, content, "manila-backup-local-share")
    try:
        rules = tuple(
            LocalAccessRule(**_known(LocalAccessRule, _with_level(rule)))
            for rule in values.get("access_rules", ())
        )
        mark = values.get("mark")
        known = _known(LocalShare, values)
        known["access_rules"] = rules
        known["mark"] = None if mark is None else ShareMark(**_known(ShareMark, mark))
        return LocalShare(**known)
    except (TypeError, ValueError, KeyError, AttributeError) as exc:
        raise RecordDamaged(path=path, reason=str(exc)) from exc


def dump_snapshot(snapshot: LocalSnapshot) -> bytes:
    return _dump("manila-backup-local-snapshot", asdict(snapshot))


def load_snapshot(path: str, content: bytes) -> LocalSnapshot:
    """:raises RecordDamaged:"""
    values = _load(path, content, "manila-backup-local-snapshot")
    try:
        return LocalSnapshot(**_known(LocalSnapshot, values))
    except (TypeError, ValueError) as exc:
        raise RecordDamaged(path=path, reason=str(exc)) from exc


def _with_level(rule: Mapping[str, Any]) -> dict[str, Any]:
    return {**rule, "access_level": AccessLevel(rule["access_level"])}


def _known(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    names = {item.name for item in fields(cls)}
    return {key: value for key, value in values.items() if key in names}


def _dump(format_name: str, values: Mapping[str, Any]) -> bytes:
    document = {"format": format_name, "version": _VERSION, **values}
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _load(path: str, content: bytes, format_name: str) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError as exc:
        raise RecordDamaged(path=path, reason=str(exc)) from exc
    if not isinstance(document, dict) or document.get("format") != format_name:
        raise RecordDamaged(path=path, reason=f"it is no {format_name}")
    version = document.get("version")
    if not isinstance(version, int) or version > _VERSION:
        raise RecordDamaged(path=path, reason=f"its version is {version}, made by a later release")
    return document
