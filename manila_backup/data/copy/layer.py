# SPDX-License-Identifier: Apache-2.0
"""A worker of a restore: lays entries of a catalog into directories that are there already."""

from __future__ import annotations

import errno
import os
from itertools import groupby

from blake3 import blake3

from manila_backup.data.catalog.entry import Entry, EntryType
from manila_backup.data.copy.attributes import Attributes
from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.content import Mover
from manila_backup.data.copy.dirstack import Identity
from manila_backup.data.copy.errors import TargetFailed, copy_failed
from manila_backup.data.copy.large_layer import LargeLayer
from manila_backup.data.copy.notes import Notes, Pulse
from manila_backup.data.copy.small import SMALL_BYTES, NewFile, SmallFiles
from manila_backup.data.copy.stored import StoredFiles
from manila_backup.data.copy.sysio import Files
from manila_backup.data.copy.target import (
    CannotLink,
    Held,
    MadeDirectory,
    MadeFile,
    Mounted,
    Raced,
    Target,
)
from manila_backup.data.copy.tasks import (
    FinishDirectory,
    LayEntries,
    LayPieces,
    Link,
    LinkMade,
    MakeLinks,
    Outcome,
    Task,
)

_SLICE = 32
"""Small files read before they are written; their content is held meanwhile."""


