# SPDX-License-Identifier: Apache-2.0
"""Copy a live tree into another directory, and write its catalog on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Callable, Generator

from manila_backup.data.catalog.codec import Malformed
from manila_backup.data.catalog.entry import Entry, EntryType
from manila_backup.data.catalog.writer import CatalogWriter
from manila_backup.data.copy.attributes import Attributes, storable_time
from manila_backup.data.copy.base import CopyOptions, CopyResult
from manila_backup.data.copy.content import Copied, Mover
from manila_backup.data.copy.dirstack import Identity, identity_of
from manila_backup.data.copy.errors import TargetFailed, copy_failed, target_errors
from manila_backup.data.copy.links import Linked, SourceLinks
from manila_backup.data.copy.prune import Pruner, Wanted
from manila_backup.data.copy.source import OpenEntry, SourceFiles, Swapped, type_of
from manila_backup.data.copy.sysio import SYSTEM, Files
from manila_backup.data.copy.tally import Tally
from manila_backup.data.copy.target import CannotLink, Held, Mounted, Raced, Target
from manila_backup.data.copy.ticks import Ticks
from manila_backup.data.copy.walk import Found, Walk
from manila_backup.types import Counters

_LOOKS = 2
"""How often an entry that turns out to be something else is looked at."""


def copy_tree(
    source_fd: int,
    target_fd: int,
    options: CopyOptions,
    *,
    catalog: CatalogWriter | None,
    progress: Callable[[Counters], None],
    cancelled: Callable[[], bool],
    files: Files = SYSTEM,
) -> CopyResult:
    """Copy the tree below ``source_fd`` over what is below ``target_fd``, the roots' own metadata
    included. Both are directory fds opened O_RDONLY; they stay open and are the caller's.

    With ``catalog`` every entry is added to it, checksums included; the caller closes it. Nothing
    is synced to disk: that is the caller's too.
    :raises CopyFailed: a file operation failed; what was copied so far stays.
    :raises Cancelled:
    """
    tally = Tally(progress)
    copier = _TreeCopy(
        source_fd,
        target_fd,
        options,
        catalog=catalog,
        tally=tally,
        cancelled=cancelled,
        files=files,
    )
    pruner = copier.pruner()
    if options.delete:
        pruner.before()
    copier.run()
    if options.delete:
        pruner.after(compare=False)
    tally.report()
    return tally.result()


class _TreeCopy:
    def __init__(
        self,
        source_fd: int,
        target_fd: int,
        options: CopyOptions,
        *,
        catalog: CatalogWriter | None,
        tally: Tally,
        cancelled: Callable[[], bool],
        files: Files,
    ) -> None:
        self._source_fd = source_fd
        self._target_fd = target_fd
        self._options = options
        self._catalog = catalog
        self._tally = tally
        self._cancelled = cancelled
        self._files = files
        self._source = SourceFiles(files, is_root=os.geteuid() == 0)
        self._links = SourceLinks()
        ticks = Ticks(tally, cancelled)
        self._mover = Mover(files, options.read_ahead_bytes, ticks.content)

    def run(self) -> None:
        self._walk = self._new_walk(self._tally.skip)
        try:
            self._mount = self._files.mount_id(self._source_fd)
            self._target = Target(
                self._target_fd,
                self._options,
                files=self._files,
                cancelled=self._cancelled,
                late=_fail_late,
                lose=self._tally.lose,
            )
        except OSError as error:
            raise copy_failed(b"", error) from error
        try:
            with contextlib.closing(iter(self._walk)) as tree:
                for found in tree:
                    self._copy(found)
                    self._tally.report()
            self._target.finish()
        except TargetFailed as failed:
            raise copy_failed(b"", failed.error) from failed
        finally:
            self._target.close()

    def pruner(self) -> Pruner:
        """Removes from the target what the source lacks."""
        return Pruner(
            self._target_fd, self._wanted, self._tally, cancelled=self._cancelled, files=self._files
        )

    def _wanted(self) -> Generator[Wanted]:
        walk = self._new_walk(lambda path: None)
        with contextlib.closing(iter(walk)) as tree:
            for found in tree:
                try:
                    type_ = type_of(found.stat)
                except Swapped:
                    continue
                if not (type_.is_special and self._options.plain_target):
                    yield Wanted(found.path, type_, found.stat.st_size, found.stat.st_mtime_ns)

    def _new_walk(self, on_skip: Callable[[bytes], None]) -> Walk:
        return Walk(self._source_fd, files=self._files, cancelled=self._cancelled, on_skip=on_skip)

    # --- one entry --------------------------------------------------------------------------------

    def _copy(self, found: Found) -> None:
        """Copy it as what it is; if it is not what it was, look once more."""
        bytes_before = self._tally.bytes
        try:
            if self._copy_looking_again(found):
                return
        except FileNotFoundError as error:
            if not found.path:
                raise copy_failed(b"", error) from error
        except OSError as error:
            if error.errno != errno.ESTALE or self._is_there(found):
                raise copy_failed(found.path, error) from error
        except TargetFailed as failed:
            raise copy_failed(found.path, failed.error) from failed
        except Raced as raced:
            raise copy_failed(found.path, raced.error) from raced
        except Mounted:
            busy = OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            raise copy_failed(found.path, busy) from None
        self._tally.bytes = bytes_before
        self._walk.skip()
        self._tally.skip(found.path)

    def _copy_looking_again(self, found: Found) -> bool:
        for _ in range(_LOOKS):
            try:
                self._copy_as(found, type_of(found.stat))
                return True
            except Swapped:
                found.stat = self._files.lstat(found.name, found.parent_fd)
        return False

    def _is_there(self, found: Found) -> bool:
        """After ESTALE: another NFS client may have removed the file while it was read."""
        try:
            info = self._files.lstat(found.name, found.parent_fd)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return identity_of(info) == identity_of(found.stat)

    def _copy_as(self, found: Found, type_: EntryType) -> None:
        linked = None
        if type_ is not EntryType.DIRECTORY and found.stat.st_nlink > 1:
            linked = self._links.find(identity_of(found.stat), type_, found.stat)
        try:
            if linked is not None and self._link(found, linked):
                return
            linked = None
        except CannotLink:
            pass  # it gets an inode of its own; the catalog has the link
        with self._source.opened(found.name, found.parent_fd, type_) as opened:
            if type_ is EntryType.DIRECTORY:
                self._copy_directory(found, opened)
            elif type_ is EntryType.FILE:
                self._copy_file(found, opened, linked)
            else:
                self._copy_special(found, opened, type_, linked)

    def _copy_directory(self, found: Found, opened: OpenEntry) -> None:
        if identity_of(opened.stat) != identity_of(found.stat):
            raise Swapped
        if found.path and self._files.mount_id(opened.fd) != self._mount:
            self._tally.warnings += 1
            self._walk.skip()
        wanted = Attributes.of_stat(opened.stat, opened.xattrs)
        held = self._target.directory(found.path, wanted)
        self._tally.directories += 1
        self._record(entry_of(found.path, EntryType.DIRECTORY, opened.stat, wanted), wanted, held)

    def _copy_special(
        self, found: Found, opened: OpenEntry, type_: EntryType, linked: Linked | None
    ) -> None:
        wanted = Attributes.of_stat(opened.stat, opened.xattrs)
        entry = entry_of(found.path, type_, opened.stat, wanted)
        if type_ is EntryType.SYMLINK:
            link_target = self._files.readlink(opened.fd)
            entry = dataclasses.replace(entry, link_target=link_target, size=len(link_target))
            held = self._target.symlink(found.path, link_target, wanted)
        else:
            held = self._target.special(found.path, type_, opened.stat.st_rdev, wanted)
        self._tally.others += 1
        if linked is not None:
            self._record_unlinked(linked, found.path, wanted, held, opened.stat)
            return
        self._record_first(entry, wanted, held, opened.stat, held.made)

    def _copy_file(self, found: Found, opened: OpenEntry, linked: Linked | None) -> None:
        with self._target.new_file(found.path) as new:
            seen, copied, changed = self._copy_content(opened, new.fd)
            wanted = Attributes.of_stat(seen.stat, seen.xattrs)
            held = self._target.seal(new.fd, wanted)
        self._tally.files += 1
        if changed:
            self._tally.change(found.path)
        entry = dataclasses.replace(
            entry_of(found.path, EntryType.FILE, seen.stat, wanted),
            size=copied.size,
            content=copied.content,
            changed=changed,
        )
        if linked is not None and not changed and self._links.is_current(linked, seen.stat):
            self._record_unlinked(linked, found.path, wanted, held, seen.stat)
            return
        self._tally.logical_bytes += copied.size
        self._record_first(entry, wanted, held, seen.stat, new.identity)

    def _copy_content(self, opened: OpenEntry, target: int) -> tuple[OpenEntry, Copied, bool]:
        """What was copied, as it looked before; and whether it changed meanwhile, twice."""
        copied = self._move(opened, target)
        if not copied.cut_short and self._is_unchanged(opened):
            return opened, copied, False
        self._tally.bytes -= copied.bytes
        with target_errors():
            self._files.truncate(target, 0)
        again = self._source.again(opened)
        copied = self._move(again, target)
        return again, copied, copied.cut_short or not self._is_unchanged(again)

    def _move(self, opened: OpenEntry, target: int) -> Copied:
        hashing = self._catalog is not None
        if self._options.reflink and not hashing:
            cloned = self._mover.clone(opened.fd, target)
            if cloned is not None:
                return cloned
        return self._mover.copy(opened.fd, target, opened.stat.st_size, hashing=hashing)

    def _is_unchanged(self, opened: OpenEntry) -> bool:
        before, after = opened.stat, self._files.fstat(opened.fd)
        return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
            after.st_size,
            after.st_mtime_ns,
            after.st_ctime_ns,
        )

    # --- hard links and the catalog ---------------------------------------------------------------

    def _link(self, found: Found, linked: Linked) -> bool:
        """False: the first name is gone from the target; this one becomes the first.

        :raises CannotLink:
        """
        held = Held(left_out=("special",))
        if linked.target is not None:
            held = Held()
            if not self._target.link(found.path, linked.first.path, linked.target):
                self._links.forget(identity_of(found.stat))
                return False
        if linked.first.type is EntryType.FILE:
            self._tally.files += 1
        else:
            self._tally.others += 1
        self._record(linked.entry_at(found.path), None, held)
        self._links.passed(identity_of(found.stat))
        return True

    def _record_unlinked(
        self, linked: Linked, path: bytes, wanted: Attributes, held: Held, info: os.stat_result
    ) -> None:
        """The target could not take another link, so it has a copy; the catalog has the link."""
        self._record(linked.entry_at(path), wanted, held.and_lost("link"))
        self._links.passed(identity_of(info))

    def _record_first(
        self,
        entry: Entry,
        wanted: Attributes,
        held: Held,
        info: os.stat_result,
        made: Identity | None,
    ) -> None:
        if info.st_nlink > 1:
            entry = dataclasses.replace(entry, link_group=self._links.next_group())
            self._links.add(identity_of(info), info.st_nlink, entry, made)
        self._record(entry, wanted, held)

    def _record(self, entry: Entry, wanted: Attributes | None, held: Held) -> None:
        """``wanted`` None: a later link, whose losses were counted with the first."""
        unread = wanted.lost if wanted is not None else ()
        labels = dict.fromkeys(held.labels() + unread)
        self._tally.lose(entry.path, dict.fromkeys(held.losses + unread))
        if self._catalog is None:
            return
        try:
            self._catalog.add(dataclasses.replace(entry, losses=tuple(labels)))
        except Malformed:
            raise  # a mistake of this engine, nothing that a tree could cause
        except ValueError as error:
            too_big = OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            raise copy_failed(entry.path, too_big) from error


def entry_of(path: bytes, type_: EntryType, info: os.stat_result, wanted: Attributes) -> Entry:
    return Entry(
        path=path,
        type=type_,
        mode=wanted.mode,
        uid=wanted.uid,
        gid=wanted.gid,
        mtime_ns=wanted.mtime_ns,
        ctime_ns=storable_time(info.st_ctime_ns),
        inode=info.st_ino,
        rdev=info.st_rdev,
        xattrs=wanted.xattrs,
    )


def _fail_late(path: bytes, error: OSError | Raced) -> None:
    raise copy_failed(path, error.error if isinstance(error, Raced) else error) from error
