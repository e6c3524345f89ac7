# SPDX-License-Identifier: Apache-2.0
"""What a layer does of large files: the coordinator's makes, holds and seals them, those of the
workers lay their parts. Whatever others do to its name, what was begun is completed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from manila_backup.data.catalog.entry import Entry
from manila_backup.data.copy.attributes import Attributes
from manila_backup.data.copy.content import Mover
from manila_backup.data.copy.errors import TargetFailed, copy_failed
from manila_backup.data.copy.notes import Notes
from manila_backup.data.copy.stored import StoredFiles
from manila_backup.data.copy.target import MadeFile, Mounted, Raced, Target
from manila_backup.data.copy.tasks import LayPieces


class LargeLayer:
    """Shares the parts of :class:`~.layer.Layer`. Entries are without their content.

    All methods but :meth:`take_back` may raise ContentDamaged and CopyFailed.
    """

    def __init__(self, *, data: StoredFiles, target: Target, mover: Mover) -> None:
        self._data = data
        self._target = target
        self._mover = mover

    def begin(self, entry: Entry, notes: Notes) -> MadeFile | None:
        """Held open until :meth:`seal` or :meth:`take_back`. None: others prevented it, which is
        noted."""
        try:
            # What is stored comes first: nothing is replaced by what is missing.
            with _failing_by_name(entry), self._data.opened(entry):
                return self._target.begin_file(entry.path)
        except Raced:
            notes.change(entry.path)
        except Mounted:
            notes.warnings += 1
            notes.skip(entry.path)
        return None

    def lay(self, task: LayPieces) -> None:
        with (
            _failing_by_name(task.entry),
            self._data.opened(task.entry) as data,
            self._target.begun_file(task.place, task.made) as target,
        ):
            self._mover.restore_pieces(task.entry, task.pieces, data, target)

    def seal(self, entry: Entry, new: MadeFile, notes: Notes) -> None:
        """All pieces are there: give it its size and attributes, and close it. If that fails
        nothing of it is left."""
        with _failing_by_name(entry):
            try:
                held = self._target.seal(new.fd, Attributes.of_entry(entry), size=entry.size)
            except BaseException:
                self._target.take_back(entry.path, new)
                raise
            self._target.end_file(entry.path, new)
            is_there = self._target.is_at(entry.path, new.identity)
        notes.files += 1
        notes.logical_bytes += entry.size
        notes.lose(entry.path, held.losses)
        if not is_there:
            notes.change(entry.path)

    def take_back(self, entry: Entry, new: MadeFile) -> None:
        """Close it, and remove it if it still is at its name."""
        self._target.take_back(entry.path, new)


@contextlib.contextmanager
def _failing_by_name(entry: Entry) -> Iterator[None]:
    """:raises CopyFailed:"""
    try:
        yield
    except TargetFailed as failed:
        raise copy_failed(entry.path, failed.error) from failed
    except OSError as error:
        raise copy_failed(entry.path, error) from error
