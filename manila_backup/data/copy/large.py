# SPDX-License-Identifier: Apache-2.0
"""The coordinator's part in a large file that several workers copy at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from manila_backup.data.catalog.entry import Entry
from manila_backup.data.copy.content import EXTENTS_KEPT, CopiedPart, content_of
from manila_backup.data.copy.dispatch import Dispatch
from manila_backup.data.copy.in_parts import InParts
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


class LargeCopy(InParts[LargeFile, CopyRange]):
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
        super().__init__(desk, width=width)
        self._tally = tally
        self._done = done
        self._parts_done: dict[int, CopiedPart] = {}
        self._extents = 0

    def start(self, directory: Directory, name: bytes) -> None:
        self.desk.add(BeginFile(directory=directory, name=name), self._begun)

    def _begun(self, outcome: Outcome) -> None:
        begun: Begun | None = outcome.answer
        if begun is None:
            self._done(None)
            return
        file = begun.file
        self.begin(file, (CopyRange(file=file, start=a, end=b) for a, b in begun.ranges))

    def take_part(self, task: CopyRange, outcome: Outcome) -> bool:
        part: CopiedPart | None = outcome.answer
        if part is None:
            return False
        self._parts_done[task.start] = part
        self._extents += len(part.extents)
        # In one go, ever larger holes are filled: memory does not grow with what is punched.
        return self._extents <= EXTENTS_KEPT

    def take_seal(self, file: LargeFile, outcome: Outcome) -> bool:
        entry: Entry | None = outcome.answer
        if entry is None:
            return False
        size = file.seen[0]
        extents: list[tuple[int, int]] = []
        pieces: list[bytes] = []
        for start in sorted(self._parts_done):
            part = self._parts_done[start]
            pieces += part.pieces
            for offset, length in part.extents:
                if extents and sum(extents[-1]) == offset:
                    extents[-1] = (extents[-1][0], extents[-1][1] + length)
                else:
                    extents.append((offset, length))
        content = content_of(size, extents, pieces)
        self._done(dataclasses.replace(entry, size=size, content=content))
        return True

    def give_up(self) -> None:
        self._tally.bytes -= sum(part.bytes for part in self._parts_done.values())
        self._done(None)

    def seal_task(self, file: LargeFile) -> SealFile:
        return SealFile(file=file)

    def discard_task(self, file: LargeFile) -> DiscardFile:
        return DiscardFile(file=file)
