# SPDX-License-Identifier: Apache-2.0
"""Entries into the catalog in raw byte order of their paths, whatever order they come in.

``a-b`` stands between ``a`` and ``a/x``: what is in a directory comes when its name with a slash
has its turn among the names beside it.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from manila_backup.data.catalog.codec import Malformed
from manila_backup.data.catalog.entry import Entry
from manila_backup.data.catalog.writer import CatalogWriter
from manila_backup.data.copy import groups
from manila_backup.data.copy.errors import copy_failed
from manila_backup.data.copy.node import UNKNOWN, Chunk, Node, Slot, State
from manila_backup.data.copy.tasks import Record

_OTHER_BYTES = 500
"""What a record takes that is not an encoded entry yet."""


class _Frame:
    """A directory whose entries are being written. ``pending``: directories in it that were
    written and whose contents were not; the last one comes first, since each is a prefix of the
    next."""

    __slots__ = ("node", "pending")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.pending: list[tuple[bytes, Node]] = []


class Emission:
    """``buffered_bytes``: what is known and waits for its turn, chunk by chunk."""

    def __init__(self, catalog: CatalogWriter, table: groups.Groups) -> None:
        self._catalog = catalog
        self._table = table
        self._frames: list[_Frame] = []
        self._root: Node | None = None
        self._prefix = b""
        self.buffered_bytes = 0

    def start(self, root: Node) -> None:
        self._root = root

    @property
    def is_done(self) -> bool:
        """Whether the catalog has got all of the tree."""
        return self._root is None and not self._frames

    def known(self, chunk: Chunk, records: list[Record]) -> None:
        """A chunk's records have come."""
        chunk.records = records
        chunk.bytes = sum(
            len(name) + (len(value) if type(value) is bytes else _OTHER_BYTES)
            for name, value in records
        )
        self.buffered_bytes += chunk.bytes

    def run(self) -> None:
        """Write what can be written by now."""
        if self._root is not None:
            if self._root.entry is None:
                return
            self._add_directory(self._root)
            self._frames.append(_Frame(self._root))
            self._root = None
        while self._frames and self._step(self._frames[-1]):
            pass

    def _step(self, frame: _Frame) -> bool:
        """False: something has to become known first."""
        chunk = frame.node.chunks[0] if frame.node.chunks else None
        if chunk is None:
            if not frame.node.is_listed:
                return False
            if frame.pending:
                self._descend(frame.pending.pop()[1])
            else:
                self._ascend()
            return True
        return chunk.records is not None and self._step_in(frame, chunk, chunk.records)

    def _step_in(self, frame: _Frame, chunk: Chunk, records: list[Record]) -> bool:
        if chunk.position == len(records):
            self._next_chunk(frame.node, chunk)
            return True
        name, value = records[chunk.position]
        if frame.pending and frame.pending[-1][0] <= name:
            self._descend(frame.pending.pop()[1])
        elif self._write(frame, name, value):
            chunk.position += 1
        else:
            return False
        return True

    def _next_chunk(self, node: Node, chunk: Chunk) -> None:
        self.buffered_bytes -= chunk.bytes
        if chunk.tail is not None:
            node.chunks[0] = chunk.tail
        else:
            node.chunks.pop(0)

    def _descend(self, node: Node) -> None:
        self._frames.append(_Frame(node))
        self._prefix = node.path + b"/"

    def _ascend(self) -> None:
        self._frames.pop()
        path = self._frames[-1].node.path if self._frames else b""
        self._prefix = path + b"/" if path else b""

    def _write(self, frame: _Frame, name: bytes, value: Any) -> bool:
        while True:
            if type(value) is bytes:
                self._add_encoded(self._prefix + name, value)
                return True
            if value is None:
                return True
            if value is UNKNOWN:
                return False
            if isinstance(value, Slot):
                value = value.value
            elif isinstance(value, groups.Name):
                self._add(self._table.entry(value, self._prefix + name))
                return True
            elif isinstance(value, Node):
                if value.state is State.INSTEAD:
                    value = value.instead
                else:
                    return self._write_directory(frame, name, value)
            else:
                raise TypeError(f"no record: {type(value)}")

    def _write_directory(self, frame: _Frame, name: bytes, node: Node) -> bool:
        if node.state is State.WAITING:
            return False
        if node.entry is not None:
            self._add_directory(node)
            frame.pending.append((name + b"/", node))
        return True

    def _add_directory(self, node: Node) -> None:
        entry, node.entry = node.entry, None
        if entry is not None:
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        try:
            self._catalog.add(entry)
        except Malformed:
            raise  # a mistake of this engine, nothing that a tree could cause
        except ValueError as error:
            raise _too_big(entry.path) from error

    def _add_encoded(self, path: bytes, encoded: bytes) -> None:
        try:
            self._catalog.add_encoded(path, encoded)
        except Malformed:
            raise
        except ValueError as error:
            raise _too_big(path) from error


def _too_big(path: bytes) -> Exception:
    return copy_failed(path, OSError(errno.EFBIG, os.strerror(errno.EFBIG)))