class Layer:
    """Works on one stored tree and one target; not to be shared by threads.

    What others do to the target meanwhile is noted and passed over; each piece of content is
    verified before or while it is written.
    """

    def __init__(
        self,
        data_fd: int,
        target_fd: int,
        options: CopyOptions,
        pulse: Pulse,
        *,
        files: Files,
        window: int,
    ) -> None:
        """:raises OSError: the roots cannot be looked at."""
        self._pulse = pulse
        self._files = files
        self._is_root = os.geteuid() == 0
        self._data = StoredFiles(data_fd, files, window=window)
        self._target = Target(
            target_fd, options, files=files, cancelled=pulse.cancelled, window=window
        )
        self._small = SmallFiles(files)
        self._holds_small = options.read_ahead_bytes >= SMALL_BYTES
        self._mover = Mover(files, options.read_ahead_bytes, pulse.content)
        self._large = LargeLayer(data=self._data, target=self._target, mover=self._mover)

    def do(self, task: Task) -> Outcome:
        """:raises ContentDamaged: :raises CopyFailed: :raises Cancelled:"""
        notes = self._pulse.start()
        self._pulse.entry()
        match task:
            case LayEntries():
                return self._lay_entries(task, notes)
            case MakeLinks():
                answer = [self._make_link(link, notes) for link in task.links]
                return Outcome(notes=notes, answer=answer)
            case FinishDirectory():
                self._finish(task, notes)
                return Outcome(notes=notes)
            case LayPieces():
                self._large.lay(task)
                return Outcome(notes=notes)
            case _:
                raise TypeError(f"not a task of a restore: {type(task)}")

    def close(self) -> None:
        self._target.close()
        self._data.close()

    # --- directories ------------------------------------------------------------------------------

    def make_directory(self, entry: Entry) -> MadeDirectory | None:
        """Make it or reuse it, for the coordinator; its attributes come with FinishDirectory.
        None if others prevented it. What there is to note is in the pulse's notes.

        :raises CopyFailed:
        """
        notes = self._pulse.start()
        self._pulse.entry()
        try:
            made: MadeDirectory = self._target.bare_directory(entry.path)
        except TargetFailed as failed:
            raise copy_failed(entry.path, failed.error) from failed
        except Raced:
            notes.change(entry.path)
        except Mounted:
            notes.warnings += 1
            notes.skip(entry.path)
        else:
            notes.directories += 1
            notes.lose(entry.path, made.held.losses)
            return made
        return None

    def _finish(self, task: FinishDirectory, notes: Notes) -> None:
        try:
            losses = self._target.finish(
                task.path, task.target, task.wanted, task.losses, strip=task.strip
            )
        except TargetFailed as failed:
            raise copy_failed(task.path, failed.error) from failed
        except (Raced, Mounted):
            notes.change(task.path)
        else:
            notes.lose(task.path, losses)

    # --- large files, for the coordinator: see LargeLayer -----------------------------------------

    def begin_large(self, entry: Entry) -> MadeFile | None:
        """As :meth:`make_directory` does."""
        notes = self._pulse.start()
        self._pulse.entry()
        return self._large.begin(entry, notes)

    def seal_large(self, entry: Entry, new: MadeFile) -> None:
        self._large.seal(entry, new, self._pulse.start())

    def take_back(self, entry: Entry, new: MadeFile) -> None:
        self._large.take_back(entry, new)

    # --- small files ------------------------------------------------------------------------------

    def _lay_entries(self, task: LayEntries, notes: Notes) -> Outcome:
        outcome = Outcome(notes=notes)
        for directory, group in groupby(task.entries, key=_directory):
            entries = list(group)
            for start in range(0, len(entries), _SLICE):
                part = entries[start : start + _SLICE]
                done = self._lay_small(directory, [e for e in part if self._is_small(e)], notes)
                for entry in part:
                    if entry.path not in done:
                        self._lay(entry, outcome)
        return outcome

    def _is_small(self, entry: Entry) -> bool:
        content = entry.content
        return (
            self._holds_small
            and content is not None
            and entry.link_group is None
            and entry.size <= SMALL_BYTES
            and content.extents is None
        )

    def _lay_small(self, directory: bytes, entries: list[Entry], notes: Notes) -> set[bytes]:
        """Lay what has nothing particular about it; the others are for :meth:`_lay`, be it to find
        out why."""
        done: set[bytes] = set()
        while entries:
            data_fd = self._data.directory(directory)
            if data_fd is None:
                break
            names = [entry.path.rpartition(b"/")[2] for entry in entries]
            found = self._small.read(data_fd, names, self._pulse.cancelled)
            items: list[NewFile] = []
            chosen: list[Entry] = []
            for entry, name, file in zip(entries, names, found, strict=False):
                if file is None or len(file.content) != entry.size:
                    continue
                pieces = entry.content.pieces if entry.content is not None else ()
                if entry.size and blake3(file.content).digest() != pieces[0]:
                    continue
                chosen.append(entry)
                items.append(
                    NewFile(
                        name,
                        file.content,
                        entry.mode,
                        entry.uid,
                        entry.gid,
                        entry.mtime_ns,
                        dict(entry.xattrs) if entry.xattrs else None,
                    )
                )
            bytes_before = notes.bytes
            if items:
                self._write_small(directory, chosen, items, done, notes)
            self._pulse.entry()
            self._pulse.pace(notes.bytes - bytes_before)
            if not found:
                break
            entries = entries[len(found) :]
        return done

    def _write_small(
        self,
        directory: bytes,
        entries: list[Entry],
        items: list[NewFile],
        done: set[bytes],
        notes: Notes,
    ) -> None:
        try:
            target_fd = self._target.enter(directory)
        except (TargetFailed, Raced, Mounted):
            return  # the careful way says why
        again = [
            index
            for index, ok in enumerate(self._small.write(target_fd, items, self._pulse.cancelled))
            if not self._count_small(entries[index], ok, done, notes)
        ]
        again = [index for index in again if self._make_way(target_fd, items[index])]
        if again:
            written = self._small.write(
                target_fd, [items[index] for index in again], self._pulse.cancelled
            )
            for index, ok in zip(again, written, strict=False):
                self._count_small(entries[index], ok, done, notes)

    def _count_small(self, entry: Entry, ok: bool, done: set[bytes], notes: Notes) -> bool:
        if ok:
            notes.files += 1
            notes.bytes += entry.size
            notes.logical_bytes += entry.size
            done.add(entry.path)
        return ok

    def _make_way(self, target_fd: int, item: NewFile) -> bool:
        """What is there already is replaced. What cannot just be unlinked, the careful way deals
        with."""
        try:
            self._files.unlink(item.name, target_fd)
        except OSError:
            return False
        return True

    # --- one entry, the careful way ---------------------------------------------------------------

    def _lay(self, entry: Entry, outcome: Outcome) -> None:
        notes = outcome.notes
        bytes_before = notes.bytes
        made: Identity | None = None
        self._pulse.entry()
        try:
            made = self._lay_whole(entry, notes)
        except TargetFailed as failed:
            raise copy_failed(entry.path, failed.error) from failed
        except OSError as error:
            raise copy_failed(entry.path, error) from error
        except Raced:
            notes.bytes = bytes_before
            notes.change(entry.path)
        except Mounted:
            notes.bytes = bytes_before
            notes.warnings += 1
            notes.skip(entry.path)
        if entry.link_group is not None:
            outcome.records.append((entry.path, made))

    def _lay_whole(self, entry: Entry, notes: Notes) -> Identity | None:
        wanted = Attributes.of_entry(entry)
        if entry.type is EntryType.FILE:
            return self._lay_file(entry, wanted, notes)
        if entry.type is EntryType.SYMLINK:
            held = self._target.symlink(entry.path, entry.link_target, wanted)
        else:
            held = self._target.special(entry.path, entry.type, entry.rdev, wanted)
        notes.others += 1
        notes.lose(entry.path, held.losses)
        return held.made

    def _lay_file(self, entry: Entry, wanted: Attributes, notes: Notes) -> Identity:
        if entry.content is None:
            raise TargetFailed(OSError(errno.EMLINK, os.strerror(errno.EMLINK)))
        with self._data.opened(entry) as data, self._target.new_file(entry.path) as new:
            self._mover.restore(entry, entry.content, data, new.fd)
            held: Held = self._target.seal(new.fd, wanted)
        notes.files += 1
        notes.logical_bytes += entry.size
        notes.lose(entry.path, held.losses)
        return new.identity

    def _make_link(self, task: Link, notes: Notes) -> LinkMade:
        self._pulse.entry()
        try:
            if self._target.link(task.path, task.first, task.inode):
                return LinkMade.YES
        except CannotLink:
            return LinkMade.IMPOSSIBLE
        except TargetFailed as failed:
            raise copy_failed(task.path, failed.error) from failed
        except Raced:
            notes.change(task.path)
            return LinkMade.PREVENTED
        except Mounted:
            notes.warnings += 1
            notes.skip(task.path)
            return LinkMade.PREVENTED
        return LinkMade.FIRST_GONE


def _directory(entry: Entry) -> bytes:
    return entry.path.rpartition(b"/")[0]
