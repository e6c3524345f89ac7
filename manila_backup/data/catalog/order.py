# SPDX-License-Identifier: Apache-2.0
"""What must be true of the sequence of a catalog's entries, for writer and reader alike."""

from __future__ import annotations

from manila_backup.data.catalog.chain import Chain
from manila_backup.data.catalog.codec import Malformed
from manila_backup.data.catalog.entry import Entry, EntryType

_SLASH, _NUL = b"/\0"
_NO_NAMES = frozenset({b"", b".", b".."})


class OrderCheck:
    """Paths strictly ascending, the root first; parents present and directories; names that are
    names; link groups numbered in order of first appearance; content where it belongs.

    A path is checked once: above its name it is the path of a directory that was checked before.
    """

    __slots__ = ("_directories", "_groups", "_last", "_prefix")

    def __init__(self) -> None:
        self._last: bytes | None = None
        self._prefix = b""  # of the names in the directory that the last entry lies in
        self._directories: Chain[bool] = Chain()
        self._groups = 0

    def add(self, entry: Entry) -> None:
        """:raises Malformed: (a ValueError) the entry cannot stand here; it then does not count."""
        path = entry.path
        is_directory = entry.type is EntryType.DIRECTORY
        if self._last is None and (path or not is_directory):
            raise Malformed("the first entry is not the root directory")
        self._check_place(path)
        if entry.link_group is None and not is_directory:
            if (entry.content is not None) is not (entry.type is EntryType.FILE):
                raise Malformed("content is missing or where it does not belong")
        else:
            self._check_links(entry)
        if is_directory:
            self._directories.done_before(path)
            self._directories.push(path, True)
        self._last = path

    def add_file(self, path: bytes) -> None:
        """The same for a file with content and without a hard-link group."""
        if self._last is None:
            raise Malformed("the first entry is not the root directory")
        self._check_place(path)
        self._last = path

    def _check_place(self, path: bytes) -> None:
        last = self._last
        if last is None:
            return
        if path <= last:
            raise Malformed("the entries are not in the order of their paths")
        prefix = self._prefix
        name = path[len(prefix) :]
        # Numbers: looking for them in bytes costs a seventh of looking for bytes.
        if _SLASH in name or not path.startswith(prefix):
            name = self._change_directory(path)
        if _NUL in name or name in _NO_NAMES:
            raise Malformed(_what_is_wrong_with(path))

    def _change_directory(self, path: bytes) -> bytes:
        """Answers the name. A directory that is not done by now is still in the chain."""
        end = path.rfind(b"/")
        if not end or self._directories.parent_of(path) is None:
            raise Malformed(_what_is_wrong_with(path))
        self._prefix = path[: end + 1]
        return path[end + 1 :]

    def _check_links(self, entry: Entry) -> None:
        group = entry.link_group
        is_file = entry.type is EntryType.FILE
        if group is not None and entry.type is EntryType.DIRECTORY:
            raise Malformed("a directory is in a hard-link group")
        if group is not None and group > self._groups + 1:
            raise Malformed("a hard-link group is not numbered in order")
        later = group is not None and group <= self._groups
        if (entry.content is not None) != (is_file and not later):
            raise Malformed("content is missing or where it does not belong")
        if group is not None and not later:
            self._groups = group


def _what_is_wrong_with(path: bytes) -> str:
    if b"\0" in path:
        return "the path has a NUL byte"
    # Absolute paths and doubled or trailing slashes have an empty component.
    if not _NO_NAMES.isdisjoint(path.split(b"/")):
        return "the path has an empty, '.' or '..' component"
    return "an entry's parent is missing or not a directory"
