# SPDX-License-Identifier: Apache-2.0
"""A worker's part in a large file that several workers restore at once.

Nobody keeps it open between tasks: each opens it by name, and goes on only if it is the inode that
was made for it; so what others put in its place is not written to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from manila_backup.data.catalog.entry import Entry
from manila_backup.data.copy.attributes import Attributes
from manila_backup.data.copy.content import Mover
from manila_backup.data.copy.errors import TargetFailed, copy_failed
from manila_backup.data.copy.notes import Notes
from manila_backup.data.copy.stored import StoredFiles
from manila_backup.data.copy.sysio import Files
from manila_backup.data.copy.target import Held, Mounted, NewFile, Raced, Target
from manila_backup.data.copy.tasks import (
    BeginEntry,
    BegunEntry,
    DiscardEntry,
    LayInParts,
    LayPieces,
    Prevented,
    SealEntry,
)

T = TypeVar("T")


class LargeLayer:
    """What :class:`~.layer.Layer` does of large files; shares its parts."""

    def __init__(self, files: Files, *, data: StoredFiles, target: Target, mover: Mover) -> None:
        self._files = files
        self._data = data
        self._target = target
        self._mover = mover

    def do(self, task: LayInParts, notes: Notes) -> BegunEntry | Prevented | None:
        """See the tasks.

        :raises ContentDamaged: :raises CopyFailed: :raises Cancelled:
        """
        match task:
            case BeginEntry():
                return self._guarded(task.entry, lambda: self._begin(task.entry))
            case LayPieces():
                return self._lay(task, notes)
            case SealEntry():
                return self._seal(task, notes)
            case DiscardEntry():
                self.take_back(task.file)
                return None

    def _begin(self, entry: Entry) -> BegunEntry:
        # What is stored comes first: nothing is replaced by what is missing.
        with self._data.opened(entry):
            new = self._target.begin_file(entry.path)
            self._close(new, entry.path)
        return BegunEntry(entry=entry, made=new.identity)

    def _close(self, new: NewFile, path: bytes) -> None:
        try:
            self._files.close(new.fd)
        except OSError:
            self._target.take_back(path, new.identity)
            raise

    def _lay(self, task: LayPieces, notes: Notes) -> Prevented | None:
        entry, made = task.file.entry, task.file.made

        def lay() -> None:
            with (
                self._data.opened(entry) as data,
                self._target.begun_file(entry.path, made) as target,
            ):
                self._mover.restore_pieces(entry, task.pieces, data, target)

        prevented = self._guarded(entry, lay)
        if prevented is not None:
            notes.bytes = 0
        return prevented

    def _seal(self, task: SealEntry, notes: Notes) -> Prevented | None:
        entry, made = task.file.entry, task.file.made

        def seal() -> Held:
            with self._target.begun_file(entry.path, made) as target:
                return self._target.seal(target, Attributes.of_entry(entry), size=entry.size)

        held = self._guarded(entry, seal)
        if isinstance(held, Prevented):
            return held
        notes.files += 1
        notes.logical_bytes += entry.size
        notes.lose(entry.path, held.losses)
        return None

    def _guarded(self, entry: Entry, act: Callable[[], T]) -> T | Prevented:
        """:raises CopyFailed:"""
        try:
            return act()
        except TargetFailed as failed:
            raise copy_failed(entry.path, failed.error) from failed
        except OSError as error:
            raise copy_failed(entry.path, error) from error
        except Raced:
            return Prevented.CHANGED
        except Mounted:
            return Prevented.COVERED

    def take_back(self, file: BegunEntry) -> None:
        """Remove what was made of a file, if it still is at its name."""
        self._target.take_back(file.entry.path, file.made)
