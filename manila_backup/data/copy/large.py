# SPDX-License-Identifier: Apache-2.0
"""The coordinator's part in a large file that several workers copy at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Protocol

from manila_backup.data.catalog.entry import Entry
from manila_backup.data.copy.content import EXTENTS_KEPT, CopiedPart, content_of
from manila_backup.data.copy.dispatch import Dispatch
from manila_backup.data.copy.in_parts import InParts
from manila_backup.data.copy.tally import Tally
from manila_backup.data.copy.target import MadeFile
from manila_backup.data.copy.tasks import (
    BeginFile,
    Begun,
    CopyRange,
    Directory,
    LargeFile,
    Outcome,
    SealFile,
)


class Maker(Protocol):
    """Makes files in the target, and holds them open while others write to them."""

    def begin_large(self, path: bytes) -> MadeFile | None:
        """None: it cannot; whoever copies it in one go will say why."""

    def end_large(self, path: bytes, new: MadeFile) -> None:
        """It is complete.

        :raises CopyFailed: it is not; nothing of it is left.
        """

    def take_back(self, path: bytes, new: MadeFile) -> None:
        """Remove it, if it still is at its name."""


class LargeCopy:
    """One large file: begun, copied in ranges, sealed. ``done`` is called once: with its entry, or
    with None if the source or the target changed meanwhile, or the file is in very many pieces;
    then nothing is left of it, and it has to be copied in one go.
    """

    def __init__(
        self,
        desk: Dispatch,
        tally: Tally,
        maker: Maker,
        done: Callable[[Entry | None], None],
        *,
        directory: Directory,
        name: bytes,
        width: int,
    ) -> None:
        """``width``: ranges in work at once."""
        self._desk = desk
        self._width = width
        self._tally = tally
        self._maker = maker
        self._directory = directory
        self._name = name
        self._path = directory.path + b"/" + name if directory.path else name
        self._done = done
        self._new: MadeFile | None = None
        self._parts_done: dict[int, CopiedPart] = {}
        self._extents = 0

    def start(self) -> None:
        self._desk.add(BeginFile(directory=self._directory, name=self._name), self._begun)

    def close(self) -> None:
        """Nothing is left of what is not complete. Idempotent."""
        new, self._new = self._new, None
        if new is not None:
            self._maker.take_back(self._path, new)

    def _begun(self, outcome: Outcome) -> None:
        begun: Begun | None = outcome.answer
        if begun is not None:
            self._new = self._maker.begin_large(self._path)
        if begun is None or self._new is None:
            self._done(None)
            return
        file = LargeFile(
            directory=self._directory,
            name=self._name,
            source=begun.source,
            seen=begun.seen,
            target=self._new.identity,
            place=self._new.place,
        )
        ranges = (CopyRange(file=file, start=start, end=end) for start, end in begun.ranges)
        InParts(
            self._desk, ranges, take=self._take, done=partial(self._copied, file), width=self._width
        ).start()

    def _take(self, task: CopyRange, outcome: Outcome) -> bool:
        part: CopiedPart | None = outcome.answer
        if part is None:
            return False
        self._parts_done[task.start] = part
        self._extents += len(part.extents)
        # In one go, ever larger holes are filled: memory does not grow with what is punched.
        return self._extents <= EXTENTS_KEPT

    def _copied(self, file: LargeFile, is_whole: bool) -> None:
        if is_whole:
            self._desk.add(SealFile(file=file), partial(self._sealed, file.seen[0]))
        else:
            self._give_up()

    def _sealed(self, size: int, outcome: Outcome) -> None:
        entry: Entry | None = outcome.answer
        if entry is None or self._new is None:
            self._give_up()
            return
        new, self._new = self._new, None
        self._maker.end_large(self._path, new)
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

    def _give_up(self) -> None:
        self._tally.bytes -= sum(part.bytes for part in self._parts_done.values())
        self.close()
        self._done(None)
