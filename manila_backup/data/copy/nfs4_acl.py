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
    if len(value) < 4:
        return False
    (count,) = struct.unpack_from(">I", value)
    position = 4
    for _ in range(count):
        if position + _HEAD.size > len(value):
            return False
        _, flags, _, length = _HEAD.unpack_from(value, position)
        position += _HEAD.size
        if flags & _INHERITANCE or value[position : position + length] not in _SPECIAL:
            return False
        position += length + -length % 4
    return position == len(value)
