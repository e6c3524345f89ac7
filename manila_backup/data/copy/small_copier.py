# SPDX-License-Identifier: Apache-2.0
"""A worker's part in the small files of a live tree, without anything particular about them."""

from __future__ import annotations

import os
from typing import NamedTuple

from manila_backup.data.catalog import codec
from manila_backup.data.catalog.pieces import single
from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.errors import TargetFailed
from manila_backup.data.copy.notes import Notes, Pulse
from manila_backup.data.copy.small import SMALL_BYTES, Habits, SmallFile, SmallFiles, Wish
from manila_backup.data.copy.sysio import Files, Kind
from manila_backup.data.copy.target import Mounted, Raced, Target
from manila_backup.data.copy.tasks import Directory, Name

_MISSES = 8
"""After so many slices in a row of which nothing could be written the fast way, the target is one
that does not hold what is asked for (owners under root squash): not tried any more."""

_SPECIAL_BITS = 0o6000
_ALL_BITS = 0o7777


class Into(NamedTuple):
    """A directory that files are copied to, as it was looked at."""

    directory: Directory
    habits: Habits


class SmallCopier:
    """Reads and writes many files with few calls; ``target`` is the worker's.

    ``hashing``: make entries for a catalog, with checksums.
    """

    def __init__(
        self, target: Target, options: CopyOptions, pulse: Pulse, *, hashing: bool, files: Files
    ) -> None:
        self._target = target
        self._options = options
        self._pulse = pulse
        self._hashing = hashing
        self._files = files
        self._small = SmallFiles(files)
        self._wish = Wish(
            mask=~_SPECIAL_BITS & _ALL_BITS if options.plain_target else _ALL_BITS,
            need=0 if os.geteuid() == 0 else 0o400,
            replace=True,
            keep=hashing,
        )
        self._misses = 0
        self._is_worth_it = options.read_ahead_bytes >= SMALL_BYTES

    def into(self, directory: Directory, names: list[Name]) -> Into | None:
        """For :meth:`copy`. None: there is nothing for it to do, or the directory cannot be entered
        or looked at; the careful way says why."""
        if not self._is_worth_it or not any(kind is Kind.FILE for _, kind in names):
            return None
        try:
            fd = self._target.enter(directory.path, directory.target)
            return Into(directory, self._small.habits(fd))
        except (TargetFailed, Raced, Mounted, OSError):
            return None

    def copy(
        self, into: Into, fd: int, names: list[Name], notes: Notes
    ) -> tuple[dict[bytes, bytes], int]:
        """Copy what can be: name to encoded entry (empty without a catalog); and how many of the
        names were come to. Of these the others are for the careful way, be it to find out why.

        It ends early when it took long. At least one name was come to.
        """
        done: dict[bytes, bytes] = {}
        places = [place for place, (_, kind) in enumerate(names) if kind is Kind.FILE]
        if not places or not self._is_worth_it:
            return done, len(names)
        directory = into.directory
        try:
            target_fd = self._target.enter(directory.path, directory.target)
        except (TargetFailed, Raced, Mounted):
            return done, len(names)  # the careful way says why
        todo = [names[place][0] for place in places]
        found, unwritten = self._small.copy(
            (fd, target_fd),
            todo,
            self._wish._replace(replace=not directory.fresh),
            into.habits,
            self._pulse.cancelled,
        )
        bytes_before = notes.bytes
        prefix = directory.path + b"/" if directory.path else b""
        for name, file in zip(todo, found, strict=False):
            if file is None:
                continue
            size = file[3]
            notes.files += 1
            notes.bytes += size
            notes.logical_bytes += size
            done[name] = self._encoded(prefix + name, file) if self._hashing else b""
        self._count_misses(found, unwritten)
        self._pulse.entry()
        self._pulse.pace(notes.bytes - bytes_before)
        return done, places[len(found)] if len(found) < len(todo) else len(names)

    def _count_misses(self, found: list[SmallFile | None], unwritten: int) -> None:
        if any(found):
            self._misses = 0
        elif unwritten:
            self._misses += 1
            self._is_worth_it = self._misses <= _MISSES

    def _encoded(self, path: bytes, file: SmallFile) -> bytes:
        mode, uid, gid, size, mtime_ns, ctime_ns, inode, xattrs, content = file
        pieces, root = single(content)
        losses = ("mode",) if self._options.plain_target and mode & _SPECIAL_BITS else ()
        return codec.encode_file(
            path, mode, uid, gid, mtime_ns, ctime_ns, inode, size, xattrs, pieces, root, losses
        )
