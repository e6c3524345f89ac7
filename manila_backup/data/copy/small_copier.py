# SPDX-License-Identifier: Apache-2.0
"""A worker's part in the small files of a live tree, without anything particular about them."""

from __future__ import annotations

import os

from manila_backup.data.catalog import codec
from manila_backup.data.catalog.pieces import single
from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.errors import TargetFailed
from manila_backup.data.copy.notes import Notes, Pulse
from manila_backup.data.copy.small import SMALL_BYTES, NewFile, SmallFile, SmallFiles
from manila_backup.data.copy.sysio import Files, Kind
from manila_backup.data.copy.target import Mounted, Raced, Target
from manila_backup.data.copy.tasks import Directory, Name

_MISSES = 8
"""After so many slices in a row of which nothing could be written the fast way, the target is one
that does not hold what is asked for (owners under root squash): not tried any more."""

_SPECIAL_BITS = 0o6000


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
        self._is_root = os.geteuid() == 0
        self._misses = 0
        self._is_worth_it = options.read_ahead_bytes >= SMALL_BYTES

    def copy(
        self, directory: Directory, fd: int, names: list[Name], notes: Notes
    ) -> dict[bytes, bytes]:
        """Copy what can be: name to encoded entry (empty without a catalog). The others are for
        the careful way, be it to find out why.
        """
        todo = [name for name, kind in names if kind is Kind.FILE] if self._is_worth_it else []
        prefix = directory.path + b"/" if directory.path else b""
        done: dict[bytes, bytes] = {}
        while todo:
            found = self._small.read(fd, todo, self._pulse.cancelled)
            chosen = [
                (name, file)
                for name, file in zip(todo, found, strict=False)
                if file is not None and (self._is_root or file.mode & 0o400)
            ]
            todo = todo[len(found) :]
            if chosen:
                self._write(directory, prefix, chosen, done, notes)
            self._pulse.entry()
            if not found:
                break
        return done

    def _write(
        self,
        directory: Directory,
        prefix: bytes,
        chosen: list[tuple[bytes, SmallFile]],
        done: dict[bytes, bytes],
        notes: Notes,
    ) -> None:
        mask = ~_SPECIAL_BITS if self._options.plain_target else ~0
        items = [
            NewFile(name, file[8], file[0] & mask, file[1], file[2], file[4], file[7])
            for name, file in chosen
        ]
        try:
            target_fd = self._target.enter(directory.path, directory.target)
        except (TargetFailed, Raced, Mounted):
            return  # the careful way says why
        if not directory.fresh:
            self._make_way(target_fd, items)
        written = self._small.write(target_fd, items, self._pulse.cancelled)
        self._misses = 0 if any(written) else self._misses + 1
        if self._misses > _MISSES:
            self._is_worth_it = False
        for (name, file), ok in zip(chosen, written, strict=False):
            if not ok:
                continue
            size = file[3]
            notes.files += 1
            notes.bytes += size
            notes.logical_bytes += size
            done[name] = self._encoded(prefix + name, file) if self._hashing else b""

    def _make_way(self, target_fd: int, items: list[NewFile]) -> None:
        """What is there already is replaced. What cannot just be unlinked, the careful way deals
        with."""
        for item in items:
            try:
                self._files.unlink(item[0], target_fd)
            except OSError:
                continue

    def _encoded(self, path: bytes, file: SmallFile) -> bytes:
        mode, uid, gid, size, mtime_ns, ctime_ns, inode, xattrs, content = file
        pieces, root = single(content)
        losses = ("mode",) if self._options.plain_target and mode & _SPECIAL_BITS else ()
        return codec.encode_file(
            path, mode, uid, gid, mtime_ns, ctime_ns, inode, size, xattrs, pieces, root, losses
        )
