# SPDX-License-Identifier: Apache-2.0
"""Copy a live tree into another directory, and write its catalog on the way.

The coordinator hands out directories, and batches of the names in large ones, to workers, in raw
byte order of the paths, so that what has to be kept until the catalog can take it stays little.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from manila_backup.data.catalog.entry import Entry
from manila_backup.data.catalog.writer import CatalogWriter
from manila_backup.data.copy.base import CopyOptions, CopyResult
from manila_backup.data.copy.child import Setup
from manila_backup.data.copy.copier import LOOKS, Copier, encoded
from manila_backup.data.copy.crew import InlineCrew
from manila_backup.data.copy.dirstack import WINDOW
from manila_backup.data.copy.dispatch import Dispatch
from manila_backup.data.copy.emission import Emission
from manila_backup.data.copy.errors import copy_failed
from manila_backup.data.copy.large import LargeCopy
from manila_backup.data.copy.later import Later
from manila_backup.data.copy.linking import HardLinks
from manila_backup.data.copy.node import Chunk, Names, Node, Slot, State
from manila_backup.data.copy.notes import Pulse
from manila_backup.data.copy.processes import ProcessCrew, is_parallel
from manila_backup.data.copy.sysio import SYSTEM, Files, Kind
from manila_backup.data.copy.tally import Tally
from manila_backup.data.copy.tasks import (
    DIRECTORY_WEIGHT,
    CopyDirectory,
    CopyNames,
    Entered,
    FinishDirectory,
    Large,
    Linked,
    Name,
    NotEntered,
    Outcome,
    Task,
)
from manila_backup.types import Counters

_BACKLOG_NAMES = 400
"""Not before there is so much to do is it worth starting processes."""

_RANGES = 2
"""Ranges of one large file in work at once, per process."""

_BUFFERED_BYTES = 16 << 20
_MOST_BUFFERED_BYTES = 64 << 20
"""From the first on what waits for the catalog makes the others go slow, at the second they stop:
something, a large file perhaps, takes very long, and everything after it waits."""


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
    is synced to disk: that is the caller's too. Processes are started only when there is enough to
    do, and never with other ``files`` than the system's, nor for an ordinary user, whose closed
    directories have to be opened and closed again one by one.
    :raises CopyFailed: a file operation failed; what was copied so far stays.
    :raises WorkerDied: a process of the copy was killed.
    :raises Cancelled:
    """
    copy = _TreeCopy(
        source_fd,
        target_fd,
        options,
        catalog=catalog,
        tally=Tally(progress),
        cancelled=cancelled,
        files=files,
    )
    try:
        return copy.run()
    finally:
        copy.close()


