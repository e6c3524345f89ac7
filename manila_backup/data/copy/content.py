# SPDX-License-Identifier: Apache-2.0
"""The bytes of one regular file: copied with its holes, hashed or verified while they pass."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from blake3 import blake3

from manila_backup.data.catalog.entry import Entry, TreeContent
from manila_backup.data.catalog.pieces import Piece, Root, cut, root_of
from manila_backup.data.copy.errors import ContentDamaged, TargetFailed, target_errors
from manila_backup.data.copy.sysio import Files
from manila_backup.names import printable

_NO_SEEK = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})

_NO_WAY = _NO_SEEK | {errno.EXDEV, errno.EPERM, errno.ETXTBSY, errno.EBADF, errno.EOVERFLOW}
"""How a kernel says that it does not copy between these two files this way."""

_TARGETS_OWN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})

_SERVER_BYTES = 64 << 20
_KERNEL_BYTES = 16 << 20
"""One call of copy_file_range or sendfile: nobody can stop it before its end."""

_STEP_BYTES = 128 << 10
"""Read, hashed and written at a time: what a processor's cache holds. With 1 MiB a backup of large
files took up to twice as long; far servers are asked for more ahead instead."""

_CHECK_EXTENTS = 4096

Hash = bytes

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


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedPart:
    """The data of a part of a file. ``end``: where the source ended, if ``cut_short``."""

    extents: list[tuple[int, int]]
    pieces: list[bytes]
    end: int
    cut_short: bool

    @property
    def bytes(self) -> int:
        return sum(length for _, length in self.extents)


def content_of(size: int, extents: list[tuple[int, int]], pieces: Sequence[Hash]) -> TreeContent:
    """The content as the catalog has it; without pieces (nothing was hashed) good for nothing."""
    spelled = tuple(extents)
    return TreeContent(
        extents=None if spelled == (((0, size),) if size else ()) else spelled,
        pieces=tuple(pieces),
        root=root_of(spelled, pieces) if pieces else Root().digest(),
    )


def pieces_of(entry: Entry, content: TreeContent) -> Iterator[Piece]:
    """In order."""
    places = cut(content.data_extents(entry.size))
    for (offset, length), piece_hash in zip(places, content.pieces, strict=True):
        yield offset, length, piece_hash


def data_extents(files: Files, fd: int, size: int, begin: int = 0) -> Iterator[tuple[int, int]]:
    """(offset, length) of the data from ``begin`` up to ``size``, not touching each other; asked
    step by step, so a file that is being written may give a mixture of before and after.
    """
    start = end = begin
    count = 0
    for offset, length in _seek_extents(files, fd, size, begin):
        bridged = (
            _BRIDGED_BYTES << (8 * (count // EXTENTS_KEPT - 1)) if count >= EXTENTS_KEPT else 0
        )
        if end > start and offset - end <= bridged:
            end = offset + length
            continue
        if end > start:
            count += 1
            yield start, end - start
        start, end = offset, offset + length
    if end > start:
        yield start, end - start


def _seek_extents(files: Files, fd: int, size: int, begin: int) -> Iterator[tuple[int, int]]:
    position = begin
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


def plan_ranges(
    files: Files, fd: int, size: int, range_bytes: int, check: Callable[[], None]
) -> list[tuple[int, int]]:
    """Cut a large file into ranges (start, end) at multiples of ``range_bytes``, such that all data
    is in them; holes as large as a range are left out. ``check`` is called now and then.
    """
    ranges: list[tuple[int, int]] = []
    for number, (offset, length) in enumerate(data_extents(files, fd, size)):
        if number % _CHECK_EXTENTS == 0:
            check()
        start = offset - offset % range_bytes
        if ranges:
            start = max(start, ranges[-1][1])
        while start < offset + length:
            ranges.append((start, min(start + range_bytes, size)))
            start += range_bytes
    return ranges


class Mover:
    """Moves content through one buffer, or has the kernel move it where nobody wants to see it.

    ``tick`` hears how many bytes passed, at least once per buffer or kernel call; it may raise to
    stop. OSErrors are the source's, TargetFailed the target's.
    """

    def __init__(self, files: Files, buffer_bytes: int, tick: Callable[[int], None]) -> None:
        """``buffer_bytes``: how far to read ahead, and the most to hold."""
        self._files = files
        self._ahead_bytes = buffer_bytes
        self._buffer = memoryview(bytearray(min(buffer_bytes, _STEP_BYTES)))
        self._tick = tick
        self._ways = [self._copy_range, self._send]

    def copy(self, source: int, target: int, size: int, *, hashing: bool) -> Copied:
        """Copy up to ``size`` bytes; the target is empty before and as described after."""
        part = self.copy_part(source, target, 0, size, hashing=hashing)
        extents = part.extents
        if part.cut_short:
            size = part.end
        if (sum(extents[-1]) if extents else 0) < size:
            with target_errors():
                self._files.truncate(target, size)
        return Copied(
            size=size,
            bytes=part.bytes,
            cut_short=part.cut_short,
            content=content_of(size, extents, part.pieces),
        )

    def copy_part(
        self, source: int, target: int, start: int, end: int, *, hashing: bool
    ) -> CopiedPart:
        """Copy the data between these offsets; ``start`` is a multiple of the piece size."""
        extents: list[tuple[int, int]] = []
        pieces: list[bytes] = []
        for offset, length in data_extents(self._files, source, end, start):
            done = 0
            for place, wanted in cut([(offset, length)]):
                hasher = blake3() if hashing else None
                got = self._move(source, target, place, wanted, hasher)
                done += got
                if hasher is not None and got:
                    pieces.append(hasher.digest())
                if got < wanted:
                    break
            if done:
                extents.append((offset, done))
            if done < length:
                return CopiedPart(extents=extents, pieces=pieces, end=offset + done, cut_short=True)
        return CopiedPart(extents=extents, pieces=pieces, end=end, cut_short=False)

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

    def restore(self, entry: Entry, content: TreeContent, source: int, target: int) -> None:
        """Copy what the catalog says, verifying each piece.

        :raises ContentDamaged: the target then holds wrong or too few bytes.
        """
        self.restore_pieces(entry, pieces_of(entry, content), source, target)
        extents = content.data_extents(entry.size)
        if not extents or sum(extents[-1]) < entry.size:
            with target_errors():
                self._files.truncate(target, entry.size)

    def restore_pieces(
        self, entry: Entry, pieces: Iterable[Piece], source: int, target: int | None
    ) -> None:
        """The same of some pieces, whatever the size. Without a target they are only verified."""
        for offset, length, expected in pieces:
            hasher = blake3()
            self._move(source, target, offset, length, hasher)
            if hasher.digest() != expected:
                what = f"the content at offset {offset} is not what its checksum says"
                raise ContentDamaged(path=printable(entry.path), what=what)

    def verify(self, entry: Entry, content: TreeContent, source: int) -> None:
        """:raises ContentDamaged:"""
        self.restore_pieces(entry, pieces_of(entry, content), source, None)

    def _move(
        self, source: int, target: int | None, offset: int, length: int, hasher: blake3 | None
    ) -> int:
        """Answers the bytes moved: less than ``length`` if the source ends before."""
        if hasher is None and target is not None:
            return self._move_unseen(source, target, offset, length)
        return self._move_seen(source, target, offset, length, hasher)

    def _move_unseen(self, source: int, target: int, offset: int, length: int) -> int:
        done = 0
        while done < length and self._ways:
            try:
                got = self._ways[0](source, target, offset + done, length - done)
            except OSError as error:
                if error.errno in _TARGETS_OWN:
                    raise TargetFailed(error) from error
                if error.errno not in _NO_WAY:
                    raise
                self._ways = self._ways[1:]
                continue
            if not got:  # the end; or a file system that cannot be copied this way and says so
                break
            done += got
            self._tick(got)
        if done < length:
            done += self._move_seen(source, target, offset + done, length - done, None)
        return done

    def _copy_range(self, source: int, target: int, offset: int, length: int) -> int:
        return self._files.copy_range(source, target, offset, min(length, _SERVER_BYTES))

    def _send(self, source: int, target: int, offset: int, length: int) -> int:
        with target_errors():
            self._files.seek(target, offset, os.SEEK_SET)
        return self._files.send(source, target, offset, min(length, _KERNEL_BYTES))

    def _move_seen(
        self, source: int, target: int | None, offset: int, length: int, hasher: blake3 | None
    ) -> int:
        done = asked = 0
        while done < length:
            if asked - done < self._ahead_bytes and asked < length > _STEP_BYTES:
                self._ask_ahead(source, offset + asked, min(self._ahead_bytes, length - asked))
                asked += self._ahead_bytes
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

    def _ask_ahead(self, source: int, offset: int, count: int) -> None:
        # Only advice: what is wrong with the source the read will tell.
        with contextlib.suppress(OSError):
            self._files.will_need(source, offset, count)

    def _write(self, target: int, part: memoryview, offset: int) -> None:
        while part:
            written = self._files.write(target, part, offset)
            if not written:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            offset += written
            part = part[written:]
