# SPDX-License-Identifier: Apache-2.0
"""One entry of a backed-up tree with all its metadata; ``doc/format.md`` is the reference."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class EntryType(StrEnum):
    """The values are the catalog's."""

    DIRECTORY = "d"
    FILE = "f"
    SYMLINK = "l"
    FIFO = "p"
    SOCKET = "s"
    CHAR_DEVICE = "c"
    BLOCK_DEVICE = "b"

    @property
    def is_special(self) -> bool:
        """Neither directory, file nor symlink: made by mknod, never opened."""
        return self in _SPECIAL

    @property
    def file_format(self) -> int:
        """The ``S_IFMT`` bits."""
        return _FORMATS[self]

    @classmethod
    def of_mode(cls, st_mode: int) -> EntryType:
        """The type of what ``lstat`` reported.

        :raises KeyError: a type that Linux file systems do not have.
        """
        return _TYPES[stat.S_IFMT(st_mode)]


_FORMATS = {
    EntryType.DIRECTORY: stat.S_IFDIR,
    EntryType.FILE: stat.S_IFREG,
    EntryType.SYMLINK: stat.S_IFLNK,
    EntryType.FIFO: stat.S_IFIFO,
    EntryType.SOCKET: stat.S_IFSOCK,
    EntryType.CHAR_DEVICE: stat.S_IFCHR,
    EntryType.BLOCK_DEVICE: stat.S_IFBLK,
}
_TYPES = {file_format: type_ for type_, file_format in _FORMATS.items()}
_DEVICES = frozenset({EntryType.CHAR_DEVICE, EntryType.BLOCK_DEVICE})
_SPECIAL = _DEVICES | {EntryType.FIFO, EntryType.SOCKET}

Extents = tuple[tuple[int, int], ...]
"""(offset, length) of data, ascending, non-overlapping, non-empty; the rest is holes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeContent:
    """Content that lies in ``data/`` under the entry's own path.

    ``extents`` None means one extent over the whole file (none, if it is empty). ``pieces`` are
    the BLAKE3 hashes of the pieces in order of offset; ``root`` is the hash over them all.
    """

    extents: Extents | None = None
    pieces: tuple[bytes, ...] = ()
    root: bytes

    def data_extents(self, size: int) -> Extents:
        """The extents, spelled out."""
        if self.extents is not None:
            return self.extents
        return ((0, size),) if size else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Paths are raw bytes relative to the root, which is the empty path.

    ``link_group`` numbers the names of one inode from 1 in order of first appearance; only the
    first carries ``content``. ``losses`` are what ``data/`` could not hold (``q`` of the format).
    ``changed``: the file changed while it was copied, on the second try too.
    """

    path: bytes
    type: EntryType
    mode: int
    uid: int
    gid: int
    size: int = 0
    mtime_ns: int
    ctime_ns: int
    inode: int
    rdev: int = 0
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    link_target: bytes = b""
    link_group: int | None = None
    content: TreeContent | None = None
    losses: tuple[str, ...] = ()
    changed: bool = False

    @property
    def is_later_link(self) -> bool:
        """Whether this file is another name of one that came before it in the catalog."""
        return self.type is EntryType.FILE and self.content is None


class _ContentDraft:
    __slots__ = TreeContent.__slots__


class _EntryDraft:
    """Laid out as an entry, without what makes entries frozen, which costs 5 us to make one."""

    __slots__ = Entry.__slots__


def new_content(extents: Extents | None, pieces: tuple[bytes, ...], root: bytes) -> TreeContent:
    """``TreeContent(...)``, faster."""
    draft: Any = _ContentDraft()
    draft.extents = extents
    draft.pieces = pieces
    draft.root = root
    draft.__class__ = TreeContent
    content: TreeContent = draft
    return content


def new_entry(  # noqa: PLR0917 - called for millions, by position
    path: bytes,
    type_: EntryType,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime_ns: int,
    ctime_ns: int,
    inode: int,
    rdev: int,
    xattrs: Mapping[bytes, bytes],
    link_target: bytes,
    link_group: int | None,
    content: TreeContent | None,
    losses: tuple[str, ...],
    changed: bool,
) -> Entry:
    """``Entry(...)`` for where millions are made: six times as fast."""
    draft: Any = _EntryDraft()
    draft.path = path
    draft.type = type_
    draft.mode = mode
    draft.uid = uid
    draft.gid = gid
    draft.size = size
    draft.mtime_ns = mtime_ns
    draft.ctime_ns = ctime_ns
    draft.inode = inode
    draft.rdev = rdev
    draft.xattrs = xattrs
    draft.link_target = link_target
    draft.link_group = link_group
    draft.content = content
    draft.losses = losses
    draft.changed = changed
    draft.__class__ = Entry
    entry: Entry = draft
    return entry


EntrySource = Callable[[], Iterable[Entry]]
"""Starts a new, independent pass over a catalog each time it is called. Several may be under way
at once; a pass that is not run to its end is closed if it has ``close`` (a generator has)."""


@contextlib.contextmanager
def one_pass(entries: EntrySource) -> Iterator[Iterator[Entry]]:
    """One pass over the entries, closed at the end of the block."""
    stream = iter(entries())
    try:
        yield stream
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()
