# SPDX-License-Identifier: Apache-2.0
"""The coordinator's part in a large file that several workers restore at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from manila_backup.data.catalog.entry import Entry, EntryType, TreeContent
from manila_backup.data.catalog.pieces import Piece
from manila_backup.data.copy.content import pieces_of
from manila_backup.data.copy.dirstack import Identity
from manila_backup.data.copy.dispatch import Dispatch
from manila_backup.data.copy.in_parts import InParts
from manila_backup.data.copy.ranges import LARGE_BYTES, RANGE_BYTES
from manila_backup.data.copy.tally import Tally
from manila_backup.data.copy.tasks import (
    BeginEntry,
    BegunEntry,
    DiscardEntry,
    LayPieces,
    Outcome,
    Prevented,
    SealEntry,
)

_PIECES = 4096
"""In a part, at most: of a file in small pieces there are many in as many bytes."""


def large_content(entry: Entry) -> TreeContent | None:
    """Its content if there is so much data, whatever holes, that it is worth being restored in
    parts."""
    if entry.size < LARGE_BYTES or entry.type is not EntryType.FILE or entry.content is None:
        return None
    extents = entry.content.data_extents(entry.size)
    return entry.content if sum(length for _, length in extents) >= LARGE_BYTES else None


class LargeRestore(InParts[BegunEntry, LayPieces]):
    """One file: begun, restored in parts, sealed. ``done`` is called once, with the inode made, or
    with None if others prevented it, which is noted then; nothing of it is left.
    """

    def __init__(
        self,
        desk: Dispatch,
        tally: Tally,
        entry: Entry,
        content: TreeContent,
        done: Callable[[Identity | None], None],
        *,
        width: int,
    ) -> None:
        """``content`` is the entry's; ``width``: parts in work at once."""
        super().__init__(desk, width=width)
        self._tally = tally
        self._entry = dataclasses.replace(entry, content=None)
        self._content = content
        self._done = done
        self._bytes = 0
        self._prevented: Prevented | None = None

    def start(self) -> None:
        self.desk.add(BeginEntry(entry=self._entry), self._begun)

    def _begun(self, outcome: Outcome) -> None:
        begun: BegunEntry | Prevented = outcome.answer
        if isinstance(begun, Prevented):
            self._prevented = begun
            self.give_up()
            return
        parts = parts_of(self._entry, self._content)
        self.begin(begun, (LayPieces(file=begun, pieces=pieces) for pieces in parts))

    def take_part(self, task: LayPieces, outcome: Outcome) -> bool:
        self._bytes += outcome.notes.bytes
        return self._succeeded(outcome)

    def take_seal(self, file: BegunEntry, outcome: Outcome) -> bool:
        if not self._succeeded(outcome):
            return False
        self._done(file.made)
        return True

    def _succeeded(self, outcome: Outcome) -> bool:
        if outcome.answer is None:
            return True
        self._prevented = outcome.answer
        return False

    def give_up(self) -> None:
        self._tally.bytes -= self._bytes
        if self._prevented is Prevented.COVERED:
            self._tally.warnings += 1
            self._tally.skip(self._entry.path)
        else:
            self._tally.change(self._entry.path)
        self._done(None)

    def seal_task(self, file: BegunEntry) -> SealEntry:
        return SealEntry(file=file)

    def discard_task(self, file: BegunEntry) -> DiscardEntry:
        return DiscardEntry(file=file)


def parts_of(entry: Entry, content: TreeContent) -> Iterator[list[Piece]]:
    """All pieces in order, in parts of :data:`~.ranges.RANGE_BYTES` of data or a little more."""
    part: list[Piece] = []
    part_bytes = 0
    for piece in pieces_of(entry, content):
        part.append(piece)
        part_bytes += piece[1]
        if part_bytes >= RANGE_BYTES or len(part) >= _PIECES:
            yield part
            part, part_bytes = [], 0
    if part:
        yield part
