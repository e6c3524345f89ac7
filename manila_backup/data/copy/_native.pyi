# SPDX-License-Identifier: Apache-2.0
"""One slice of names each; :mod:`manila_backup.data.copy.small` says what these do, and is their
only caller. The GIL is released during the system calls. More than SLICE names: ValueError.
"""

from collections.abc import Mapping
from typing import TypeVar

SLICE: int
SMALL_BYTES: int
XATTR_BYTES: int

_Kind = TypeVar("_Kind", bound=tuple[object, ...])
_Item = tuple[bytes, bytes, int, int, int, int, Mapping[bytes, bytes] | None]

def read(
    kind: type[_Kind], dir_fd: int, names: list[bytes] | tuple[bytes, ...], budget: int, /
) -> list[_Kind | None]:
    """Instances of ``kind``, a NamedTuple of nine fields. Ends early, but not before the first
    name, when ``budget`` bytes are read."""

def write(
    dir_fd: int,
    items: list[_Item] | tuple[_Item, ...],
    uid: int,
    gid: int,
    strips_acl: bool,
    acls: frozenset[bytes],
    /,
) -> list[bool]:
    """``uid`` and ``gid``: whose new files in this directory are likely to be. ``strips_acl``:
    they inherit an ACL, which is to be removed. ``acls``: attributes that come after the mode."""
