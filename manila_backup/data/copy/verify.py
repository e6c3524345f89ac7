# SPDX-License-Identifier: Apache-2.0
"""Compare a stored data tree with its catalog."""

from __future__ import annotations

import contextlib
import os
import stat
from array import array
from collections.abc import Callable, Iterator

from manila_backup.data.catalog.entry import Entry, EntrySource, EntryType, one_pass
from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.content import Mover
from manila_backup.data.copy.errors import ContentDamaged
from manila_backup.data.copy.notes import Notes, Pulse
from manila_backup.data.copy.stored import StoredFiles
from manila_backup.data.copy.sysio import SYSTEM, Files
from manila_backup.data.copy.tally import Tally
from manila_backup.data.copy.walk import Walk
from manila_backup.exception import CopyFailed
from manila_backup.names import printable
from manila_backup.types import Counters

_READ_BYTES = CopyOptions().read_ahead_bytes


def verify_tree(
    entries: EntrySource,
    data_fd: int,
    *,
    plain_target: bool = True,
    extra: bool = True,
    progress: Callable[[Counters], None],
    cancelled: Callable[[], bool],
    files: Files = SYSTEM,
) -> Iterator[str]:
    """Read everything back; yields each problem as ``path: what``, printable: first those of the
    catalog's entries in their order, then (with ``extra``) what is in the tree and not in the
    catalog.

    Presence, type, size, link targets, hard links, checksums. What cannot be read (EIO, EACCES) is
    a problem, too. What lies where the catalog has a hole is not looked at: a restore does not read
    it either. Counts what it reads into ``progress``. Memory: 8 bytes per hard-link group.
    :raises Cancelled:
    :raises CatalogDamaged: as the entries raise.
    """
    tally = Tally(progress)
    pulse = Pulse(cancelled, tally.live)
    stored = StoredFiles(data_fd, files)
    check = _Check(plain_target=plain_target)
    mover = Mover(files, _READ_BYTES, pulse.content)
    try:
        with one_pass(entries) as stream:
            for entry in stream:
                notes = pulse.start()
                pulse.check()
                yield from _problems(entry, check, stored, mover)
                _count(entry, notes)
                tally.take(notes)
                tally.report()
    finally:
        stored.close()
    if extra:
        yield from _extra(entries, data_fd, cancelled, files)


def check_presence(
    entries: EntrySource,
    data_fd: int,
    *,
    plain_target: bool = True,
    cancelled: Callable[[], bool],
    files: Files = SYSTEM,
) -> Iterator[str]:
    """The cheap part of :func:`verify_tree`: presence, type and size of each entry; opens no file
    and does not look for what the catalog lacks. One walk beside one pass over the entries: a file
    server tells of the entries of a directory with its listing, not one by one.
    """
    check = _Check(plain_target=plain_target)
    walk = Walk(data_fd, files=files, cancelled=cancelled, on_skip=lambda path: None)
    with one_pass(entries) as stream, contextlib.closing(iter(walk)) as tree:
        try:
            found = next(tree, None)
            for entry in stream:
                while found is not None and found.path < entry.path:
                    found = next(tree, None)
                there = found.stat if found is not None and found.path == entry.path else None
                problem = check.compare(entry, there)
                if problem is not None:
                    yield _line(entry, problem)
        except CopyFailed as error:
            yield str(error)


def _problems(entry: Entry, check: _Check, stored: StoredFiles, mover: Mover) -> Iterator[str]:
    problem = _look(entry, check, stored)
    if problem is not None:
        yield _line(entry, problem)
        return
    try:
        if entry.type is EntryType.SYMLINK and "special" not in entry.losses:
            if stored.readlink(entry) != entry.link_target:
                yield _line(entry, "its link target is another one")
        elif entry.content is not None:
            with stored.opened(entry) as fd:
                mover.verify(entry, entry.content, fd)
    except ContentDamaged as error:
        yield str(error)
    except OSError as error:
        yield _line(entry, f"it cannot be read: {os.strerror(error.errno or 0)}")


def _look(entry: Entry, check: _Check, stored: StoredFiles) -> str | None:
    try:
        return check.compare(entry, None if check.is_left_out(entry) else stored.look(entry))
    except OSError as error:
        return f"it cannot be looked at: {os.strerror(error.errno or 0)}"


def _count(entry: Entry, notes: Notes) -> None:
    if entry.type is EntryType.DIRECTORY:
        notes.directories += 1
    elif entry.type is EntryType.FILE:
        notes.files += 1
    else:
        notes.others += 1


class _Check:
    """What can be seen of an entry without opening it."""

    def __init__(self, *, plain_target: bool) -> None:
        self._plain = plain_target
        self._inodes = array("Q")  # by group; 0: not seen yet

    def is_left_out(self, entry: Entry) -> bool:
        return "special" in entry.losses or (self._plain and entry.type.is_special)

    def compare(self, entry: Entry, info: os.stat_result | None) -> str | None:
        """What is wrong with what is there (None: nothing), None if all is well."""
        if self.is_left_out(entry):
            return None
        if info is None:
            return "it is missing"
        if stat.S_IFMT(info.st_mode) != entry.type.file_format:
            return "it is of another type"
        if entry.type is EntryType.FILE and info.st_size != entry.size:
            return f"it has {info.st_size} bytes, not {entry.size}"
        return self._look_at_link(entry, info)

    def _look_at_link(self, entry: Entry, info: os.stat_result) -> str | None:
        """Groups are numbered from 1 in the order in which they come."""
        group = entry.link_group
        if group is None or "link" in entry.losses:
            return None
        while len(self._inodes) < group:
            self._inodes.append(0)
        known = self._inodes[group - 1]
        if not known:
            self._inodes[group - 1] = info.st_ino
        elif known != info.st_ino:
            return "it is not the hard link that it should be"
        return None


def _extra(
    entries: EntrySource, data_fd: int, cancelled: Callable[[], bool], files: Files
) -> Iterator[str]:
    """What the tree has and the catalog lacks; of a directory only the directory."""
    walk = Walk(data_fd, files=files, cancelled=cancelled, on_skip=lambda path: None)
    with one_pass(entries) as stream, contextlib.closing(iter(walk)) as tree:
        path = _next_path(stream)
        try:
            for found in tree:
                while path is not None and path < found.path:
                    path = _next_path(stream)
                if path != found.path:
                    walk.skip()
                    yield f"{printable(found.path)}: it is there but not in the catalog"
        except CopyFailed as error:
            yield str(error)


def _next_path(stream: Iterator[Entry]) -> bytes | None:
    entry = next(stream, None)
    return None if entry is None else entry.path


def _line(entry: Entry, problem: str) -> str:
    return f"{printable(entry.path)}: {problem}"
