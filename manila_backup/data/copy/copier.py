# SPDX-License-Identifier: Apache-2.0
"""A worker of a live-tree copy: does one task after another, each within one directory."""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
from collections.abc import Callable
from typing import Any

from manila_backup.data.catalog import codec
from manila_backup.data.catalog.entry import Entry, EntryType
from manila_backup.data.copy.attributes import Attributes, Xattrs, entry_of, storable_time
from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.content import Copied, Mover
from manila_backup.data.copy.dirstack import (
    DirStack,
    Identity,
    Lock,
    NotTheDirectory,
    OtherMount,
    identity_of,
)
from manila_backup.data.copy.errors import TargetFailed, copy_failed, target_errors
from manila_backup.data.copy.lister import Lister
from manila_backup.data.copy.notes import Notes, Pulse
from manila_backup.data.copy.ranges import LARGE_BYTES, Ranges
from manila_backup.data.copy.small_copier import SmallCopier
from manila_backup.data.copy.source import OpenEntry, SourceFiles, Swapped, type_of
from manila_backup.data.copy.sysio import Files, Kind
from manila_backup.data.copy.target import CannotLink, Held, MadeFile, Mounted, Raced, Target
from manila_backup.data.copy.tasks import (
    BeginFile,
    CopyDirectory,
    CopyNames,
    CopyRange,
    Directory,
    Entered,
    FinishDirectory,
    Large,
    Link,
    Linked,
    LinkMade,
    MakeLinks,
    Name,
    NotEntered,
    Outcome,
    Record,
    SealFile,
    Task,
    Whole,
)
from manila_backup.data.copy.walk import GONE

LOOKS = 2
"""How often an entry that turns out to be something else is looked at."""

_SLICE = 32
"""Small files read before they are written; their content is held meanwhile."""

_SHARE_BYTES = 32 << 20
"""After so much content a task gives back what is left of it, whether or not others ask for it."""


