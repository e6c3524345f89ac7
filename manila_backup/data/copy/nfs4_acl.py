# SPDX-License-Identifier: Apache-2.0
"""The NFSv4 ACL of an entry, as ``system.nfs4_acl`` has it: nfsace4s of RFC 7530 in XDR (RFC 4506),
their number and then each one's type, flags, mask and who.
"""

from __future__ import annotations

import struct

_INHERITANCE = 0x1 | 0x2 | 0x4 | 0x8
"""ACE4_FILE_INHERIT_ACE, _DIRECTORY_INHERIT_ACE, _NO_PROPAGATE_INHERIT_ACE, _INHERIT_ONLY_ACE."""

_SPECIAL = frozenset({b"OWNER@", b"GROUP@", b"EVERYONE@"})
_HEAD = struct.Struct(">IIII")


def is_trivial(value: bytes) -> bool:
    """Whether it says no more than permission bits can: every entry has an ACL on NFSv4, and most
    have one that the server has made of the mode. False for what is no such ACL.
    """
    aces = _aces(value)
    return aces is not None and all(_says_no_more(ace) for ace in aces)


def trivial(value: bytes, *, inherited: bool = False) -> bytes:
    """What is left of it without names, and without what is inherited. The rest goes with the mode:
    to be set before that.

    :param inherited: new entries inherit it, too. For servers that do not let go of what is
        inherited, but replace it (Linux 6.1).
    :raises ValueError: it is no such ACL.
    """
    aces = _aces(value)
    if aces is None:
        raise ValueError("not an NFSv4 ACL")
    left = [ace for ace in aces if _says_no_more(ace)]
    if inherited:
        left += [_inherited_only(ace) for ace in left]
    return struct.pack(">I", len(left)) + b"".join(left)


def _inherited_only(ace: bytes) -> bytes:
    kind, flags, mask, length = _HEAD.unpack_from(ace)
    return _HEAD.pack(kind, flags | 0x1 | 0x2 | 0x8, mask, length) + ace[_HEAD.size :]


def _says_no_more(ace: bytes) -> bool:
    _, flags, _, length = _HEAD.unpack_from(ace)
    return not flags & _INHERITANCE and ace[_HEAD.size : _HEAD.size + length] in _SPECIAL


def _aces(value: bytes) -> list[bytes] | None:
    """Each one in XDR; None if the value is more or less than that."""
    if len(value) < 4:
        return None
    (count,) = struct.unpack_from(">I", value)
    found = []
    position = 4
    for _ in range(count):
        if position + _HEAD.size > len(value):
            return None
        length = _HEAD.unpack_from(value, position)[3]
        end = position + _HEAD.size + length + -length % 4
        found.append(value[position:end])
        position = end
    return found if position == len(value) else None
