# SPDX-License-Identifier: Apache-2.0
"""Entries as msgpack maps and back. Decoding trusts nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgpack

from manila_backup.data.catalog.entry import (
    Entry,
    EntryType,
    Extents,
    TreeContent,
    new_content,
    new_entry,
)
from manila_backup.data.catalog.pieces import (
    HASH_BYTES,
    PIECE_BYTES,
    ROOT_OF_NOTHING,
    count_pieces,
    root_of,
    root_of_one,
)

_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1
_SIZE_MAX = (1 << 63) - 1
_ID_MAX = (1 << 32) - 1
TIME_MIN_NS, TIME_MAX_NS = _INT_MIN, _INT_MAX
"""The times that msgpack can hold."""

_TYPES = {type_.value: type_ for type_ in EntryType}
_SIZED = frozenset({EntryType.FILE, EntryType.SYMLINK})
_DEVICES = frozenset({EntryType.CHAR_DEVICE, EntryType.BLOCK_DEVICE})
_NUMBERS = (
    ("m", 0, 0o7777),
    ("u", 0, _ID_MAX),
    ("g", 0, _ID_MAX),
    ("mt", _INT_MIN, _INT_MAX),
    ("ct", _INT_MIN, _INT_MAX),
    ("i", 0, _INT_MAX),
)
_More = tuple[Mapping[bytes, bytes], int | None, tuple[str, ...], bool]
"""Attributes, link group, losses, changed."""


class Malformed(ValueError):
    """An entry that no writer writes; the message says what and nothing of its bytes."""


_pack = cast(Callable[[Any], bytes], msgpack.Packer(use_bin_type=True, autoreset=True).pack)


def encode(entry: Entry) -> bytes:
    """One entry's map. Raises ValueError or OverflowError for numbers that are out of range."""
    type_, content = entry.type, entry.content
    item: dict[str, Any] = {
        "p": entry.path,
        "t": type_,
        "m": entry.mode,
        "u": entry.uid,
        "g": entry.gid,
        "mt": entry.mtime_ns,
        "ct": entry.ctime_ns,
        "i": entry.inode,
    }
    if type_ in _SIZED:
        item["z"] = entry.size
    if type_ in _DEVICES:
        item["r"] = entry.rdev
    if type_ is EntryType.SYMLINK:
        item["l"] = entry.link_target
    if entry.xattrs:
        item["x"] = dict(entry.xattrs)
    if entry.link_group is not None:
        item["h"] = entry.link_group
    content = entry.content
    if content is not None:
        item["c"] = {"k": "t", "s": content.pieces, "o": content.root}
        if content.extents is not None:
            item["c"]["e"] = content.extents
    if entry.losses:
        item["q"] = entry.losses
    if entry.changed:
        item["w"] = True
    return _pack(item)


def encode_file(  # noqa: PLR0917 - called for millions, by position
    path: bytes,
    mode: int,
    uid: int,
    gid: int,
    mtime_ns: int,
    ctime_ns: int,
    inode: int,
    size: int,
    xattrs: Mapping[bytes, bytes] | None,
    pieces: Sequence[bytes],
    root: bytes,
    losses: tuple[str, ...] = (),
) -> bytes:
    """The map of a regular file without holes and without a hard-link group: the bytes that
    :func:`encode` makes of such an entry, without an entry. Raises as it does.
    """
    item: dict[str, Any] = {
        "p": path,
        "t": "f",
        "m": mode,
        "u": uid,
        "g": gid,
        "mt": mtime_ns,
        "ct": ctime_ns,
        "i": inode,
        "z": size,
    }
    if xattrs:
        item["x"] = dict(xattrs)
    item["c"] = {"k": "t", "s": pieces, "o": root}
    if losses:
        item["q"] = losses
    return _pack(item)


def moved(encoded: bytes, path: bytes) -> bytes:
    """The same entry at another path. So it can wait with its mere name for its turn: below
    100,000 directories the paths of what waits would be gigabytes.
    """
    # A map of fewer than 16 keys, "p", and the path as bin 8, 16 or 32 (a length of 1, 2, 4 bytes).
    length_bytes = 1 << (encoded[3] - 0xC4)
    start = 4 + length_bytes
    length = int.from_bytes(encoded[4:start], "big")
    return encoded[:3] + _pack(path) + encoded[start + length :]


