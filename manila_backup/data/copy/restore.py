# SPDX-License-Identifier: Apache-2.0
"""Lay a stored tree (catalog and data) over a directory that others may be writing to.

Exact (``options.delete``): what the catalog lacks is removed before anything is written, which
frees its space, and looked for once or twice more afterwards; what others made, changed or removed
meanwhile is counted and named. Merge: other names stay. Either way what is in the way of an entry
is replaced by it, and nothing is ever written through an inode that was there before.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator

from manila_backup.data.catalog.entry import (
    Entry,
    EntrySource,
    EntryType,
    TreeContent,
    one_pass,
)
from manila_backup.data.copy.attributes import Attributes
from manila_backup.data.copy.base import CopyOptions, CopyResult
from manila_backup.data.copy.content import Mover
from manila_backup.data.copy.errors import TargetFailed, copy_failed
from manila_backup.data.copy.links import GroupContents, TargetLinks
from manila_backup.data.copy.prune import Pruner, Wanted
from manila_backup.data.copy.stored import StoredFiles
from manila_backup.data.copy.sysio import SYSTEM, Files
from manila_backup.data.copy.tally import Tally
from manila_backup.data.copy.target import CannotLink, Held, Mounted, Raced, Target
from manila_backup.data.copy.ticks import Ticks
from manila_backup.types import Counters


def restore_tree(
    entries: EntrySource,
    data_fd: int,
    target_fd: int,
    options: CopyOptions,
    *,
    progress: Callable[[Counters], None],
    cancelled: Callable[[], bool],
    files: Files = SYSTEM,
) -> CopyResult:
    """Metadata come from the catalog, content from the data tree, each piece verified while it is
    written. ``options.delete`` makes it exact, else it merges; see the module's docstring. The
    root's own metadata are restored too.

    ``entries`` is called once, with ``delete`` up to four times, and at times once more for a hard
    link that cannot be made. Nothing is synced to disk: that is the caller's.
    :raises ContentDamaged: stored content is not what its checksum says; its target is removed.
    :raises CopyFailed: a file operation failed.
    :raises CatalogDamaged: or OSError, as the entries raise.
    :raises Cancelled:
    """
    tally = Tally(progress)
    pruner = Pruner(target_fd, lambda: _wanted(entries), tally, cancelled=cancelled, files=files)
    if options.delete:
        pruner.before()
    restore = _Restore(entries, tally, Ticks(tally, cancelled), options, files)
    restore.run(data_fd, target_fd, cancelled)
    if options.delete and pruner.after(compare=True):
        pruner.after(compare=True)
    tally.report()
    return tally.result()


def _wanted(entries: EntrySource) -> Generator[Wanted]:
    with one_pass(entries) as stream:
        for entry in stream:
            yield Wanted.of_entry(entry)


class _Restore:
    def __init__(
        self,
        entries: EntrySource,
        tally: Tally,
        ticks: Ticks,
        options: CopyOptions,
        files: Files,
    ) -> None:
        self._entries = entries
        self._tally = tally
        self._ticks = ticks
        self._options = options
        self._files = files
        self._mover = Mover(files, options.read_ahead_bytes, ticks.content)
        self._links = TargetLinks()
        self._contents = GroupContents(entries)

    def run(self, data_fd: int, target_fd: int, cancelled: Callable[[], bool]) -> None:
        try:
            self._data = StoredFiles(data_fd, self._files)
            self._target = Target(
                target_fd,
                self._options,
                files=self._files,
                cancelled=cancelled,
                late=self._late,
                lose=self._tally.lose,
            )
        except OSError as error:
            raise copy_failed(b"", error) from error
        try:
            with one_pass(self._entries) as stream:
                for entry in stream:
                    self._ticks.check()
                    self._lay(entry)
                    self._tally.report()
            self._target.finish()
        except TargetFailed as failed:
            raise copy_failed(b"", failed.error) from failed
        finally:
            self._target.close()
            self._data.close()

    def _late(self, path: bytes, error: OSError | Raced) -> None:
        if isinstance(error, OSError):
            raise copy_failed(path, error) from error
        self._tally.change(path)

    def _lay(self, entry: Entry) -> None:
        bytes_before = self._tally.bytes
        try:
            if entry.link_group is None or not self._lay_link(entry, entry.link_group):
                self._lay_whole(entry)
            return
        except TargetFailed as failed:
            raise copy_failed(entry.path, failed.error) from failed
        except OSError as error:
            raise copy_failed(entry.path, error) from error
        except Raced:
            self._tally.change(entry.path)
        except Mounted:
            self._tally.warnings += 1
            self._tally.skip(entry.path)
        self._tally.bytes = bytes_before

    def _lay_whole(self, entry: Entry) -> None:
        wanted = Attributes.of_entry(entry)
        if entry.type is EntryType.DIRECTORY:
            self._count(entry, self._target.directory(entry.path, wanted))
        elif entry.type is EntryType.FILE:
            self._lay_file(entry, wanted)
        else:
            if entry.type is EntryType.SYMLINK:
                held = self._target.symlink(entry.path, entry.link_target, wanted)
            else:
                held = self._target.special(entry.path, entry.type, entry.rdev, wanted)
            self._count(entry, held)
            if entry.link_group is not None and held.made is not None:
                self._links.add(entry.link_group, entry.path, held.made)

    def _lay_file(self, entry: Entry, wanted: Attributes) -> None:
        content = entry.content
        if content is None:
            content = self._content_of_group(entry)
        with self._data.opened(entry) as data, self._target.new_file(entry.path) as new:
            self._mover.restore(entry, content, data, new.fd)
            held = self._target.seal(new.fd, wanted)
        self._count(entry, held)
        self._tally.logical_bytes += entry.size
        if entry.link_group is not None:
            self._links.add(entry.link_group, entry.path, new.identity, content)

    def _lay_link(self, entry: Entry, group: int) -> bool:
        """False: it is the first name, or needs an inode of its own."""
        try:
            linked = self._links.link(
                group, lambda first, inode: self._target.link(entry.path, first, inode)
            )
        except CannotLink:
            self._tally.lose(entry.path, ["link"])
            return False
        if linked:
            self._count(entry, Held())
        return linked

    def _content_of_group(self, entry: Entry) -> TreeContent:
        """The first name was removed by others, or the target cannot have more links."""
        group = entry.link_group or 0
        content = self._links.content(group) or self._contents.find(group)
        if content is None:
            raise TargetFailed(OSError(errno.EMLINK, os.strerror(errno.EMLINK)))
        return content

    def _count(self, entry: Entry, held: Held) -> None:
        if entry.type is EntryType.DIRECTORY:
            self._tally.directories += 1
        elif entry.type is EntryType.FILE:
            self._tally.files += 1
        else:
            self._tally.others += 1
        self._tally.lose(entry.path, held.losses)
