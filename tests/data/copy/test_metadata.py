# SPDX-License-Identifier: Apache-2.0
"""Each kind of metadata by itself, on each file system."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.tree import copy_tree
from tests.data.copy.as_user import USER, Engine, Here, OrdinaryUser, counted, twin
from tests.data.copy.conftest import Opened, no_progress, not_cancelled
from tests.data.copy.file_systems import (
    EXT4,
    WHOLE,
    FileSystems,
    Kind,
    Trip,
)
from tests.support.forests import one_of_each
from tests.support.trees import (
    ACCESS_ACL,
    CAPABILITY,
    DEFAULT_ACL,
    ID_MAX,
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
NFC, NFD = "\N{LATIN SMALL LETTER E WITH ACUTE}", "e\N{COMBINING ACUTE ACCENT}"
STORE = CopyOptions(plain_target=True)
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


# --- one by one -----------------------------------------------------------------------------------

PLACES = ("", "f", "d", "l", "p", "s", "c")
"""The root, and below it one of each kind."""

NOT_LINKS = ("", "f", "d", "p", "s", "c")


Do = Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """``do`` is done to the place; ``ask`` then answers ``expected``, there and in each copy."""

    name: str
    do: Do
    place: str = ""
    ask: Callable[[Path], object]
    expected: object

    def __str__(self) -> str:
        return f"{self.name} {self.place or 'root'}"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def owner_of(path: Path) -> tuple[int, int]:
    return path.lstat().st_uid, path.lstat().st_gid


def names_in(path: Path) -> list[bytes]:
    return sorted(os.listdir(os.fsencode(path)))


def xattr_of(path: Path, name: bytes) -> bytes:
    return os.getxattr(path, name, follow_symlinks=False)


def xattr_at(name: bytes) -> Callable[[Path], bytes]:
    return lambda path: xattr_of(path, name)


def chmod_to(mode: int) -> Do:
    return lambda path: path.chmod(mode)


def chown_to(uid: int, gid: int) -> Do:
    return lambda path: os.lchown(path, uid, gid)


def touch_to(time_ns: int) -> Do:
    return lambda path: os.utime(path, ns=(1, time_ns), follow_symlinks=False)


def set_to(name: bytes, value: bytes) -> Do:
    return lambda path: os.setxattr(path, name, value, follow_symlinks=False)


def mode_cases() -> Iterator[Case]:
    for mode in (0, 0o111, 0o644, 0o1777, 0o2755, 0o4755, 0o7777):
        for place in NOT_LINKS:
            yield Case(
                name=f"mode {mode:o}",
                place=place,
                do=chmod_to(mode),
                ask=mode_of,
                expected=mode,
            )


def owner_cases() -> Iterator[Case]:
    for uid, gid in ((ID_MAX, ID_MAX), (0, 1 << 31), (70_000, 0)):
        for place in PLACES:
            yield Case(
                name=f"owner {uid}:{gid}",
                place=place,
                do=chown_to(uid, gid),
                ask=owner_of,
                expected=(uid, gid),
            )


def time_cases() -> Iterator[Case]:
    """Before 1970, to the nanosecond, and in 2200. Directories have theirs although names were made
    in them later."""
    for time_ns in (-1, -2_000_000_000 * SECOND + 123_456_789, 0, 7_258_118_400 * SECOND + 1):
        for place in PLACES:
            yield Case(
                name=f"time {time_ns}",
                place=place,
                do=touch_to(time_ns),
                ask=lambda path: path.lstat().st_mtime_ns,
                expected=time_ns,
            )


def xattr_cases() -> Iterator[Case]:
    everywhere = [(b"trusted.t", b"value"), (b"trusted.empty", b""), (b"security.s", b"\0\xff")]
    user = [(b"user.a", b"a" * 3000), (b"user.\xff\n", b""), (b"user." + b"n" * 250, b"v")]
    chosen = [(place, *item) for place in PLACES for item in everywhere]
    chosen += [(place, *item) for place in ("", "f", "d") for item in user]
    chosen += [(place, ACCESS_ACL, acl((7, 6), (ID_MAX, 1))) for place in NOT_LINKS]
    chosen += [(place, DEFAULT_ACL, acl((7, 7), (8, 0))) for place in ("", "d")]
    chosen += [("f", CAPABILITY, NET_RAW)]
    for place, name, value in chosen:
        yield Case(
            name=os.fsdecode(name)[:30].encode("ascii", "backslashreplace").decode(),
            place=place,
            do=set_to(name, value),
            ask=xattr_at(name),
            expected=value,
        )


def setuid_and_owner(path: Path) -> None:
    """chown(2) takes the bits away, so a copy must not have done it last."""
    os.chown(path, 1000, 1000)
    path.chmod(0o6755)


def capability_and_owner(path: Path) -> None:
    os.chown(path, 1000, 1000)
    os.setxattr(path, CAPABILITY, NET_RAW)


def link_everywhere(root: Path) -> None:
    """Two names in two directories for each kind that can have them."""
    for name in "flpsc":
        os.link(root / name, root / "d" / f"{name}2", follow_symlinks=False)


def links_of(root: Path) -> list[tuple[str, int, bool]]:
    found = []
    for name in "flpsc":
        one, two = (root / name).lstat(), (root / "d" / f"{name}2").lstat()
        found.append((name, one.st_nlink, one.st_ino == two.st_ino))
    return found


def make_all(names: list[bytes]) -> Do:
    def make(root: Path) -> None:
        for name in names:
            os.mkdir(os.fsencode(root / "d") + b"/" + name)

    return make


NAMES = [NFC.encode(), NFD.encode(), b"n" * 255, b"new\nline", b"\xff\xfe", b"-rf", b"...", b" "]

OTHERS = [
    Case(
        name="setuid after chown",
        place="f",
        do=setuid_and_owner,
        ask=lambda path: (mode_of(path), owner_of(path)),
        expected=(0o6755, (1000, 1000)),
    ),
    Case(
        name="capability after chown",
        place="f",
        do=capability_and_owner,
        ask=lambda path: (xattr_of(path, CAPABILITY), owner_of(path)),
        expected=(NET_RAW, (1000, 1000)),
    ),
    Case(
        name="links",
        do=link_everywhere,
        ask=links_of,
        expected=[(name, 2, True) for name in "flpsc"],
    ),
    Case(
        name="names",
        do=make_all(NAMES),
        ask=lambda root: names_in(root / "d"),
        expected=sorted([*NAMES, b"inner"]),
    ),
    Case(
        name="link target of 1023 bytes",
        do=lambda root: (root / "l2").symlink_to("t" * 1023),
        ask=lambda root: os.readlink(root / "l2"),
        expected="t" * 1023,
    ),
    Case(
        name="link target of odd bytes",
        do=lambda root: os.symlink(b"\n\xff/..", os.fsencode(root / "l2")),
        ask=lambda root: os.readlink(os.fsencode(root / "l2")),
        expected=b"\n\xff/..",
    ),
    Case(
        name="large device numbers",
        do=lambda root: os.mknod(root / "b", stat.S_IFBLK | 0o600, os.makedev(511, (1 << 18) - 1)),
        ask=lambda root: (root / "b").lstat().st_rdev,
        expected=os.makedev(511, (1 << 18) - 1),
    ),
    Case(
        name="a hole and nothing else",
        do=lambda root: os.truncate(root / "f", 1 << 40),
        ask=lambda root: ((root / "f").stat().st_size, (root / "f").stat().st_blocks < 100),
        expected=(1 << 40, True),
    ),
]

CASES = [*mode_cases(), *owner_cases(), *time_cases(), *xattr_cases(), *OTHERS]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", WHOLE, ids=str)
def test_it_is_kept(trip: Trip, kind: Kind, case: Case) -> None:
    source = trip.new(kind)
    one_of_each(source)
    case.do(source / case.place)
    assert case.ask(source / case.place) == case.expected, "the file system itself cannot"
    before = look(source)
    for native in (True, False) if case.place in ("", "f") else (True,):
        target, data, back = (trip.new(kind) for _ in range(3))
        with twin(native):
            counted(Here().copy(source, target, CopyOptions()), ())
            counted(Here().backup(source, data, trip.catalog, STORE), ())
            counted(Here().restore(trip.catalog, data, back, EXACT), ())
        for path in (target, back):
            assert case.ask(path / case.place) == case.expected
            assert differences(before, look(path)) == []
    assert differences(before, look(source)) == [], "a source is only read"


# --- an ordinary user -----------------------------------------------------------------------------


def give(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        os.lchown(path, USER, USER)


@pytest.mark.parametrize("mode", [n << 6 for n in range(8)], ids=oct)
def test_a_users_own_directory_is_copied_whatever_its_mode(
    trip: Trip, user: Engine, mode: int
) -> None:
    """Readable and not searchable, the other way round, and so on, at two levels; with names of a
    file inside that lead out of it and back.
    """
    source, target, data, back = (trip.new(EXT4, owner=USER) for _ in range(4))
    (source / "d" / "e").mkdir(parents=True)
    (source / "d" / "e" / "f").write_bytes(b"f")
    (source / "d" / "g").write_bytes(b"g")
    for number, name in enumerate(("a", "d/h", "d/e/i", "z", "z2")):
        os.link(source / "d" / ("g" if number % 2 else "e/f"), source / name)
    give(source)
    for path in (source / "d" / "e", source / "d"):
        path.chmod(mode | 0o055)
    before = look(source)
    counted(user.copy(source, target, EXACT), ())
    assert differences(before, look(target)) == []
    stored = user.backup(source, data, trip.catalog, STORE)
    closed = mode & 0o700 != 0o700
    counted(stored, ("d: mode", "d/e: mode") if closed else ())
    counted(user.restore(trip.catalog, data, back, EXACT), ())
    assert differences(before, look(back)) == []
    counted(user.restore(trip.catalog, data, back, EXACT), ())
    assert differences(before, look(back)) == [], "also over itself"
    assert differences(before, look(source)) == [], "the modes were put back"


@pytest.mark.parametrize("mode", [0, 0o055, 0o555], ids=oct)
@pytest.mark.parametrize("delete", [False, True])
def test_hard_links_between_a_users_closed_directories(
    trip: Trip, user: Engine, mode: int, delete: bool
) -> None:
    """The directory of the first name has its final mode when the later names come."""
    source, target, data, back = (trip.new(EXT4, owner=USER) for _ in range(4))
    for name in ("a", "b", "c"):
        (source / name).mkdir()
    (source / "a" / "a").write_bytes(b"a")
    for linked in ("a/b", "b/a", "c/a", "b/b"):
        os.link(source / "a" / "a", source / linked)
    give(source)
    for name in ("a", "b"):
        (source / name).chmod(mode)
    before = look(source)
    with twin(native=delete):
        counted(user.copy(source, target, CopyOptions(delete=delete)), ())
    assert differences(before, look(target)) == []
    user.backup(source, data, trip.catalog, STORE)
    counted(user.restore(trip.catalog, data, back, CopyOptions(delete=delete)), ())
    assert differences(before, look(back)) == []


# --- old names, new names -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WHOLE, ids=str)
def test_names_made_after_a_directory_was_opened_are_seen(trip: Trip, kind: Kind) -> None:
    """Btrfs lists for an open directory only what was there when it was opened or rewound."""
    source, target = trip.new(kind), trip.new(kind)
    with Opened(source) as source_fd, Opened(target) as target_fd:
        (source / "late").touch()
        (target / "extra").touch()
        result = copy_tree(
            source_fd,
            target_fd,
            EXACT,
            catalog=None,
            progress=no_progress,
            cancelled=not_cancelled,
        )
    assert (result.counters.files, result.counters.deleted) == (1, 1)
    assert differences(look(source), look(target)) == []
