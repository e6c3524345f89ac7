# SPDX-License-Identifier: Apache-2.0
"""Entries as msgpack maps and back. Decoding trusts nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgpack

from manila_backup.data.catalog.entry import Entry, EntryType, Extents, TreeContent
from manila_backup.data.catalog.pieces import HASH_BYTES, count_pieces, root_of

_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1
_SIZE_MAX = (1 << 63) - 1
_ID_MAX = (1 << 32) - 1
TIME_MIN_NS, TIME_MAX_NS = _INT_MIN, _INT_MAX
"""The times that msgpack can hold."""

_SIZED = frozenset({EntryType.FILE, EntryType.SYMLINK})
_DEVICES = frozenset({EntryType.CHAR_DEVICE, EntryType.BLOCK_DEVICE})


class Malformed(ValueError):
    """An entry that no writer writes; the message says what and nothing of its bytes."""


_pack = cast(Callable[[Any], bytes], msgpack.Packer(use_bin_type=True, autoreset=True).pack)


def encode(entry: Entry) -> bytes:
    """One entry's map. Raises ValueError or OverflowError for numbers that are out of range."""
    item: dict[str, Any] = {
        "p": entry.path,
        "t": entry.type.value,
        "m": entry.mode,
        "u": entry.uid,
        "g": entry.gid,
        "mt": entry.mtime_ns,
        "ct": entry.ctime_ns,
        "i": entry.inode,
    }
    if entry.type in _SIZED:
        item["z"] = entry.size
    if entry.type in _DEVICES:
        item["r"] = entry.rdev
    if entry.type is EntryType.SYMLINK:
        item["l"] = entry.link_target
    if entry.xattrs:
        item["x"] = dict(entry.xattrs)
    if entry.link_group is not None:
        item["h"] = entry.link_group
    if entry.content is not None:
        item["c"] = _encode_content(entry.content)
    if entry.losses:
        item["q"] = list(entry.losses)
    if entry.changed:
        item["w"] = True
    return _pack(item)


def _encode_content(content: TreeContent) -> dict[str, Any]:
    item: dict[str, Any] = {"k": "t", "s": list(content.pieces), "o": content.root}
    if content.extents is not None:
        item["e"] = [list(extent) for extent in content.extents]
    return item


def decode(item: object) -> Entry:
    """The entry of an unpacked map; unknown keys are ignored.

    :raises Malformed: anything else than what :func:`encode` makes.
    """
    if not isinstance(item, dict):
        raise Malformed("an entry is not a map")
    type_ = _type(item.get("t"))
    size = _int(item, "z", 0, _SIZE_MAX) if type_ in _SIZED else 0
    return Entry(
        path=_path(item.get("p")),
        type=type_,
        mode=_int(item, "m", 0, 0o7777),
        uid=_int(item, "u", 0, _ID_MAX),
        gid=_int(item, "g", 0, _ID_MAX),
        size=size,
        mtime_ns=_int(item, "mt", _INT_MIN, _INT_MAX),
        ctime_ns=_int(item, "ct", _INT_MIN, _INT_MAX),
        inode=_int(item, "i", 0, _INT_MAX),
        rdev=_int(item, "r", 0, _INT_MAX) if type_ in _DEVICES else 0,
        xattrs=_xattrs(item.get("x", {})),
        link_target=_link_target(item.get("l")) if type_ is EntryType.SYMLINK else b"",
        link_group=_int(item, "h", 1, _SIZE_MAX) if "h" in item else None,
        content=_content(item.get("c"), size) if "c" in item else None,
        losses=tuple(_list_of(item.get("q", []), str, "losses")),
        changed=_bool(item.get("w", False)),
    )


def _type(value: object) -> EntryType:
    try:
        return EntryType(cast(str, value))
    except ValueError:
        raise Malformed("unknown entry type") from None


def _int(item: dict[Any, Any], key: str, low: int, high: int) -> int:
    value = item.get(key)
    if type(value) is not int or not low <= value <= high:
        raise Malformed(f"key {key!r} is not a number in its range")
    return value


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise Malformed("key 'w' is not a boolean")
    return value


def _path(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise Malformed("the path is not bytes")
    if not value:
        return value
    if b"\0" in value:
        raise Malformed("the path has a NUL byte")
    # Absolute paths and doubled or trailing slashes have an empty component.
    if not {b"", b".", b".."}.isdisjoint(value.split(b"/")):
        raise Malformed("the path has an empty, '.' or '..' component")
    return value


def _link_target(value: object) -> bytes:
    if not isinstance(value, bytes) or not value or b"\0" in value:
        raise Malformed("the link target is not a name")
    return value


def _xattrs(value: object) -> dict[bytes, bytes]:
    if not isinstance(value, dict):
        raise Malformed("the attributes are not a map")
    for name, content in value.items():
        if not isinstance(name, bytes) or not name or b"\0" in name:
            raise Malformed("an attribute's name is not a name")
        if not isinstance(content, bytes):
            raise Malformed("an attribute's value is not bytes")
    return value


def _list_of(value: object, kind: type, what: str) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(part, kind) for part in value):
        raise Malformed(f"the {what} are not a list of {kind.__name__}")
    return value


def _content(value: object, size: int) -> TreeContent:
    if not isinstance(value, dict) or not isinstance(value.get("k"), str):
        raise Malformed("the content is not a map with a kind")
    if value["k"] != "t":
        raise Malformed(f"content of kind {value['k'][:16]!r} was made by a later version")
    extents = _extents(value["e"], size) if "e" in value else None
    pieces = tuple(_list_of(value.get("s"), bytes, "checksums"))
    root = value.get("o")
    if not isinstance(root, bytes) or any(len(part) != HASH_BYTES for part in (root, *pieces)):
        raise Malformed("a checksum has not the right length")
    content = TreeContent(extents=extents, pieces=pieces, root=root)
    spelled = content.data_extents(size)
    if count_pieces(spelled) != len(pieces):
        raise Malformed("there are not as many checksums as pieces")
    if root_of(spelled, pieces) != root:
        raise Malformed("the checksums' root does not fit them")
    return content


def _extents(value: object, size: int) -> Extents:
    extents: list[tuple[int, int]] = []
    end = 0
    for pair in _list_of(value, list, "extents"):
        if len(pair) != 2 or any(type(number) is not int for number in pair):
            raise Malformed("an extent is not a pair of numbers")
        offset, length = pair
        if offset < end or length <= 0 or offset + length > size:
            raise Malformed("the extents are not in order or outside the file")
        extents.append((offset, length))
        end = offset + length
    return tuple(extents)
