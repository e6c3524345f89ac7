# SPDX-License-Identifier: Apache-2.0
"""The NFSv4 ACL of an entry, as ``system.nfs4_acl`` has it: nfsace4s of RFC 7530 in XDR (RFC 4506),
their number and then each one's type, flags, mask and who.

All functions but :func:`is_trivial` and :func:`inherits` raise ValueError for what is no such ACL.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_ALLOW, _DENY = 0, 1
_FILE_INHERIT, _DIRECTORY_INHERIT, _NO_PROPAGATE, _INHERIT_ONLY = 0x1, 0x2, 0x4, 0x8
_INHERITANCE = _FILE_INHERIT | _DIRECTORY_INHERIT | _NO_PROPAGATE | _INHERIT_ONLY

_OWNER = b"OWNER@"
_SPECIAL = frozenset({_OWNER, b"GROUP@", b"EVERYONE@"})

_OF_OWNERS = 0x10000 | 0x40000 | 0x80000
"""ACE4_DELETE, _WRITE_ACL, _WRITE_OWNER: no permission bit gives these to others."""

_TO_READ = 0x1 | 0x8 | 0x20 | 0x80 | 0x20000 | 0x100000
"""ACE4_READ_DATA, _READ_NAMED_ATTRS, _EXECUTE, _READ_ATTRIBUTES, _READ_ACL, _SYNCHRONIZE."""

_ALL = 0x1F01FF
_HEAD = struct.Struct(">IIII")


class _Ace(NamedTuple):
    kind: int
    flags: int
    mask: int
    who: bytes

    def says_no_more(self) -> bool:
        """Than a mode can."""
        return (
            self.kind in (_ALLOW, _DENY)
            and not self.flags & _INHERITANCE
            and self.who in _SPECIAL
            and (self.who == _OWNER or self.kind == _DENY or not self.mask & _OF_OWNERS)
        )


def is_trivial(value: bytes) -> bool:
    """Whether it says no more than permission bits can: every entry has an ACL on NFSv4, and most
    have one that the server has made of the mode. False for what is no such ACL.
    """
    try:
        return all(ace.says_no_more() for ace in _parsed(value))
    except ValueError:
        return False


def inherits(value: bytes) -> bool:
    """Whether new entries of a directory inherit something of it."""
    try:
        return any(ace.flags & _INHERITANCE for ace in _parsed(value))
    except ValueError:
        return False


def without_inheritance(value: bytes) -> bytes:
    """What of it holds for the directory itself."""
    return _packed(_effective(_parsed(value)))


def trivial(value: bytes) -> bytes:
    """What of it holds for the entry itself and a mode can say: to be followed by the mode."""
    found = [ace for ace in _effective(_parsed(value)) if ace.says_no_more()]
    return _packed(found or [_Ace(_ALLOW, 0, _ALL, _OWNER)])


def inheriting_little(value: bytes) -> bytes:
    """What of it holds for the directory itself; from it new entries inherit what belongs to their
    owner, and reading for others, and nothing for anybody by name.

    For servers that never let go of what is inherited, but replace it (Linux 6.1).
    """
    effective = _effective(_parsed(value))
    inherited = [
        ace._replace(
            flags=ace.flags | _FILE_INHERIT | _DIRECTORY_INHERIT | _INHERIT_ONLY,
            mask=ace.mask if ace.who == _OWNER else ace.mask & _TO_READ,
        )
        for ace in effective
        if ace.kind == _ALLOW and ace.who in _SPECIAL
    ]
    return _packed(effective + inherited)


def _effective(aces: list[_Ace]) -> list[_Ace]:
    return [
        ace._replace(flags=ace.flags & ~_INHERITANCE)
        for ace in aces
        if not ace.flags & _INHERIT_ONLY
    ]


def _parsed(value: bytes) -> list[_Ace]:
    if len(value) < 4:
        raise ValueError("not an NFSv4 ACL")
    (count,) = struct.unpack_from(">I", value)
    found = []
    position = 4
    for _ in range(count):
        if position + _HEAD.size > len(value):
            raise ValueError("not an NFSv4 ACL")
        kind, flags, mask, length = _HEAD.unpack_from(value, position)
        position += _HEAD.size
        found.append(_Ace(kind, flags, mask, value[position : position + length]))
        position += length + -length % 4
    if position != len(value):
        raise ValueError("not an NFSv4 ACL")
    return found


def _packed(aces: list[_Ace]) -> bytes:
    parts = [struct.pack(">I", len(aces))]
    for kind, flags, mask, who in aces:
        parts.append(_HEAD.pack(kind, flags, mask, len(who)) + who + b"\0" * (-len(who) % 4))
    return b"".join(parts)
