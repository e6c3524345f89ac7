# SPDX-License-Identifier: Apache-2.0
"""The coordinator's part in a large file that several workers copy at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

from manila_backup.data.catalog.entry import Entry
from manila_backup.data.copy.content import EXTENTS_KEPT, CopiedPart, content_of
from manila_backup.data.copy.dispatch import Dispatch
from manila_backup.data.copy.tally import Tally
from manila_backup.data.copy.tasks import (
    BeginFile,
    Begun,
    CopyRange,
    Directory,
    DiscardFile,
    LargeFile,
    Outcome,
    SealFile,
)


class LargeCopy:
    """One large file: begun, copied in ranges, sealed. ``done`` is called once: with its entry, or
    with None if the source or the target changed meanwhile, or the file is in very many pieces;
    then nothing is left of it, and it has to be copied in one go.
    """

    def __init__(
        self,
        desk: Dispatch,
        tally: Tally,
        done: Callable[[Entry | None], None],
        *,
        width: int,
    ) -> None:
        """``width``: ranges in work at once."""
        self._desk = desk
        self._tally = tally
        self._done = done
        self._width = width
        self._ranges: Iterator[tuple[int, int]] = iter(())
        self._parts: dict[int, CopiedPart] = {}
        self._extents = 0
        self._in_work = 0
        self._failed = False
        self.file: LargeFile | None = None
        """What lies in the target, unfinished."""

    def start(self, directory: Directory, name: bytes) -> None:
        self._desk.add(BeginFile(directory=directory, name=name), self._begun)

    def _begun(self, outcome: Outcome) -> None:
        begun: Begun | None = outcome.answer
        if begun is None:
            self._done(None)
            return
        self.file = begun.file
        self._ranges = iter(begun.ranges)
        for _ in range(self._width):
            self._next_range(begun.file)
        if not self._in_work:
            self._seal(begun.file)

    def _next_range(self, file: LargeFile) -> None:
        following = None if self._failed else next(self._ranges, None)
        if following is None:
            return
        self._in_work += 1
        task = CopyRange(file=file, start=following[0], end=following[1])
        self._desk.add(task, partial(self._ranged, file, following[0]))

    def _ranged(self, file: LargeFile, start: int, outcome: Outcome) -> None:
        self._in_work -= 1
        part: CopiedPart | None = outcome.answer
        if part is None:
            self._failed = True
        else:
            self._parts[start] = part
            self._extents += len(part.extents)
            # In one go, ever larger holes are filled: memory does not grow with what is punched.
            self._failed = self._failed or self._extents > EXTENTS_KEPT
        self._next_range(file)
        if self._in_work:
            return
        if self._failed:
            self._discard(file)
        else:
            self._seal(file)

    def _seal(self, file: LargeFile) -> None:
        self._desk.add(SealFile(file=file), partial(self._sealed, file))

    def _sealed(self, file: LargeFile, outcome: Outcome) -> None:
        entry: Entry | None = outcome.answer
        if entry is None:
            self._discard(file)
            return
        self.file = None
        extents: list[tuple[int, int]] = []
        pieces: list[bytes] = []
        for start in sorted(self._parts):
            part = self._parts[start]
            pieces += part.pieces
            for offset, length in part.extents:
                if extents and sum(extents[-1]) == offset:
                    extents[-1] = (extents[-1][0], extents[-1][1] + length)
                else:
                    extents.append((offset, length))
        size = file.seen[0]
        content = content_of(size, extents, pieces)
        self._done(dataclasses.replace(entry, size=size, content=content))

    def _discard(self, file: LargeFile) -> None:
        self._tally.bytes -= sum(part.bytes for part in self._parts.values())
        self._parts.clear()

        def discarded(outcome: Outcome) -> None:
            self.file = None
            self._done(None)

        self._desk.add(DiscardFile(file=file), discarded)
