# SPDX-License-Identifier: Apache-2.0
"""Lay a stored tree (catalog and data) over a directory that others may be writing to.

Exact (``options.delete``): what the catalog lacks is removed before anything is written, which
frees its space, and looked for once or twice more afterwards; what others made, changed or removed
meanwhile is counted and named. Merge: other names stay. Either way what is in the way of an entry
is replaced by it, and nothing is ever written through an inode that was there before.
"""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable, Generator
from functools import partial

from manila_backup.data.catalog.chain import Chain
from manila_backup.data.catalog.entry import Entry, EntrySource, EntryType, TreeContent, one_pass
from manila_backup.data.copy.attributes import Attributes
from manila_backup.data.copy.base import CopyOptions, CopyResult
from manila_backup.data.copy.child import Setup
from manila_backup.data.copy.crew import InlineCrew
from manila_backup.data.copy.dirstack import WINDOW, Identity
from manila_backup.data.copy.dispatch import Dispatch
from manila_backup.data.copy.errors import copy_failed
from manila_backup.data.copy.large_restore import large_content, lay_in_parts
from manila_backup.data.copy.layer import Layer
from manila_backup.data.copy.links import GroupContents, LinkedName, TargetLinks
from manila_backup.data.copy.node import Below
from manila_backup.data.copy.notes import Pulse
from manila_backup.data.copy.processes import ProcessCrew, is_parallel
from manila_backup.data.copy.prune import Pruner, Wanted
from manila_backup.data.copy.sysio import SYSTEM, Files
from manila_backup.data.copy.tally import Tally
from manila_backup.data.copy.target import MadeFile
from manila_backup.data.copy.tasks import (
    FinishDirectory,
    LayEntries,
    Link,
    LinkMade,
    MakeLinks,
    Outcome,
    Task,
)
from manila_backup.types import Counters

_BATCH_BYTES = 32 << 20
"""After so much content a task is full, whatever its entries."""

_PARTS = 2
"""Parts of one large file in work at once, per process."""

