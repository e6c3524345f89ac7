# SPDX-License-Identifier: Apache-2.0
"""Data sets on disk: a shape is written, counted, and read once into the page cache."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.shapes import Kind, Planned

_POOL_BYTES = 4 << 20
_WORDS = (
    b"share backup restore quota export directory file link owner mode attribute epoch lease "
    b"manifest catalog checksum piece offset length thread process request answer latency"
).split(b" ")
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much a data set is. ``entries`` counts the root too; ``files`` names of regular files,
    hard links each; ``logical_bytes`` the content, once per inode."""

    entries: int
    files: int
    directories: int
    symlinks: int
    hard_links: int
    with_xattrs: int
    logical_bytes: int


def extent_of(shape: Iterable[Planned]) -> Extent:
    """What a shape comes to; nothing is written."""
    counts = dict.fromkeys(Kind, 0)
    with_xattrs = logical_bytes = 0
    for planned in shape:
        counts[planned.kind] += 1
        with_xattrs += bool(planned.xattrs)
        logical_bytes += planned.size_bytes
    return Extent(
        entries=sum(counts.values()) + 1,
        files=counts[Kind.FILE] + counts[Kind.HARD_LINK],
        directories=counts[Kind.DIRECTORY] + 1,
        symlinks=counts[Kind.SYMLINK],
        hard_links=counts[Kind.HARD_LINK],
        with_xattrs=with_xattrs,
        logical_bytes=logical_bytes,
    )


def write_dataset(shape: Iterable[Planned], root: Path, seed: int) -> None:
    """Make the entries below ``root``, an empty directory. The metadata of directories comes last:
    making what is in them changes their times."""
    pools = _Pools(seed)
    directories: list[Planned] = []
    for planned in shape:
        path = root / planned.path
        match planned.kind:
            case Kind.DIRECTORY:
                path.mkdir()
                directories.append(planned)
                continue
            case Kind.FILE:
                with path.open("xb") as file:
                    file.writelines(pools.content(planned))
            case Kind.SYMLINK:
                path.symlink_to(planned.target)
            case Kind.HARD_LINK:
                path.hardlink_to(root / planned.target)
                continue
        _set_metadata(path, planned)
    for planned in reversed(directories):
        _set_metadata(root / planned.path, planned)


def _set_metadata(path: Path, planned: Planned) -> None:
    os.chown(path, *planned.owner, follow_symlinks=False)
    if planned.kind is not Kind.SYMLINK:
        os.chmod(path, planned.mode)
        for name, value in planned.xattrs:
            os.setxattr(path, name, value)
    os.utime(path, ns=(planned.mtime_ns, planned.mtime_ns), follow_symlinks=False)


class _Pools:
    """Content by the seed: stretches of a pool of noise, or of one of words."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed + 1)
        self._noise = self._rng.randbytes(_POOL_BYTES)
        words = b" ".join(self._rng.choices(_WORDS, k=1 << 16))
        self._text = (words * (_POOL_BYTES // len(words) + 1))[:_POOL_BYTES]

    def content(self, planned: Planned) -> Iterator[bytes]:
        """Noise that does not repeat within a large file, else its compression would find it."""
        left = planned.size_bytes
        while left > 0:
            take = min(left, _POOL_BYTES // 2)
            if planned.random_content and planned.size_bytes > _POOL_BYTES // 2:
                yield self._rng.randbytes(take)
            else:
                start = self._rng.randrange(_POOL_BYTES - take)
                yield (self._noise if planned.random_content else self._text)[start : start + take]
            left -= take


def warm(root: Path) -> None:
    """Read everything once: content, metadata, attributes."""
    for directory, _, names in os.walk(root):
        os.listxattr(directory)
        for name in names:
            path = os.path.join(directory, name)
            os.listxattr(path, follow_symlinks=False)
            if os.path.islink(path):
                os.readlink(path)
                continue
            with open(path, "rb", buffering=0) as file:
                while file.read(_READ_BYTES):
                    pass