class _TreeCopy:
    """The coordinator. It alone knows the tree as a whole, the hard links and the catalog."""

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
        self._tally = tally
        self._processes = options.processes
        parallel = is_parallel(options, files)
        setup = Setup(
            kind="copy",
            source_fd=source_fd,
            target_fd=target_fd,
            options=options,
            hashing=catalog is not None,
        )
        self._pulse = Pulse(cancelled, tally.live, options.rate_path)
        try:
            # It also lists very large directories, whatever the crew.
            self._copier = Copier(
                source_fd,
                target_fd,
                options,
                self._pulse,
                hashing=catalog is not None,
                share=parallel,
                files=files,
                window=WINDOW,
            )
        except OSError as error:
            raise copy_failed(b"", error) from error
        start = partial(ProcessCrew, setup) if parallel else None
        self._desk = Dispatch(InlineCrew[Task](self._copier), start, tally, cancelled)
        self._links = HardLinks(
            self._desk,
            tally,
            recorded=catalog is not None,
            begin=self._begin,
            ended=self._ended,
        )
        self._emission = Emission(catalog, self._links.groups) if catalog is not None else None
        self._later = Later()
        self._backlog = 0
        self._large: set[LargeCopy] = set()
        self._listing: set[Names] = set()

    def run(self) -> CopyResult:
        root = Node(None, b"")
        if self._emission is not None:
            self._emission.start(root)
        self._enter(root)
        desk = self._desk
        while True:
            self._hand_out()
            if not desk.in_work:
                break
            desk.collect()
            if self._emission is not None:
                self._emission.run()
        if root.left or (self._emission is not None and not self._emission.is_done):
            raise RuntimeError("the copy has ended before its tree")
        self._tally.report()
        return self._tally.result()

    def close(self) -> None:
        for names in self._listing:
            names.close()
        self._desk.close()
        for large in self._large:
            large.close()
        self._copier.close()
        self._links.close()

    # --- handing out ------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        self._links.flush()
        if self._later:
            backlog = self._backlog + DIRECTORY_WEIGHT * len(self._later)
            self._desk.spread(is_much=backlog > _BACKLOG_NAMES)
        while self._later and self._desk.room > 0 and self._may_go_on():
            self._later.next()()
        self._desk.submit(is_all=not self._later)

    def _may_go_on(self) -> bool:
        """What the catalog waits for is always the first of what is left, or in work."""
        if self._emission is None or self._emission.buffered_bytes < _BUFFERED_BYTES:
            return True
        most = self._processes if self._emission.buffered_bytes < _MOST_BUFFERED_BYTES else 1
        return self._desk.in_work + self._desk.queued < most

    # --- directories ------------------------------------------------------------------------------

    def _enter(self, node: Node) -> None:
        task = CopyDirectory(
            path=node.path,
            parent=node.parent.source if node.parent is not None else None,
            limit=self._desk.long_batch,
        )
        self._desk.add(task, partial(self._entered, node))

    def _entered(self, node: Node, outcome: Outcome) -> None:
        answer = outcome.answer
        if isinstance(answer, Entered):
            node.enter(answer, keep_entry=self._emission is not None)
            self._add_names(node, answer, outcome)
        elif answer is NotEntered.OTHER_TYPE and node.parent is not None and node.looks < LOOKS:
            node.state = State.INSTEAD
            self._look_again(node)
            return
        else:
            if answer is NotEntered.OTHER_TYPE:
                self._tally.skip(node.path)
            node.state = State.GONE
        node.is_listed = node.is_listed or node.names is None
        self._ended(node)

    def _add_names(self, node: Node, answer: Entered, outcome: Outcome) -> None:
        chunk = Chunk()
        if self._emission is not None:
            node.chunks.append(chunk)
        self._known(node, chunk, outcome)
        if answer.names is None:
            names = Names(self._copier.lister.all_names(answer.directory))
            self._tally.take(self._pulse.notes)
            self._pulse.start()
            self._listing.add(names)
        elif answer.names:
            names = Names(iter(answer.names))
            self._backlog += len(answer.names)
        else:
            return
        if names.next is not None:
            node.left += 1
            node.names = names
            self._later.add(node, names.next, partial(self._next_batch, node))

    def _next_batch(self, node: Node) -> None:
        names = node.names
        if names is None:
            raise RuntimeError("a directory without names")
        batch = names.take(self._desk.long_batch)
        self._backlog = max(self._backlog - len(batch), 0)
        chunk = Chunk()
        if self._emission is not None:
            node.chunks.append(chunk)
        self._copy_names(node, chunk, batch)
        if names.next is not None:
            self._later.add(node, names.next, partial(self._next_batch, node))
        else:
            self._listing.discard(names)
            node.names = None
            node.is_listed = True
            self._ended(node)

    def _copy_names(self, node: Node, chunk: Chunk, batch: list[Name]) -> None:
        node.left += 1
        task = CopyNames(directory=node.directory, names=batch)
        self._desk.add(task, partial(self._copied, node, chunk))

    def _copied(self, node: Node, chunk: Chunk, outcome: Outcome) -> None:
        self._known(node, chunk, outcome)
        size = self._desk.long_batch
        for start in range(0, len(outcome.rest), size):
            after = Chunk(chunk.tail)
            chunk.tail, chunk = after, after
            self._copy_names(node, chunk, outcome.rest[start : start + size])
        self._ended(node)

    def _known(self, node: Node, chunk: Chunk, outcome: Outcome) -> None:
        """Take the records of a chunk; what is not settled by them is begun."""
        records = outcome.records
        for index, (name, value) in enumerate(records):
            if type(value) is not bytes:
                records[index] = (name, self._begin(node, name, value))
        if self._emission is not None:
            self._emission.known(chunk, records)

    def _begin(self, node: Node, name: bytes, value: Any) -> Any:
        if value is Kind.DIRECTORY:
            child = Node(node, name)
            node.left += 1
            self._later.add(node, name, partial(self._enter, child))
            return child
        slot = Slot()
        node.left += 1
        if isinstance(value, Linked):
            self._links.add(node, slot, name, value)
        elif isinstance(value, Large):
            self._copy_large(node, slot, name)
        return slot

    def _copy_large(self, node: Node, slot: Slot, name: bytes) -> None:
        self._backlog += _BACKLOG_NAMES + 1
        directory = node.directory

        def done(entry: Entry | None) -> None:
            self._large.discard(large)
            if entry is not None:
                slot.value = encoded(entry) if self._emission is not None else None
                self._ended(node)
                return
            task = CopyNames(directory=directory, names=[(name, Kind.FILE)], large=True)
            self._desk.add(task, partial(self._settled, node, slot, name))

        large = LargeCopy(
            self._desk,
            self._tally,
            self._copier,
            done,
            directory=directory,
            name=name,
            width=_RANGES * self._processes,
        )
        self._large.add(large)
        self._later.add(node, name, large.start)

    def _look_again(self, child: Node) -> None:
        """It was a directory, and is something else now."""
        parent = child.parent
        if parent is None:
            raise RuntimeError("the root is a directory")
        task = CopyNames(directory=parent.directory, names=[(child.name, Kind.OTHER)])
        self._desk.add(task, partial(self._looked_again, child, parent))

    def _looked_again(self, child: Node, parent: Node, outcome: Outcome) -> None:
        value = outcome.records[0][1] if outcome.records else None
        if value is Kind.DIRECTORY:
            again = Node(parent, child.name)
            again.looks = child.looks + 1
            parent.left += 1
            self._later.add(parent, child.name, partial(self._enter, again))
            value = again
        elif value is not None and type(value) is not bytes:
            value = self._begin(parent, child.name, value)
        child.instead.value = value
        self._ended(parent)

    def _settled(self, node: Node, slot: Slot, name: bytes, outcome: Outcome) -> None:
        """What was split off is known."""
        value = outcome.records[0][1] if outcome.records else None
        if value is not None and type(value) is not bytes:
            value = self._begin(node, name, value)
        slot.value = value
        self._ended(node)

    def _ended(self, node: Node) -> None:
        """Something that the directory waited for has ended."""
        node.left -= 1
        if node.left:
            return
        if node.target is None or node.wanted is None:
            if node.parent is not None:  # which was entered
                self._ended(node.parent)
            return
        task = FinishDirectory(
            path=node.path,
            target=node.target,
            wanted=node.wanted,
            losses=node.losses,
        )
        self._desk.add(task, partial(self._finished, node))

    def _finished(self, node: Node, outcome: Outcome) -> None:
        if node.parent is not None:
            self._ended(node.parent)
