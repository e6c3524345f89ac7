# SPDX-License-Identifier: Apache-2.0
"""A catalog for the time of one copy, and what it is good for: a checksum of all content, and
reading the target back.

``doc/copy.md`` defines the checksum.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from blake3 import blake3

from manila_backup.data.catalog.entry import Entry, EntrySource, EntryType
from manila_backup.data.catalog.pieces import HASH_BYTES
from manila_backup.data.catalog.reader import CatalogReader
from manila_backup.data.catalog.summary import CatalogSummary
from manila_backup.data.catalog.writer import CatalogWriter
from manila_backup.data.copy.sysio import Files
from manila_backup.data.copy.verify import verify_tree
from manila_backup.exception import Cancelled, CopyFailed
from manila_backup.names import printable
from manila_backup.types import Counters

_MAGIC = b"MBKSUM01"
_NUMBER = struct.Struct(">Q")


# --- the catalog ----------------------------------------------------------------------------------


class TemporaryCatalog:
    """In a file without a name in TMPDIR: gone with the process, whatever ends it."""

    def __init__(self) -> None:
        self._label = "the temporary catalog"
        with _failing(self._label):
            self._label += f" in {printable(os.fsencode(tempfile.gettempdir()))}"
        with _failing(self._label):
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - see close
        self.writer = CatalogWriter(self)
        self._summary: CatalogSummary | None = None

    def write(self, data: bytes, /) -> int:
        """For the writer: all of it or ``CopyFailed``."""
        with _failing(self._label):
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
        return len(data)

    def finish(self) -> None:
        """All entries are in it."""
        self._summary = self.writer.close()

    def entries(self) -> Iterator[Entry]:
        """A new pass; passes do not disturb each other."""
        return iter(CatalogReader(_Pass(self._file.fileno(), self._label), self._summary))

    def close(self) -> None:
        self._file.close()


class _Pass:
    """Reads at an offset of its own."""

    def __init__(self, fd: int, label: str) -> None:
        self._fd = fd
        self._label = label
        self._offset = 0

    def read(self, size: int, /) -> bytes:
        with _failing(self._label):
            data = os.pread(self._fd, size, self._offset)
        self._offset += len(data)
        return data


@contextlib.contextmanager
def _failing(label: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        raise CopyFailed(path=label, errno=number, reason=os.strerror(number)) from error


# --- the checksum ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksum:
    """``bytes`` were hashed, in ``files`` (each name of a hard link is one); ``sparse_files`` of
    them have holes, which are not hashed.
    """

    algorithm: str
    root: str
    files: int
    bytes: int
    sparse_files: int


def content_checksum(entries: Iterable[Entry], cancelled: Callable[[], bool]) -> Checksum:
    """Over types, paths, contents and link targets; nothing else of the tree is in it.

    Memory: 40 bytes per hard-link group.
    :raises Cancelled:
    """
    whole = blake3(_MAGIC)
    groups = _Groups()
    files = hashed = sparse = 0
    for entry in entries:
        if cancelled():
            raise Cancelled
        content = groups.content_of(entry)
        whole.update(_head(entry) + content)
        if entry.type is EntryType.FILE:
            files += 1
        if entry.content is not None:
            hashed += sum(length for _, length in entry.content.data_extents(entry.size))
            sparse += entry.content.extents is not None
    return Checksum(
        algorithm="blake3", root=whole.hexdigest(), files=files, bytes=hashed, sparse_files=sparse
    )


def _head(entry: Entry) -> bytes:
    return entry.type.value.encode() + _NUMBER.pack(len(entry.path)) + entry.path


class _Groups:
    """Content of the first names of hard links, for the later ones: groups are numbered from 1 in
    the order of their first names, so a place in an array is all that each needs.
    """

    _SIZE = _NUMBER.size + HASH_BYTES

    def __init__(self) -> None:
        self._contents = bytearray()

    def content_of(self, entry: Entry) -> bytes:
        if entry.type is EntryType.FILE:
            return self._file(entry)
        if entry.link_group is not None and self._is_first(entry.link_group):
            self._contents += bytes(self._SIZE)
        if entry.type is EntryType.SYMLINK:
            return _NUMBER.pack(len(entry.link_target)) + entry.link_target
        if entry.type in (EntryType.CHAR_DEVICE, EntryType.BLOCK_DEVICE):
            return _NUMBER.pack(entry.rdev)
        return b""

    def _file(self, entry: Entry) -> bytes:
        if entry.content is not None:
            content = _NUMBER.pack(entry.size) + entry.content.root
            if entry.link_group is not None:
                self._contents += content
            return content
        start = ((entry.link_group or 1) - 1) * self._SIZE  # it has one: the reader has looked
        return bytes(self._contents[start : start + self._SIZE])

    def _is_first(self, group: int) -> bool:
        return (group - 1) * self._SIZE == len(self._contents)


# --- reading back ---------------------------------------------------------------------------------


class _Uncached(Files):
    """Has the kernel forget what it keeps of a file's content, as far as it can, so that what is
    read comes from the disk or the server. Content that is not on its way there yet is kept.
    """

    def open(self, name: bytes, flags: int, dir_fd: int, mode: int = 0o600) -> int:
        fd = super().open(name, flags, dir_fd, mode)
        if not flags & (os.O_DIRECTORY | os.O_PATH):
            with contextlib.suppress(OSError):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return fd


def verify_target(
    entries: EntrySource,
    target_fd: int,
    *,
    exact: bool,
    progress: Callable[[Counters], None],
    cancelled: Callable[[], bool],
) -> Iterator[str]:
    """Yields, printable, each path of the target that is not as it was copied. What only the target
    has is a problem only if ``exact``.

    :raises Cancelled:
    :raises CopyFailed: the catalog cannot be read.
    """
    found = verify_tree(
        entries,
        target_fd,
        plain_target=False,
        progress=progress,
        cancelled=cancelled,
        extra=exact,
        files=_Uncached(),
    )
    yield from found
