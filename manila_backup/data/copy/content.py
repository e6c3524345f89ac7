# SPDX-License-Identifier: Apache-2.0
"""The bytes of one regular file: copied with its holes, hashed or verified while they pass."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blake3 import blake3

from manila_backup.data.catalog.entry import Entry, TreeContent
from manila_backup.data.catalog.pieces import Root, cut
from manila_backup.data.copy.errors import ContentDamaged, target_errors
from manila_backup.data.copy.sysio import Files
from manila_backup.names import printable

_NO_SEEK = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})

_NO_CLONE = _NO_SEEK | {errno.EXDEV, errno.ENOTTY, errno.EPERM, errno.ETXTBSY, errno.EBADF}

EXTENTS_KEPT = 1 << 20
_BRIDGED_BYTES = 1 << 20
"""Of a file with more extents than that, ever larger holes are stored as zeros: what is kept in
memory per extent must not grow for as long as a tenant likes to punch holes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What the target holds now. ``cut_short``: the source ended before the size it had."""

    size: int
    bytes: int
    content: TreeContent
    cut_short: bool


def data_extents(files: Files, fd: int, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of the data up to ``size``, not touching each other; asked step by step, so
    a file that is being written may give a mixture of before and after.
    """
    start = end = count = 0
    for offset, length in _seek_extents(files, fd, size):
        bridged = (
            _BRIDGED_BYTES << (8 * (count // EXTENTS_KEPT - 1)) if count >= EXTENTS_KEPT else 0
        )
        if end and offset - end <= bridged:
            end = offset + length
            continue
        if end > start:
            count += 1
            yield start, end - start
        start, end = offset, offset + length
    if end > start:
        yield start, end - start


def _seek_extents(files: Files, fd: int, size: int) -> Iterator[tuple[int, int]]:
    position = 0
    while position < size:
        try:
            start = files.seek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            if error.errno not in _NO_SEEK:
                raise
            start, stop = position, size
        else:
            if start >= size:
                return
            stop = _hole_after(files, fd, start, size)
        yield start, stop - start
        position = stop


def _hole_after(files: Files, fd: int, start: int, size: int) -> int:
    try:
        stop = files.seek(fd, start, os.SEEK_HOLE)
    except OSError as error:
        if error.errno == errno.ENXIO:  # truncated between the two calls
            return size
        if error.errno not in _NO_SEEK:
            raise
        return size
    # A hole that was punched between the two calls may begin right here.
    return min(stop, size) if stop > start else size


class Mover:
    """Moves content through one buffer. ``tick`` hears how many bytes passed, at least once per
    buffer; it may raise to stop. OSErrors are the source's, TargetFailed the target's.
    """

    def __init__(self, files: Files, buffer_bytes: int, tick: Callable[[int], None]) -> None:
        self._files = files
        self._buffer = memoryview(bytearray(buffer_bytes))
        self._tick = tick

    def copy(self, source: int, target: int, size: int, *, hashing: bool) -> Copied:
        """Copy up to ``size`` bytes; the target is empty before and as described after."""
        extents: list[tuple[int, int]] = []
        pieces: list[bytes] = []
        root = Root()
        cut_short = False
        for offset, length in data_extents(self._files, source, size):
            done = 0
            for start, wanted in cut([(offset, length)]):
                hasher = blake3() if hashing else None
                got = self._move(source, target, start, wanted, hasher)
                done += got
                if hasher is not None and got:
                    pieces.append(hasher.digest())
                    root.add(start, got, pieces[-1])
                if got < wanted:
                    cut_short = True
                    break
            if done:
                extents.append((offset, done))
            if cut_short:
                size = offset + done
                break
        end = sum(extents[-1]) if extents else 0
        if end < size:
            with target_errors():
                self._files.truncate(target, size)
        whole = extents == ([(0, size)] if size else [])
        return Copied(
            size=size,
            bytes=sum(length for _, length in extents),
            cut_short=cut_short,
            content=TreeContent(
                extents=None if whole else tuple(extents),
                pieces=tuple(pieces),
                root=root.digest(),
            ),
        )

    def clone(self, source: int, target: int) -> Copied | None:
        """Let the new target share the source's blocks, holes included; nothing is hashed.

        None: the file system cannot, and the target is as it was.
        """
        try:
            self._files.clone(source, target)
            size = self._files.fstat(target).st_size
        except OSError as error:
            if error.errno not in _NO_CLONE:
                raise
            return None
        self._tick(size)
        content = TreeContent(extents=None, pieces=(), root=Root().digest())
        return Copied(size=size, bytes=size, cut_short=False, content=content)

    def restore(self, entry: Entry, content: TreeContent, source: int, target: int) -> int:
        """Copy what the catalog says, verifying each piece; answers the bytes written.

        :raises ContentDamaged: the target then holds wrong or too few bytes.
        """
        extents = content.data_extents(entry.size)
        for (offset, length), expected in zip(cut(extents), content.pieces, strict=True):
            hasher = blake3()
            self._move(source, target, offset, length, hasher)
            self._compare(entry, offset, expected, hasher.digest())
        if not extents or sum(extents[-1]) < entry.size:
            with target_errors():
                self._files.truncate(target, entry.size)
        return sum(length for _, length in extents)

    def verify(self, entry: Entry, content: TreeContent, source: int) -> int:
        """The same without writing."""
        extents = content.data_extents(entry.size)
        for (offset, length), expected in zip(cut(extents), content.pieces, strict=True):
            hasher = blake3()
            self._move(source, None, offset, length, hasher)
            self._compare(entry, offset, expected, hasher.digest())
        return sum(length for _, length in extents)

    def _compare(self, entry: Entry, offset: int, expected: bytes, found: bytes) -> None:
        if found != expected:
            what = f"the content at offset {offset} is not what its checksum says"
            raise ContentDamaged(path=printable(entry.path), what=what)

    def _move(
        self, source: int, target: int | None, offset: int, length: int, hasher: blake3 | None
    ) -> int:
        """Answers the bytes moved: less than ``length`` if the source ends before."""
        done = 0
        while done < length:
            part = self._buffer[: length - done]
            got = self._files.read(source, part, offset + done)
            if not got:
                break
            part = part[:got]
            if hasher is not None:
                hasher.update(part)
            if target is not None:
                with target_errors():
                    self._write(target, part, offset + done)
            done += got
            self._tick(got)
        return done

    def _write(self, target: int, part: memoryview, offset: int) -> None:
        while part:
            written = self._files.write(target, part, offset)
            if not written:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            offset += written
            part = part[written:]