def decode(item: object) -> Entry:
    """The entry of an unpacked map; unknown keys are ignored. Whether its path may stand where it
    stands, and is one at all, is for :class:`~.order.OrderCheck` to tell.

    :raises Malformed: anything else than what :func:`encode` makes.
    """
    if type(item) is not dict:
        raise Malformed("an entry is not a map")
    try:
        type_ = _TYPES[item["t"]]
        path, mode, uid, gid = item["p"], item["m"], item["u"], item["g"]
        mtime_ns, ctime_ns, inode = item["mt"], item["ct"], item["i"]
    except (KeyError, TypeError):
        raise _what_is_wrong_with(item) from None
    # In one condition, since it is for millions. The range of the times is msgpack's own.
    if not (
        type(path) is bytes
        and type(mode) is type(uid) is type(gid) is type(mtime_ns) is type(ctime_ns) is int
        and 0 <= mode <= 0o7777
        and 0 <= uid <= _ID_MAX
        and 0 <= gid <= _ID_MAX
        and type(inode) is int
        and inode >= 0
    ):
        raise _what_is_wrong_with(item)
    size, rdev, link_target, content, keys = 0, 0, b"", None, 8
    if type_ is EntryType.FILE and "c" in item:
        size = _size(item)
        content, keys = _content(item["c"], size), 10
    elif type_ is not EntryType.DIRECTORY:
        size, rdev, link_target, keys = _of_its_type(item, type_)
    if len(item) == keys:
        more: _More = ({}, None, (), False)
    else:
        more = _more(item)
        if content is None and "c" in item:
            content = _content(item["c"], size)
    xattrs, link_group, losses, changed = more
    return new_entry(
        path,
        type_,
        mode,
        uid,
        gid,
        size,
        mtime_ns,
        ctime_ns,
        inode,
        rdev,
        xattrs,
        link_target,
        link_group,
        content,
        losses,
        changed,
    )


def _what_is_wrong_with(item: dict[Any, Any]) -> Malformed:
    kind = item.get("t")
    if not isinstance(kind, str) or kind not in _TYPES:
        return Malformed("unknown entry type")
    if not isinstance(item.get("p"), bytes):
        return Malformed("the path is not bytes")
    for key, low, high in _NUMBERS:
        _int(item, key, low, high)
    return Malformed("a number is not in its range")


def _of_its_type(item: dict[Any, Any], type_: EntryType) -> tuple[int, int, bytes, int]:
    """Size, device number, link target, and how many keys an entry of this type must have."""
    if type_ is EntryType.FILE:
        return _size(item), 0, b"", 9
    if type_ is EntryType.SYMLINK:
        return _size(item), 0, _link_target(item.get("l")), 10
    if type_ in _DEVICES:
        return 0, _int(item, "r", 0, _INT_MAX), b"", 9
    return 0, 0, b"", 8


def _more(item: dict[Any, Any]) -> _More:
    """What most entries do not have."""
    return (
        _xattrs(item["x"]) if "x" in item else {},
        _int(item, "h", 1, _SIZE_MAX) if "h" in item else None,
        tuple(_list_of(item["q"], str, "losses")) if "q" in item else (),
        _bool(item.get("w", False)),
    )


def _size(item: dict[Any, Any]) -> int:
    size = item.get("z")
    if type(size) is int and 0 <= size <= _SIZE_MAX:
        return size
    return _int(item, "z", 0, _SIZE_MAX)


def _int(item: dict[Any, Any], key: str, low: int, high: int) -> int:
    value = item.get(key)
    if type(value) is not int or not low <= value <= high:
        raise Malformed(f"key {key!r} is not a number in its range")
    return value


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise Malformed("key 'w' is not a boolean")
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
    if type(value) is list:
        for part in value:
            if type(part) is not kind:
                break
        else:
            return value
    raise Malformed(f"the {what} are not a list of {kind.__name__}")


def _content(value: Any, size: int) -> TreeContent:
    """Most files are one piece: those are told at once, the others with care."""
    try:
        pieces, root = value["s"], value["o"]
        if (
            type(value) is dict
            and len(value) == 3
            and value["k"] == "t"
            and type(pieces) is list
            and len(pieces) == 1
            and type(piece_hash := pieces[0]) is bytes
            and len(piece_hash) == HASH_BYTES
            and type(root) is bytes
            and 0 < size <= PIECE_BYTES
            and root_of_one(size, piece_hash) == root
        ):
            return new_content(None, (piece_hash,), root)
    except (KeyError, TypeError):
        pass
    return _any_content(value, size)


def _any_content(value: object, size: int) -> TreeContent:
    if not isinstance(value, dict) or not isinstance(value.get("k"), str):
        raise Malformed("the content is not a map with a kind")
    if value["k"] != "t":
        raise Malformed(f"content of kind {value['k'][:16]!r} was made by a later version")
    extents = _extents(value["e"], size) if "e" in value else None
    pieces = tuple(_list_of(value.get("s"), bytes, "checksums"))
    root = value.get("o")
    if not isinstance(root, bytes) or any(len(part) != HASH_BYTES for part in (root, *pieces)):
        raise Malformed("a checksum has not the right length")
    content = new_content(extents, pieces, root)
    spelled = content.data_extents(size)
    if count_pieces(spelled) != len(pieces):
        raise Malformed("there are not as many checksums as pieces")
    if (root_of(spelled, pieces) if pieces else ROOT_OF_NOTHING) != root:
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