class Copier:
    """Works on one source and one target; not to be shared by threads. ``lister`` is its own.

    ``hashing``: make entries for a catalog, with checksums. ``share``: others may take a part of
    the work, so long tasks are cut short and large files left.
    """

    def __init__(
        self,
        source_fd: int,
        target_fd: int,
        options: CopyOptions,
        pulse: Pulse,
        *,
        hashing: bool,
        share: bool,
        files: Files,
        window: int,
    ) -> None:
        """:raises OSError: the roots cannot be looked at."""
        self._share = share
        self._options = options
        self._pulse = pulse
        self._hashing = hashing
        self._files = files
        self._is_root = os.geteuid() == 0
        self._dirs = DirStack(source_fd, files, lock=Lock.PUT_BACK, window=window)
        self._source = SourceFiles(files, is_root=self._is_root)
        self._target = Target(
            target_fd, options, files=files, cancelled=pulse.cancelled, window=window
        )
        self._small = SmallCopier(self._target, options, pulse, hashing=hashing, files=files)
        self.lister = Lister(
            self._dirs, self._target, options, pulse, is_stale=self._is_stale, files=files
        )
        self._mover = Mover(files, options.read_ahead_bytes, pulse.content)
        self._ranges = Ranges(
            files,
            dirs=self._dirs,
            source=self._source,
            target=self._target,
            mover=self._mover,
            pulse=pulse,
            hashing=hashing,
        )

    def do(self, task: Task) -> Outcome:
        """:raises CopyFailed: :raises Cancelled:"""
        notes = self._pulse.start()
        self._pulse.entry()
        match task:
            case CopyDirectory():
                return self._copy_directory(task, notes)
            case CopyNames():
                return self._copy_names(task, notes)
        return Outcome(notes=notes, answer=self._answer(task, notes))

    def _answer(self, task: Task, notes: Notes) -> Any:
        answer: Any = None
        match task:
            case BeginFile():
                answer = self._ranges.begin(task)
            case CopyRange():
                answer = self._ranges.copy(task)
            case SealFile():
                answer = self._seal(task, notes)
            case MakeLinks():
                answer = [self._make_link(link) for link in task.links]
            case FinishDirectory():
                self._finish(task, notes)
            case _:
                raise TypeError(f"not a task of a copy: {type(task)}")
        return answer

    def close(self) -> None:
        self._dirs.close()
        self._target.close()

    # --- directories ------------------------------------------------------------------------------

    def _copy_directory(self, task: CopyDirectory, notes: Notes) -> Outcome:
        path = task.path
        try:
            opened = self._enter(path, task.parent)
        except NotTheDirectory:
            notes.skip(path)
            return Outcome(notes=notes, answer=NotEntered.GONE)
        except Swapped:
            return Outcome(notes=notes, answer=NotEntered.OTHER_TYPE)
        except OSError as error:
            if error.errno not in GONE and not self._is_stale(error, path):
                raise copy_failed(path, error) from error
            if not path:
                raise copy_failed(path, error) from error
            notes.skip(path)
            return Outcome(notes=notes, answer=NotEntered.GONE)
        covered = opened.fd < 0
        wanted = Attributes.of_stat(opened.stat, opened.xattrs)
        made = self._checked(path, lambda: self._target.bare_directory(path))
        notes.directories += 1
        directory = Directory(
            path=path,
            source=identity_of(opened.stat),
            target=made.identity,
            fresh=not made.reused or (self._options.delete and covered),
        )
        names: list[Name] | None = []
        if covered:
            notes.warnings += 1
        else:
            names = self.lister.names(opened.fd, path)
        records = _Records()
        if names is not None:
            self.lister.prune(directory, (name for name, _ in names))
            if len(names) <= task.limit:
                records = self._copy(directory, opened.fd, names, notes)
                names = records.left
        is_finished = names == [] and all(type(value) is bytes for _, value in records.done)
        act = self._target.finish_new if is_finished else self._target.dress
        held = self._checked(path, lambda: act(path, made, wanted))
        entry = entry_of(path, EntryType.DIRECTORY, opened.stat, wanted)
        answer = Entered(
            directory=directory,
            entry=self._noted(entry, wanted.lost, held, notes),
            wanted=wanted,
            losses=held.losses,
            names=names,
            is_finished=is_finished,
        )
        return Outcome(notes=notes, records=records.done, answer=answer)

    def _enter(self, path: bytes, parent: Identity | None) -> OpenEntry:
        """The directory with its attributes; the fd is the stack's, and -1 under another mount.

        :raises NotTheDirectory: its parent is another one by now, or covered by a mount.
        :raises Swapped: it is no directory.
        :raises OSError: ENOENT if it or its parent has vanished.
        """
        name = path.rpartition(b"/")[2] or b"."
        try:
            parent_fd = self._dirs.enter(path.rpartition(b"/")[0], parent)
        except OtherMount:
            raise NotTheDirectory from None
        except OSError as error:
            if error.errno in GONE:
                raise NotTheDirectory from error
            raise
        try:
            with self._source.opened(name, parent_fd, EntryType.DIRECTORY) as opened:
                pass
        except OtherMount:
            # Neither the owner nor the attributes of what is mounted there are the share's.
            return OpenEntry(-1, self._files.fstat(parent_fd), Xattrs({}), False)
        try:
            fd = self._dirs.enter(path, identity_of(opened.stat))
        except OtherMount:
            return dataclasses.replace(opened, fd=-1)
        return dataclasses.replace(opened, fd=fd)

    def _finish(self, task: FinishDirectory, notes: Notes) -> None:
        more = self._checked(
            task.path,
            lambda: self._target.finish(
                task.path, task.target, task.wanted, task.losses, strip=task.strip
            ),
        )
        notes.lose(task.path, more)

    # --- the entries of a directory ---------------------------------------------------------------

    def _copy_names(self, task: CopyNames, notes: Notes) -> Outcome:
        path = task.directory.path
        try:
            fd = self._dirs.enter(path, task.directory.source)
        except (NotTheDirectory, OtherMount):
            notes.skip(path)
            return Outcome(notes=notes)
        except OSError as error:
            if error.errno not in GONE and not self._is_stale(error, path):
                raise copy_failed(path, error) from error
            notes.skip(path)
            return Outcome(notes=notes)
        records = self._copy(
            task.directory, fd, task.names, notes, whole=task.whole, large=task.large
        )
        return Outcome(notes=notes, records=records.done, rest=records.left)

    def _copy(
        self,
        directory: Directory,
        fd: int,
        names: list[Name],
        notes: Notes,
        *,
        whole: bool = False,
        large: bool = False,
    ) -> _Records:
        """Copy some entries in order, slice by slice."""
        records = _Records()
        into = None if whole else self._small.into(directory, names)
        size = 1 if whole else _SLICE  # whole, each may be of any size
        start = 0
        while start < len(names):
            if start and self._is_to_share(notes):
                break
            part = names[start : start + size]
            small: dict[bytes, bytes] = {}
            if into is not None:
                small, count = self._small.copy(into, fd, part, notes)
                part = part[:count]
            start += len(part)
            for name, kind in part:
                if name in small:
                    if self._hashing:
                        records.done.append((name, small[name]))
                elif kind is Kind.DIRECTORY:
                    records.done.append((name, kind))
                else:
                    record = self._copy_entry(directory, fd, name, notes, whole=whole, large=large)
                    if record is not None:
                        records.done.append((name, record))
        records.left = names[start:]
        return records

    def _is_to_share(self, notes: Notes) -> bool:
        """Whether to give back what is left of a task, for others to take."""
        if not self._share:
            return False
        return notes.bytes > _SHARE_BYTES or self._pulse.is_asked_to_share()

    # --- one entry, the careful way ---------------------------------------------------------------

    def _copy_entry(
        self,
        directory: Directory,
        fd: int,
        name: bytes,
        notes: Notes,
        *,
        whole: bool,
        large: bool,
    ) -> Any:
        """Copy it as what it is; if it is not what it was, look once more. Answers its record."""
        path = directory.path + b"/" + name if directory.path else name
        bytes_before = notes.bytes
        info: os.stat_result | None = None
        self._pulse.entry()
        try:
            for _ in range(LOOKS):
                info = self._files.lstat(name, fd)
                try:
                    if self._leaves(info, whole=whole, large=large):
                        return Large(size=info.st_size)
                    return self._copy_as(path, fd, info, notes, whole=whole)
                except Swapped:
                    notes.bytes = bytes_before
        except (FileNotFoundError, OtherMount):
            pass
        except OSError as error:
            if error.errno != errno.ESTALE or self._is_there(name, fd, info):
                raise copy_failed(path, error) from error
        notes.bytes = bytes_before
        notes.skip(path)
        return None

    def _leaves(self, info: os.stat_result, *, whole: bool, large: bool) -> bool:
        """Whether to leave a file for a task of its own."""
        if whole or large or not self._share or info.st_size < LARGE_BYTES:
            return False
        return stat.S_ISREG(info.st_mode) and info.st_nlink == 1

    def _copy_as(
        self,
        path: bytes,
        fd: int,
        info: os.stat_result,
        notes: Notes,
        *,
        whole: bool,
    ) -> Any:
        name = path.rpartition(b"/")[2]
        type_ = type_of(info)
        if type_ is EntryType.DIRECTORY:
            return Kind.DIRECTORY
        if info.st_nlink > 1 and not whole:
            return Linked(
                inode=identity_of(info),
                type=type_,
                size=info.st_size,
                mtime_ns=storable_time(info.st_mtime_ns),
            )
        with self._source.opened(name, fd, type_) as opened:
            if type_ is EntryType.FILE:
                entry, made = self._checked(path, lambda: self._copy_file(path, opened, notes))
            else:
                entry, made = self._checked(
                    path, lambda: self._copy_special(path, opened, type_, notes)
                )
        if whole:
            return Whole(entry=entry, links=opened.stat.st_nlink, made=made)
        return encoded(entry) if self._hashing else None

    def _copy_special(
        self, path: bytes, opened: OpenEntry, type_: EntryType, notes: Notes
    ) -> tuple[Entry, Identity | None]:
        wanted = Attributes.of_stat(opened.stat, opened.xattrs)
        entry = entry_of(path, type_, opened.stat, wanted)
        if type_ is EntryType.SYMLINK:
            link_target = self._files.readlink(opened.fd)
            entry = dataclasses.replace(entry, link_target=link_target, size=len(link_target))
            held = self._target.symlink(path, link_target, wanted)
        else:
            held = self._target.special(path, type_, opened.stat.st_rdev, wanted)
        notes.others += 1
        return self._noted(entry, wanted.lost, held, notes), held.made

    def _copy_file(
        self, path: bytes, opened: OpenEntry, notes: Notes
    ) -> tuple[Entry, Identity | None]:
        with self._target.new_file(path) as new:
            seen, copied, changed = self._copy_content(opened, new.fd, notes)
            wanted = Attributes.of_stat(seen.stat, seen.xattrs)
            held = self._target.seal(new.fd, wanted)
        notes.files += 1
        notes.logical_bytes += copied.size
        if changed:
            notes.change(path)
        entry = dataclasses.replace(
            entry_of(path, EntryType.FILE, seen.stat, wanted),
            size=copied.size,
            content=copied.content,
            changed=changed,
        )
        return self._noted(entry, wanted.lost, held, notes), new.identity

    def _copy_content(
        self, opened: OpenEntry, target: int, notes: Notes
    ) -> tuple[OpenEntry, Copied, bool]:
        """What was copied, as it looked before; and whether it changed meanwhile, twice."""
        copied = self._move(opened, target)
        if not copied.cut_short and self._is_unchanged(opened):
            return opened, copied, False
        notes.bytes -= copied.bytes
        with target_errors():
            self._files.truncate(target, 0)
        again = self._source.again(opened)
        copied = self._move(again, target)
        return again, copied, copied.cut_short or not self._is_unchanged(again)

    def _move(self, opened: OpenEntry, target: int) -> Copied:
        if self._options.reflink and not self._hashing:
            cloned = self._mover.clone(opened.fd, target)
            if cloned is not None:
                return cloned
        return self._mover.copy(opened.fd, target, opened.stat.st_size, hashing=self._hashing)

    def _is_unchanged(self, opened: OpenEntry) -> bool:
        before, after = opened.stat, self._files.fstat(opened.fd)
        return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
            after.st_size,
            after.st_mtime_ns,
            after.st_ctime_ns,
        )

    def _seal(self, task: SealFile, notes: Notes) -> Entry | None:
        sealed = self._ranges.seal(task, notes)
        if sealed is None:
            return None
        entry, held, unread = sealed
        return self._noted(entry, unread, held, notes)

    def _make_link(self, task: Link) -> LinkMade:
        path = task.path
        self._pulse.entry()

        def link() -> bool:
            return self._target.link(path, task.first, task.inode)

        try:
            return LinkMade.YES if self._checked(path, link) else LinkMade.FIRST_GONE
        except CannotLink:
            return LinkMade.IMPOSSIBLE

    # --- large files: see large.Maker -------------------------------------------------------------

    def begin_large(self, path: bytes) -> MadeFile | None:
        try:
            return self._target.begin_file(path)
        except (TargetFailed, Raced, Mounted):
            return None

    def end_large(self, path: bytes, new: MadeFile) -> None:
        self._checked(path, lambda: self._target.end_file(path, new))

    def take_back(self, path: bytes, new: MadeFile) -> None:
        self._target.take_back(path, new)

    # --- common -----------------------------------------------------------------------------------

    def _noted(self, entry: Entry, unread: tuple[str, ...], held: Held, notes: Notes) -> Entry:
        """Count what was lost, and record it in the entry."""
        if not unread and not held.losses and not held.left_out:
            return entry
        notes.lose(entry.path, dict.fromkeys(held.losses + unread))
        return dataclasses.replace(entry, losses=tuple(dict.fromkeys(held.labels() + unread)))

    def _checked(self, path: bytes, act: Callable[[], Any]) -> Any:
        """Failures of the target are the operation's, whoever raced with it."""
        try:
            return act()
        except TargetFailed as failed:
            raise copy_failed(path, failed.error) from failed
        except Raced as raced:
            raise copy_failed(path, raced.error) from raced
        except Mounted:
            busy = OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            raise copy_failed(path, busy) from None

    def _is_stale(self, error: OSError, path: bytes) -> bool:
        """Whether this is how an NFS client says that another one has removed the directory."""
        if error.errno != errno.ESTALE or not path:
            return False
        try:
            self._dirs.enter(b"")
            self._dirs.enter(path)
        except (NotTheDirectory, OtherMount):
            return True
        except OSError as again:
            return again.errno in GONE
        return False

    def _is_there(self, name: bytes, fd: int, seen: os.stat_result | None) -> bool:
        """After ESTALE: another NFS client may have removed the file while it was read."""
        try:
            info = self._files.lstat(name, fd)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return seen is None or identity_of(info) == identity_of(seen)


class _Records:
    """``left``: names that were not come to."""

    def __init__(self) -> None:
        self.done: list[Record] = []
        self.left: list[Name] = []


def encoded(entry: Entry) -> bytes:
    """:raises CopyFailed: the format cannot hold it."""
    try:
        return codec.encode(entry)
    except (ValueError, OverflowError) as error:
        too_big = OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        raise copy_failed(entry.path, too_big) from error
