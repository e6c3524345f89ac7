# SPDX-License-Identifier: Apache-2.0
"""Entries and catalogs to begin with."""

from __future__ import annotations

import io
from collections.abc import Iterable

from blake3 import blake3

from manila_backup.data.catalog.entry import Entry, EntryType, TreeContent
from manila_backup.data.catalog.pieces import cut, root_of
from manila_backup.data.catalog.summary import CatalogSummary
from manila_backup.data.catalog.writer import CatalogWriter


def directory(path: bytes, **more: object) -> Entry:
    return entry(path, EntryType.DIRECTORY, mode=0o755, **more)


def entry(path: bytes, type_: EntryType, **more: object) -> Entry:
    values = {"mode": 0o644, "uid": 1000, "gid": 1000, "mtime_ns": -5, "ctime_ns": 7, "inode": 42}
    return Entry(path=path, type=type_, **(values | more))  # type: ignore[arg-type]


def content(size: int, extents: tuple[tuple[int, int], ...] | None = None) -> TreeContent:
    spelled = extents if extents is not None else (((0, size),) if size else ())
    pieces = tuple(blake3(b"%d" % offset).digest() for offset, _ in cut(spelled))
    return TreeContent(extents=extents, pieces=pieces, root=root_of(spelled, pieces))


def regular(path: bytes, size: int = 3, **more: object) -> Entry:
    return entry(path, EntryType.FILE, size=size, **({"content": content(size)} | more))


def write(entries: Iterable[Entry]) -> tuple[bytes, CatalogSummary]:
    sink = io.BytesIO()
    writer = CatalogWriter(sink)
    for item in entries:
        writer.add(item)
    summary = writer.close()
    return sink.getvalue(), summary


def sample() -> list[Entry]:
    """One of each kind."""
    sparse = content(20 << 20, ((4096, 100), (5 << 20, 9 << 20)))
    return [
        directory(b"", xattrs={b"user.r": b"\0"}),
        directory(b"a", losses=("owner", "xattr:user.x")),
        regular(b"a-b", 0),
        regular(b"a/\n\xff", 10 << 20, link_group=1),
        entry(b"a/dev", EntryType.BLOCK_DEVICE, rdev=0x1234567890),
        entry(b"a/fifo", EntryType.FIFO, link_group=2),
        entry(b"a/fifo2", EntryType.FIFO, link_group=2),
        entry(b"a/link", EntryType.SYMLINK, size=3, link_target=b"\xfe/x", mode=0o777),
        entry(b"a/null", EntryType.CHAR_DEVICE, rdev=259),
        entry(b"a/other", EntryType.FILE, size=10 << 20, link_group=1),
        entry(b"a/socket", EntryType.SOCKET),
        regular(b"a0", 20 << 20, content=sparse, changed=True, mtime_ns=2**64 - 1),
    ]
