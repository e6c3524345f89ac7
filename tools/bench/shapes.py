# SPDX-License-Identifier: Apache-2.0
"""The shapes of the data sets: which entries with which sizes and metadata, nothing on disk yet.

A shape is a pure function of its scale and seed: two runs anywhere make the same trees, inode
numbers and atimes apart. Paths are relative; a directory comes before what lies in it, the target
of a hard link before its other names.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

_MTIME_S = 1_700_000_000
_OWNERS = ((1000, 1000), (1001, 1001), (33, 33), (0, 0))
_MODES = (0o644, 0o644, 0o640, 0o600, 0o755)
GIB = 1 << 30


class Kind(StrEnum):
    DIRECTORY = "directory"
    FILE = "file"
    SYMLINK = "symlink"
    HARD_LINK = "hard link"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One entry. ``target`` is the text of a symlink, or the path that a hard link is added to.

    ``random_content`` cannot be compressed, other content is like text. ``xattrs`` of a directory
    are set after its entries are made, so that a default ACL is not inherited.
    """

    path: str
    kind: Kind
    size_bytes: int = 0
    random_content: bool = False
    target: str = ""
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    mtime_ns: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()


def small_files(
    scale: float, seed: int, *, leaves: int | None = None, per_leaf: int = 99
) -> Iterator[Planned]:
    """S: at scale 1 101,026 entries. 25 directories of 40 each, in each of those 98 files of 2 to
    6 KiB, one hard link to a file of the directory before and one symlink. Every tenth file has an
    attribute, 800 entries have ACLs, three quarters belong to somebody else than root.

    ``leaves`` and ``per_leaf`` (names of files in each) make other trees of the kind.
    """
    rng = random.Random(seed)
    leaf_count = leaves if leaves is not None else max(2, round(1000 * scale))
    number = 0
    for leaf in range(leaf_count):
        top = f"d{leaf // 40:03}"
        if leaf % 40 == 0:
            yield _directory(top, leaf, default_acl=False)
        yield _directory(f"{top}/s{leaf:04}", leaf, default_acl=leaf % 25 == 0)
        for index in range(per_leaf - 1):
            yield _small_file(f"{top}/s{leaf:04}/f{index:03}", number, leaf, rng)
            number += 1
        before = (leaf - 1) % leaf_count if leaf else 0
        linked = f"d{before // 40:03}/s{before:04}/f{leaf % (per_leaf - 1):03}"
        yield Planned(path=f"{top}/s{leaf:04}/hard", kind=Kind.HARD_LINK, target=linked)
        yield _symlink(f"{top}/s{leaf:04}/soft", f"../s{before:04}/f000", leaf)


def large_files(scale: float) -> Iterator[Planned]:
    """L: at scale 1 four files of 1 GiB, every second one incompressible."""
    size_bytes = max(1 << 20, round(GIB * scale))
    for index in range(4):
        yield Planned(
            path=f"large{index}",
            kind=Kind.FILE,
            size_bytes=size_bytes,
            random_content=index % 2 == 0,
            owner=_OWNERS[0],
            mtime_ns=_mtime_ns(index),
        )


def mixed_files(scale: float, seed: int) -> Iterator[Planned]:
    """M: like /usr. At scale 1 about 86,000 entries, 2.9 GiB: 8,500 directories that grow where
    directories are, most with few files and some with very many; sizes log-normal, the median
    about 7 KiB, none above 64 MiB."""
    rng = random.Random(seed)
    directories = _random_tree(max(4, round(8500 * scale)), rng)
    for index, path in enumerate(directories):
        yield _directory(path, index, default_acl=False)
    files = max(20, round(74_000 * scale))
    sizes = _sizes(files, 2.9 * GIB * files / 74_000, rng)
    weights = [rng.paretovariate(0.9) for _ in directories]
    places = rng.choices(directories, weights, k=files)
    for index, (place, size_bytes) in enumerate(zip(places, sizes, strict=True)):
        path = f"{place}/file-{index:05}"
        yield Planned(
            path=path,
            kind=Kind.FILE,
            size_bytes=size_bytes,
            random_content=rng.random() < 0.3,
            mode=_MODES[index % len(_MODES)],
            mtime_ns=_mtime_ns(index),
        )
        if index % 21 == 0:
            yield _symlink(f"{place}/link-{index:05}", f"file-{index:05}", index)


# --- parts ----------------------------------------------------------------------------------------


def _small_file(path: str, number: int, leaf: int, rng: random.Random) -> Planned:
    xattrs: list[tuple[str, bytes]] = []
    if number % 10 == 0:
        xattrs.append(("user.bench", rng.randbytes(40)))
    mode = _MODES[number % len(_MODES)]
    if number % 129 == 5:
        xattrs.append(("system.posix_acl_access", _acl(mode)))
    return Planned(
        path=path,
        kind=Kind.FILE,
        size_bytes=rng.randint(2048, 6144),
        random_content=number % 2 == 0,
        mode=mode,
        owner=_OWNERS[leaf % len(_OWNERS)],
        mtime_ns=_mtime_ns(number),
        xattrs=tuple(xattrs),
    )


def _directory(path: str, number: int, *, default_acl: bool) -> Planned:
    return Planned(
        path=path,
        kind=Kind.DIRECTORY,
        mode=0o775 if number % 7 == 0 else 0o755,
        owner=_OWNERS[number % len(_OWNERS)],
        mtime_ns=_mtime_ns(number),
        xattrs=(("system.posix_acl_default", _acl(0o755)),) if default_acl else (),
    )


def _symlink(path: str, target: str, number: int) -> Planned:
    return Planned(
        path=path,
        kind=Kind.SYMLINK,
        target=target,
        owner=_OWNERS[number % len(_OWNERS)],
        mtime_ns=_mtime_ns(number),
    )


def _mtime_ns(number: int) -> int:
    return (_MTIME_S + 61 * number) * 10**9 + 1_000_003 * number % 10**9


def _acl(mode: int) -> bytes:
    """What the kernel takes as an ACL: ``mode``, and one named user who may read. The mask is the
    group's part of the mode, so the mode stays what it is."""
    undefined = 0xFFFFFFFF
    entries = (
        (0x01, mode >> 6 & 7, undefined),  # owner
        (0x02, 4, 1002),  # a named user
        (0x04, mode >> 3 & 7, undefined),  # owning group
        (0x10, mode >> 3 & 7, undefined),  # mask
        (0x20, mode & 7, undefined),  # others
    )
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def _random_tree(count: int, rng: random.Random) -> list[str]:
    """Each directory below one that is there already; parents first, at most 12 levels."""
    paths = ["usr"]
    while len(paths) < count:
        parent = rng.choice(paths)
        if parent.count("/") < 12:
            paths.append(f"{parent}/dir-{len(paths):05}")
    return paths


def _sizes(count: int, total_bytes: float, rng: random.Random) -> list[int]:
    """Log-normal, stretched so that the sum is right, none above 64 MiB."""
    raw = [rng.lognormvariate(math.log(5000), 1.9) for _ in range(count)]
    stretch = total_bytes / sum(raw)
    return [min(64 << 20, round(size * stretch)) for size in raw]