_BACKLOG_ENTRIES = 400
"""Not for fewer is it worth starting processes."""


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
    :raises WorkerDied: a process of the restore was killed.
    :raises Cancelled:
    """
    tally = Tally(progress)
    pruner = Pruner(target_fd, lambda: _wanted(entries), tally, cancelled=cancelled, files=files)
    if options.delete:
        pruner.before()
    restore = _Restore(
        entries, data_fd, target_fd, options, tally=tally, cancelled=cancelled, files=files
    )
    try:
        restore.run()
    finally:
        restore.close()
    if options.delete and pruner.after(compare=True):
        pruner.after(compare=True)
    tally.report()
    return tally.result()


def _wanted(entries: EntrySource) -> Generator[Wanted]:
    with one_pass(entries) as stream:
        for entry in stream:
            yield Wanted.of_entry(entry)


class _Open(Below):
    """A directory that was made and not finished. ``left``: what has to end before it can be: the
    stream has left it, entries in it are in work, directories in it are not finished."""

    __slots__ = ("inode", "left", "losses", "reused", "wanted")

    parent: _Open | None

    def __init__(self, parent: _Open | None, entry: Entry) -> None:
        super().__init__(parent, entry.path.rpartition(b"/")[2])
        self.wanted = Attributes.of_entry(entry)
        self.inode: Identity | None = None
        self.reused = False
        self.losses: tuple[str, ...] = ()
        self.left = 1


@dataclasses.dataclass(frozen=True, slots=True)
class _Coming:
    """An entry on its way, and the directory that it keeps open."""

    entry: Entry
    directory: _Open | None


class _Restore:
    """The coordinator: reads the catalog, makes directories and hands out the rest."""

    def __init__(
        self,
        entries: EntrySource,
        data_fd: int,
        target_fd: int,
        options: CopyOptions,
        *,
        tally: Tally,
        cancelled: Callable[[], bool],
        files: Files,
    ) -> None:
        self._entries = entries
        self._tally = tally
        self._pulse = Pulse(cancelled, tally.live, options.rate_path)
        setup = Setup(
            kind="restore", source_fd=data_fd, target_fd=target_fd, options=options, hashing=True
        )
        try:
            # Directories are made ahead of what is in them, so whoever makes them is elsewhere.
            self._maker, self._layer = (
                Layer(data_fd, target_fd, options, pulse, files=files, window=WINDOW)
                for pulse in (self._pulse, Pulse(cancelled, tally.live, options.rate_path))
            )
        except OSError as error:
            raise copy_failed(b"", error) from error
        self._is_parallel = is_parallel(options, files)
        self._width = _PARTS * options.processes
        start = partial(ProcessCrew, setup) if self._is_parallel else None
        self._desk = Dispatch(InlineCrew[Task](self._layer), start, tally, cancelled)
        self._links = TargetLinks()
        self._contents = GroupContents(entries)
        self._directories: Chain[_Open] = Chain()
        self._batch: list[_Coming] = []
        self._batch_bytes = 0
        self._large: dict[MadeFile, Entry] = {}
        self._waiting: dict[int, list[_Coming]] = {}
        self._to_link: list[tuple[Link, _Coming, LinkedName]] = []

    def run(self) -> None:
        desk = self._desk
        with one_pass(self._entries) as stream:
            for number, entry in enumerate(stream):
                self._lay(entry)
                if desk.queued and desk.is_inline:
                    self._work()
                    desk.spread(is_much=number > _BACKLOG_ENTRIES)
                elif desk.is_bundle:
                    self._hand_out()
        self._hand_out_batch()
        for _, directory in self._directories.rest():
            self._ended(directory)
        self._work()

    def _hand_out(self) -> None:
        """Hand out what is queued; while there is no room for it, wait."""
        self._hand_out_links()
        self._desk.submit()
        while self._desk.queued:
            self._desk.collect()
            self._desk.submit()

    def _work(self) -> None:
        """Until all that is queued has been done, and what came of it."""
        self._hand_out_links()
        self._desk.submit()
        while self._desk.in_work:
            self._desk.collect()
            self._hand_out_links()
            self._desk.submit()

    def close(self) -> None:
        self._desk.close()
        for new, entry in self._large.items():
            self._maker.take_back(entry, new)
        self._maker.close()
        self._layer.close()
        self._links.close()

    def _lay(self, entry: Entry) -> None:
        for _, left in self._directories.done_before(entry.path):
            self._ended(left)
        directory = self._directories.parent_of(entry.path) if entry.path else None
        if directory is not None:
            directory.left += 1
        if entry.type is EntryType.DIRECTORY:
            self._make_directory(entry, directory)
            return
        coming = _Coming(entry, directory)
        group = entry.link_group
        if group is not None and not self._is_first(group):
            self._link(coming, group)
            return
        content = large_content(entry) if self._is_parallel else None
        if content is not None:
            self._lay_large(coming, content)
            return
        self._batch.append(coming)
        if entry.type is EntryType.FILE:
            self._batch_bytes += entry.size
        if len(self._batch) >= self._desk.batch or self._batch_bytes > _BATCH_BYTES:
            self._hand_out_batch()

    # --- directories ------------------------------------------------------------------------------

    def _make_directory(self, entry: Entry, parent: _Open | None) -> None:
        made = self._maker.make_directory(entry)
        self._take_notes()
        directory = _Open(parent, entry)
        if made is not None:
            directory.inode, directory.reused = made.identity, made.reused
            directory.losses = made.held.losses
        self._directories.push(entry.path, directory)

    def _ended(self, directory: _Open | None) -> None:
        """Something that the directory waited for has ended."""
        while directory is not None:
            directory.left -= 1
            if directory.left:
                return
            if directory.inode is not None:
                self._finish(directory)
                return
            directory = directory.parent  # it could not be made: nothing to finish

    def _finish(self, directory: _Open) -> None:
        if directory.inode is None:
            raise RuntimeError("a directory that was not made")
        task = FinishDirectory(
            path=directory.path,
            target=directory.inode,
            wanted=directory.wanted,
            losses=directory.losses,
            strip=directory.reused,
        )
        self._desk.add(task, lambda outcome: self._ended(directory.parent))

    # --- batches ----------------------------------------------------------------------------------

    def _hand_out_batch(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if not batch:
            return

        def laid(outcome: Outcome) -> None:
            made = dict(outcome.records)
            for coming in batch:
                if coming.entry.link_group is not None:
                    self._has_first(coming.entry, coming.entry.link_group, made)
                self._ended(coming.directory)

        self._desk.add(LayEntries(entries=[coming.entry for coming in batch]), laid)

    def _lay_large(self, coming: _Coming, content: TreeContent) -> None:
        """In parts, by as many workers as there are."""
        self._hand_out_batch()
        if self._desk.is_inline:
            self._work()
            self._desk.spread(is_much=True)
        entry = dataclasses.replace(coming.entry, content=None)
        new = self._maker.begin_large(entry)
        self._take_notes()
        if new is None:
            self._large_ended(coming, None)
            return

        def laid() -> None:
            del self._large[new]
            self._maker.seal_large(entry, new)
            self._take_notes()
            self._large_ended(coming, new.identity)

        self._large[new] = entry
        lay_in_parts(self._desk, entry, content, new, laid, width=self._width)

    def _large_ended(self, coming: _Coming, made: Identity | None) -> None:
        entry = coming.entry
        if entry.link_group is not None:
            self._has_first(entry, entry.link_group, {entry.path: made})
        self._ended(coming.directory)

    def _take_notes(self) -> None:
        """Of what the coordinator did itself."""
        self._tally.take(self._pulse.notes)
        self._tally.report()

    # --- hard links -------------------------------------------------------------------------------

    def _is_first(self, group: int) -> bool:
        """Whether nothing is known of the group yet; then its later names wait for this one."""
        if group in self._waiting or self._links.get(group) is not None:
            return False
        self._waiting[group] = []
        return True

    def _has_first(self, entry: Entry, group: int, made: dict[bytes, Identity | None]) -> None:
        inode = made.get(entry.path)
        if inode is not None:
            self._links.put(group, LinkedName(entry.path, inode, entry.content))
        for later in self._waiting.pop(group, []):
            self._link(later, group)

    def _link(self, coming: _Coming, group: int) -> None:
        if group in self._waiting:
            self._waiting[group].append(coming)
            # The one that it waits for may be in a batch that is not full.
            if self._batch:
                self._hand_out_batch()
            return
        known = self._links.get(group)
        if known is None:
            self._lay_anew(coming, group)
            return

        link = Link(path=coming.entry.path, first=known.path, inode=known.inode)
        self._to_link.append((link, coming, known))
        if len(self._to_link) >= self._desk.batch:
            self._hand_out_links()

    def _hand_out_links(self) -> None:
        batch, self._to_link = self._to_link, []
        if not batch:
            return

        def made(outcome: Outcome) -> None:
            for (_, coming, known), answer in zip(batch, outcome.answer, strict=True):
                self._linked(coming, known, answer)

        self._desk.add(MakeLinks(links=[link for link, _, _ in batch]), made)

    def _linked(self, coming: _Coming, known: LinkedName, answer: LinkMade) -> None:
        group = coming.entry.link_group or 0
        if answer is LinkMade.FIRST_GONE:
            self._first_is_gone(coming, group, known)
        elif answer is LinkMade.IMPOSSIBLE:
            self._tally.lose(coming.entry.path, ["link"])
            self._lay_alone(coming, group)
        else:
            if answer is LinkMade.YES:
                self._count(coming.entry)
            self._ended(coming.directory)

    def _first_is_gone(self, coming: _Coming, group: int, first: LinkedName) -> None:
        """Others removed or replaced it. The first to find that out is the new first name."""
        known = self._links.get(group)
        if group in self._waiting or (known is not None and known.inode != first.inode):
            self._link(coming, group)
        else:
            self._lay_anew(coming, group)

    def _lay_anew(self, coming: _Coming, group: int) -> None:
        """As the first name of its group."""
        self._waiting[group] = []
        entry = self._with_content(coming.entry, group)

        def laid(outcome: Outcome) -> None:
            self._has_first(entry, group, dict(outcome.records))
            self._ended(coming.directory)

        self._desk.add(LayEntries(entries=[entry]), laid)

    def _lay_alone(self, coming: _Coming, group: int) -> None:
        """With an inode of its own, since the target cannot have more links."""
        entry = self._with_content(coming.entry, group)
        self._desk.add(LayEntries(entries=[entry]), lambda outcome: self._ended(coming.directory))

    def _with_content(self, entry: Entry, group: int) -> Entry:
        if entry.type is not EntryType.FILE or entry.content is not None:
            return entry
        known = self._links.get(group)
        content = known.content if known is not None else None
        content = content or self._contents.find(group)
        if content is None:
            raise copy_failed(entry.path, OSError(errno.EMLINK, os.strerror(errno.EMLINK)))
        return dataclasses.replace(entry, content=content)

    def _count(self, entry: Entry) -> None:
        if entry.type is EntryType.FILE:
            self._tally.files += 1
        else:
            self._tally.others += 1
