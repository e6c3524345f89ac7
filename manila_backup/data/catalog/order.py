# SPDX-License-Identifier: Apache-2.0
"""What must be true of the sequence of a catalog's entries, for writer and reader alike."""

from __future__ import annotations

from manila_backup.data.catalog.chain import Chain
from manila_backup.data.catalog.codec import Malformed
from manila_backup.data.catalog.entry import Entry, EntryType


class OrderCheck:
    """Paths strictly ascending, the root first; parents present and directories; link groups
    numbered in order of first appearance; content where it belongs.
    """

    def __init__(self) -> None:
        self._last: bytes | None = None
        self._directories: Chain[bool] = Chain()
        self._groups = 0

    def add(self, entry: Entry) -> None:
        """:raises Malformed: (a ValueError) the entry cannot stand here; it then does not count."""
        path = entry.path
        first = self._last is None
        if first and (path or entry.type is not EntryType.DIRECTORY):
            raise Malformed("the first entry is not the root directory")
        if self._last is not None and path <= self._last:
            raise Malformed("the entries are not in the order of their paths")
        if not first:
            # Taking out what is done is right even if the entry is refused: order stays.
            self._directories.done_before(path)
            if self._directories.parent_of(path) is None:
                raise Malformed("an entry's parent is missing or not a directory")
        self._check_links(entry)
        if entry.type is EntryType.DIRECTORY:
            self._directories.push(path, True)
        self._last = path

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
