# SPDX-License-Identifier: Apache-2.0
"""The coordinator's part in a large file that several workers restore at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from manila_backup.data.catalog.entry import Entry, EntryType, TreeContent
from manila_backup.data.catalog.pieces import Piece
from manila_backup.data.copy.content import pieces_of
from manila_backup.data.copy.dispatch import Dispatch
from manila_backup.data.copy.in_parts import InParts
from manila_backup.data.copy.ranges import LARGE_BYTES, RANGE_BYTES
from manila_backup.data.copy.target import MadeFile
from manila_backup.data.copy.tasks import LayPieces

_PIECES = 4096
"""In a part, at most: of a file in small pieces there are many in as many bytes."""


def large_content(entry: Entry) -> TreeContent | None:
    """Its content if there is so much data, whatever holes, that it is worth being restored in
    parts."""
    if entry.size < LARGE_BYTES or entry.type is not EntryType.FILE or entry.content is None:
        return None
    extents = entry.content.data_extents(entry.size)
    return entry.content if sum(length for _, length in extents) >= LARGE_BYTES else None


def lay_in_parts(
    desk: Dispatch,
    entry: Entry,
    content: TreeContent,
    new: MadeFile,
    done: Callable[[], None],
    *,
    width: int,
) -> None:
    """Have workers lay the content of a file that has been made in the target. ``entry`` is without
    ``content``; ``new`` stays open until ``done`` is called, when all of it is laid. ``width``:
    parts in work at once. What fails is raised by the desk.
    """
    parts = (
        LayPieces(entry=entry, made=new.identity, place=new.place, pieces=pieces)
        for pieces in parts_of(entry, content)
    )
    InParts(
        desk, parts, take=lambda task, outcome: True, done=lambda _: done(), width=width
    ).start()


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
