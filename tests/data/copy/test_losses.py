# SPDX-License-Identifier: Apache-2.0
"""Where a target holds less than its source: what is lost is counted, named, in the catalog, and
comes back.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from manila_backup.data.copy.base import CopyOptions
from tests.data.copy.as_user import USER, Engine, Here, OrdinaryUser, counted, entries_of
from tests.data.copy.file_systems import (
    BTRFS,
    EXT4,
    OLD_XFS,
    RAMFS,
    SMALL_INODES,
    TMPFS,
    WHOLE,
    XFS,
    FileSystems,
    Kind,
    Trip,
)
from tests.support.forests import one_of_each
from tests.support.trees import (
    ACCESS_ACL,
    CAPABILITY,
    DEFAULT_ACL,
    NET_RAW,
    XFS_ACLS,
    Seen,
    acl,
    differences,
    snapshot,
    without,
)

pytestmark = pytest.mark.root

SECOND = 10**9
EXACT = CopyOptions(delete=True)


@pytest.fixture(scope="module")
def user() -> Iterator[Engine]:
    with OrdinaryUser() as found:
        yield found


@pytest.fixture
def trip(disks: FileSystems) -> Iterator[Trip]:
    found = Trip(disks)
    yield found
    found.remove()


def look(path: Path) -> dict[bytes, Seen]:
    return without(snapshot(str(path)), XFS_ACLS)


Do = Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class Lesser:
    """What ``do`` makes on ``source``, ``target`` cannot hold, by these losses."""

    name: str
    source: Kind
    target: Kind
    do: Do
    losses: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.source}-{self.target}"


def at(place: str, time_ns: int) -> Do:
    return lambda root: os.utime(root / place, ns=(1, time_ns), follow_symlinks=False)


def attribute(place: str, name: bytes, value: bytes) -> Do:
    return lambda root: os.setxattr(root / place, name, value, follow_symlinks=False)


def attributes_everywhere(root: Path) -> None:
    for place in ("", "d", "f"):
        os.setxattr(root / place, b"user.a", b"1")
        os.setxattr(root / place, ACCESS_ACL, acl((7, 6)))
    os.setxattr(root / "d", DEFAULT_ACL, acl((7, 6)))
    for place in ("l", "p", "c"):
        os.setxattr(root / place, b"trusted.t\n", b"1", follow_symlinks=False)
    os.setxattr(root / "f", CAPABILITY, NET_RAW)


WITHOUT_ATTRIBUTES = (
    ".: xattr:user.a",
    ".: acl",
    "c: xattr:trusted.t\\x0a",
    "d: xattr:user.a",
    "d: acl",
    "f: xattr:security.capability",
    "f: xattr:user.a",
    "f: acl",
    "l: xattr:trusted.t\\x0a",
    "p: xattr:trusted.t\\x0a",
)


def long_link(length: int) -> Do:
    return lambda root: (root / "long").symlink_to("t" * length)


def device(major: int, minor: int) -> Do:
    return lambda root: os.mknod(root / "big", stat.S_IFCHR | 0o600, os.makedev(major, minor))


Y1800, Y2050, Y2200, Y2500 = (
    n * SECOND for n in (-5_364_662_400, 2_524_608_000, 7_258_118_400, 16_725_225_600)
)

LESSER = [
    Lesser(
        name="no attributes",
        source=XFS,
        target=RAMFS,
        do=attributes_everywhere,
        losses=WITHOUT_ATTRIBUTES,
    ),
    Lesser(
        name="no attributes",
        source=BTRFS,
        target=RAMFS,
        do=attributes_everywhere,
        losses=WITHOUT_ATTRIBUTES,
    ),
    *(
        Lesser(
            name=name,
            source=TMPFS,
            target=target,
            do=at(place, time_ns),
            losses=(f"{place or '.'}: time",),
        )
        for name, target, time_ns in (
            ("nanoseconds", SMALL_INODES, 1),
            ("2050", SMALL_INODES, Y2050),
            ("2050", OLD_XFS, Y2050),
            ("2500", EXT4, Y2500),
            ("2500", XFS, Y2500),
            ("1800", EXT4, Y1800),
            ("1800", XFS, Y1800),
        )
        for place in ("", "d", "f", "l", "p")
    ),
    *(
        Lesser(
            name=f"link target of {length} bytes",
            source=source,
            target=XFS,
            do=long_link(length),
            losses=("long: special",),
        )
        for source, length in ((EXT4, 1024), (TMPFS, 4095), (EXT4, 4095))
    ),
    Lesser(
        name="device number",
        source=EXT4,
        target=XFS,
        do=device(4095, (1 << 20) - 1),
        losses=("big: special",),
    ),
    *(
        Lesser(
            name=f"attribute of {len(value)} bytes",
            source=source,
            target=target,
            do=attribute(place, b"user.big", value),
            losses=(f"{place or '.'}: xattr:user.big",),
        )
        for source, target, value in (
            (XFS, EXT4, b"v" * 5000),
            (TMPFS, BTRFS, b"v" * 40_000),
            (XFS, BTRFS, b"v" * 65_536),
        )
        for place in ("", "d", "f")
    ),
    Lesser(
        name="attribute of 65536 bytes",
        source=XFS,
        target=EXT4,
        do=attribute("l", b"trusted.big", b"v" * 65_536),
        losses=("l: xattr:trusted.big",),
    ),
]


def without_the_lost(seen: dict[bytes, Seen], losses: tuple[str, ...]) -> dict[bytes, Seen]:
    """What is left of it when all that the losses name, and nothing else, is taken away."""
    left = dict(seen)
    for loss in losses:
        place, _, what = loss.partition(": ")
        path = b"" if place == "." else os.fsencode(place)
        if what == "special":
            left.pop(path, None)
        elif path in left:
            left[path] = taken_from(left[path], what)
    return left


def taken_from(seen: Seen, what: str) -> Seen:
    if what == "time":
        return replace(seen, mtime_ns=0)
    kept = []
    for name, value in seen.xattrs:
        label = "acl" if name in (ACCESS_ACL, DEFAULT_ACL) else f"xattr:{printed(name)}"
        if label != what:
            kept.append((name, value))
    return replace(seen, xattrs=tuple(kept))


def printed(name: bytes) -> str:
    return os.fsdecode(name).replace("\n", "\\x0a")


@pytest.mark.slow
@pytest.mark.parametrize("lesser", LESSER, ids=str)
def test_a_loss_is_counted_named_recorded_and_comes_back(trip: Trip, lesser: Lesser) -> None:
    source, target, data, again = (
        trip.new(kind) for kind in (lesser.source, lesser.target, lesser.target, lesser.target)
    )
    back = trip.new(lesser.source)
    one_of_each(source)
    for path in (source, *source.rglob("*")):
        os.utime(path, ns=(SECOND, SECOND), follow_symlinks=False)
    lesser.do(source)
    wanted = look(source)
    engine = Here()
    counted(engine.copy(source, target, CopyOptions()), lesser.losses)
    rest = without_the_lost(wanted, lesser.losses)
    assert differences(rest, without_the_lost(look(target), lesser.losses)) == []

    stored = engine.backup(source, data, trip.catalog, CopyOptions())
    counted(stored, lesser.losses)
    recorded = [
        f"{os.fsdecode(entry.path) or '.'}: {loss}"
        for entry in entries_of(trip.catalog)
        for loss in entry.losses
    ]
    assert sorted(recorded) == sorted(lesser.losses)
    counted(engine.restore(trip.catalog, data, back, EXACT), ())
    assert differences(wanted, look(back)) == []
    counted(engine.restore(trip.catalog, data, again, EXACT), lesser.losses)
    assert differences(rest, without_the_lost(look(again), lesser.losses)) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", WHOLE, ids=str)
def test_what_only_root_may_set_is_lost_for_a_user_and_comes_back_for_root(
    trip: Trip, user: Engine, kind: Kind
) -> None:
    source, data, target, back = (trip.new(kind, owner=USER) for _ in range(4))
    (source / "f").write_bytes(b"#!")
    (source / "foreign").mkdir()
    os.chown(source / "f", USER, USER)
    os.setxattr(source / "f", CAPABILITY, NET_RAW)
    lost = ("f: xattr:security.capability", "foreign: owner")
    counted(user.copy(source, target, CopyOptions()), lost)
    counted(user.backup(source, data, trip.catalog, CopyOptions()), lost)
    counted(Here().restore(trip.catalog, data, back, EXACT), ())
    assert differences(look(source), look(back)) == []
