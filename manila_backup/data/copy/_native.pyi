# SPDX-License-Identifier: Apache-2.0
"""The GIL is released during the system calls. ``read``, ``write`` and ``copy`` take one slice of
names each, and :mod:`manila_backup.data.copy.small`, their only caller, says what they do; more
than SLICE names: ValueError. ``names`` is :mod:`~manila_backup.data.copy.sysio`'s.
"""

from collections.abc import Mapping
from typing import TypeVar

SLICE: int
SMALL_BYTES: int
XATTR_BYTES: int

_Kind = TypeVar("_Kind", bound=tuple[object, ...])
_Any = TypeVar("_Any")
_Item = tuple[bytes, bytes, int, int, int, int, Mapping[bytes, bytes] | None]

def read(
    kind: type[_Kind], dir_fd: int, names: list[bytes] | tuple[bytes, ...], budget: int, /
) -> list[_Kind | None]:
    """Instances of ``kind``, a NamedTuple of nine fields. Ends early, but not before the first
    name, when ``budget`` bytes are read."""

def write(
    dir_fd: int,
    items: list[_Item] | tuple[_Item, ...],
    habits: tuple[int, int, bool],
    /,
) -> list[bool]: ...
def copy(
    kind: type[_Kind],
    fds: tuple[int, int],
    names: list[bytes] | tuple[bytes, ...],
    budget: int,
    wish: tuple[int, int, bool, bool],
    habits: tuple[int, int, bool],
    /,
) -> tuple[list[_Kind | None], int]: ...
def names(dir_fd: int, kinds: tuple[_Any, _Any, _Any], /) -> list[tuple[bytes, _Any]]:
    """The next portion of a directory's listing, empty at its end: names but for ``.`` and ``..``,
    each with the one of ``kinds`` (directory, regular file, anything else) that it is.

    :raises OSError:
    """
