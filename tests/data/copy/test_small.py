# SPDX-License-Identifier: Apache-2.0
"""The fast path for small files: each sentence of its contract, for both twins."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from manila_backup.data.copy import sysio
from manila_backup.data.copy.small import (
    BATCH_BYTES,
    SLICE,
    SMALL_BYTES,
    XATTR_BYTES,
    NewFile,
    SmallFile,
    SmallFiles,
)
from manila_backup.data.copy.sysio import OPEN_FILE, SYSTEM, Files
from tests.data.copy.conftest import Opened, not_cancelled
from tests.data.copy.file_systems import SMALL_BLOCKS, SMALL_INODES, FileSystems
from tests.support.faultfs import FaultFs, How
from tests.support.passthrough import Kind
from tests.support.syscalls import Faulty, Rival, Watched, call, open_fds
from tests.support.trees import CAPABILITY, NET_RAW, Node, acl, build, differences, snapshot, trees

ACCESS_ACL = b"system.posix_acl_access"
NFS4_ACL = b"system.nfs4_acl"
DEFAULT_ACL = "system.posix_acl_default"
TIME_NS = 1_600_000_000_123_456_789
USER = 65534

root = pytest.mark.root


def twin(*, native: bool) -> SmallFiles:
    if native and not SmallFiles().is_native:
        pytest.skip("the C extension is not built: python setup.py build_ext --inplace")
    return SmallFiles(native=native)


@pytest.fixture(params=["native", "python"])
def small(request: pytest.FixtureRequest) -> SmallFiles:
    return twin(native=request.param == "native")


@pytest.fixture
def where(tmp_path: Path) -> Path:
    path = tmp_path / "where"
    path.mkdir()
    return path


def read(small: SmallFiles, directory: Path, *names: bytes) -> list[SmallFile | None]:
    fds = open_fds()
    with Opened(directory) as fd:
        found = small.read(fd, names, not_cancelled)
    assert open_fds() == fds
    return found


def write(small: SmallFiles, directory: Path, *items: NewFile) -> list[bool]:
    fds = open_fds()
    with Opened(directory) as fd:
        done = small.write(fd, items, not_cancelled)
    assert open_fds() == fds
    return done


def new(name: bytes = b"f", content: bytes = b"content", **changes: Any) -> NewFile:
    plain = NewFile(name, content, 0o644, os.geteuid(), os.getegid(), TIME_NS, None)
    return plain._replace(**changes)


def expected(path: Path) -> SmallFile:
    """What a look without the service says of a plain file."""
    info = path.stat()
    xattrs = {os.fsencode(name): os.getxattr(path, name) for name in os.listxattr(path)}
    if not os.access(path, os.R_OK):
        path.chmod(0o400)
    return SmallFile(
        stat.S_IMODE(info.st_mode),
        info.st_uid,
        info.st_gid,
        info.st_size,
        info.st_mtime_ns,
        info.st_ctime_ns,
        info.st_ino,
        xattrs or None,
        path.read_bytes(),
    )


def is_as_asked(path: Path, item: NewFile) -> bool:
    seen = expected(path)
    return (seen.content, *seen[:3], seen.mtime_ns, seen.xattrs or {}) == (
        *item[1:6],
        item.xattrs or {},
    )


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 65536, SMALL_BYTES - 1, SMALL_BYTES])
def test_a_read_gives_all_of_a_plain_file(small: SmallFiles, where: Path, size: int) -> None:
    path = where / "f"
    path.write_bytes(os.urandom(size))
    path.chmod(0o4651)
    os.utime(path, ns=(5, -TIME_NS - 1))
    assert read(small, where, b"f") == [expected(path)]


def test_a_read_gives_attributes_and_acls(small: SmallFiles, where: Path) -> None:
    path = where / "f"
    path.write_bytes(b"x" * 5000)
    os.setxattr(path, "user.a", b"")
    os.setxattr(path, "user.b\n", b"value" * 20)
    os.setxattr(path, ACCESS_ACL, acl((1234, 6)))
    (found,) = read(small, where, b"f")
    assert found == expected(path)
    assert found is not None
    assert found.xattrs is not None
    assert found.xattrs.keys() == {b"user.a", b"user.b\n", ACCESS_ACL}


def test_what_is_larger_than_small_is_left(small: SmallFiles, where: Path) -> None:
    (where / "f").write_bytes(bytes(SMALL_BYTES + 1))
    assert read(small, where, b"f") == [None]


def test_answers_come_in_order_of_the_names(small: SmallFiles, where: Path) -> None:
    names = [b"f%d" % number for number in range(3 * SLICE + 1)]
    for name in names[::2]:
        (where / os.fsdecode(name)).write_bytes(name)
    found = read(small, where, *names)
    contents = [file.content if file else None for file in found]
    assert contents == [name if not number % 2 else None for number, name in enumerate(names)]


def make_link(path: Path) -> None:
    path.write_bytes(b"x")
    os.link(path, path.with_name("other"))


def make_symlink(path: Path) -> None:
    path.with_name("plain").write_bytes(b"secret")
    path.symlink_to("plain")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def make_hole(*data: tuple[int, bytes], size: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            for offset, content in data:
                file.seek(offset)
                file.write(content)
            file.truncate(size)

    return make


def make_hole_beside_attributes(path: Path) -> None:
    make_hole(size=4096)(path)
    os.setxattr(path, "user.a", b"x" * 3000)
    assert path.stat().st_blocks * 512 >= 4096


def make_many_attributes(path: Path) -> None:
    """More than ext4 takes."""
    path.write_bytes(b"x")
    for number in range(2):
        os.setxattr(path, f"user.{number}", bytes(XATTR_BYTES // 2))


NOT_PLAIN: dict[str, Callable[[Path], None]] = {
    "missing": lambda path: None,
    "symlink": make_symlink,
    "dangling": lambda path: path.symlink_to("nowhere"),
    "fifo": os.mkfifo,
    "directory": Path.mkdir,
    "socket": make_socket,
    "linked": make_link,
    "all hole": make_hole(size=4096),
    "one byte of hole": make_hole(size=1),
    "hole first": make_hole((1 << 16, b"x"), size=(1 << 16) + 1),
    "hole last": make_hole((0, b"x"), size=1 << 16),
    "hole between": make_hole((0, b"x"), (1 << 16, b"x"), size=(1 << 16) + 1),
    "hole beside attributes": make_hole_beside_attributes,
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_what_is_not_plain_is_left_as_it_is(small: SmallFiles, where: Path, kind: str) -> None:
    NOT_PLAIN[kind](where / "f")
    (where / "g").write_bytes(b"g")
    before = snapshot(str(where))
    assert read(small, where, b"f", b"g") == [None, expected(where / "g")]
    assert snapshot(str(where)) == before


def test_blocks_that_nothing_was_written_to_are_a_hole(small: SmallFiles, where: Path) -> None:
    """As long as nobody has read them; afterwards they are known to be zeros."""
    with (where / "f").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 16)
    assert (where / "f").stat().st_blocks * 512 >= 1 << 16
    assert read(small, where, b"f") == [None]


@root
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK], ids=["character", "block"])
def test_devices_are_left(small: SmallFiles, where: Path, kind: int) -> None:
    os.mknod(where / "f", kind | 0o600, os.makedev(1, 3))
    assert read(small, where, b"f") == [None]


@root
def test_more_attributes_than_are_plain_are_left(small: SmallFiles) -> None:
    with tmpfs("size=1m") as place:
        make_many_attributes(place / "f")
        (place / "g").touch()
        os.setxattr(place / "g", "user.a", bytes(XATTR_BYTES // 2))
        for number in range(20):
            os.setxattr(place / "g", f"user.{number}" + "n" * 100, b"x" * 600)
        assert read(small, place, b"f", b"g") == [None, expected(place / "g")]


def test_only_names_right_in_the_directory_are_read(small: SmallFiles, where: Path) -> None:
    (where / "d").mkdir()
    (where / "d" / "f").write_bytes(b"x")
    (where / "f").write_bytes(b"x")
    with Opened(where / "d") as fd:
        names = [b"../f", b"", b".", b"..", b"./f", b"f\0g", os.fsencode(where / "f"), b"n" * 256]
        assert small.read(fd, names, not_cancelled) == [None] * len(names)
        assert small.read(fd, [*names[:3], b"f"], not_cancelled)[3] is not None


@root
def test_a_file_that_another_mount_covers_is_left(small: SmallFiles, where: Path) -> None:
    """A bind mount of a single file, even of the same file system, may show what is outside."""
    for name in ("f", "g", "secret"):
        (where / name).write_bytes(name.encode())
    with bind_mounted(where / "secret", where / "f"):
        assert read(small, where, b"f", b"g") == [None, expected(where / "g")]


@root
def test_a_directory_that_is_a_mount_itself_is_read(small: SmallFiles, where: Path) -> None:
    (where / "f").write_bytes(b"x")
    with bind_mounted(where, where):
        assert read(small, where, b"f") == [expected(where / "f")]


def test_a_file_that_ends_before_its_size_is_left(small: SmallFiles) -> None:
    """Files of sysfs say that they have a page."""
    place = Path("/sys/kernel")
    assert (place / "profiling").stat().st_size > len((place / "profiling").read_bytes())
    assert read(small, place, b"profiling") == [None]


@root
def test_holes_smaller_than_a_page_are_seen(small: SmallFiles) -> None:
    """With blocks of 1 KiB a file of one page can have a block and a hole."""
    with FileSystems() as systems:
        place = systems.new(SMALL_BLOCKS)
        make_hole((3072, b"x"), size=4096)(place / "f")
        make_hole((0, b"x" * 4000), size=4000)(place / "g")
        assert (place / "f").stat().st_blocks
        assert read(small, place, b"f", b"g") == [None, expected(place / "g")]


def test_a_read_ends_early_when_it_holds_enough(small: SmallFiles, where: Path) -> None:
    fitting = BATCH_BYTES // SMALL_BYTES
    names = [b"f%03d" % number for number in range(2 * fitting)]
    for name in names:
        (where / os.fsdecode(name)).write_bytes(bytes(SMALL_BYTES))
    (where / "f001").write_bytes(b"little")
    assert len(read(small, where, *names)) == fitting + 1
    assert len(read(small, where, *names[fitting + 1 :])) == fitting - 1


def test_attributes_count_too(small: SmallFiles, where: Path) -> None:
    names = [b"f%04d" % number for number in range(2 * BATCH_BYTES // 3000)]
    for name in names[:3]:
        (where / os.fsdecode(name)).write_bytes(b"x")
        os.setxattr(where / os.fsdecode(name), "user.a", bytes(3000))
    with Opened(where) as fd:
        found = small._slices.read(fd, names[:3], 6001)
    assert len(found) == 2


@pytest.mark.parametrize("looks", [0, 1, 2])
def test_a_cancelled_read_answers_what_it_has(small: SmallFiles, where: Path, looks: int) -> None:
    names = [b"f%03d" % number for number in range(5 * SLICE)]
    answers = iter([False] * looks + [True])
    with Opened(where) as fd:
        assert small.read(fd, names, lambda: next(answers)) == [None] * (looks * SLICE)


def test_no_names_no_answers(small: SmallFiles, where: Path) -> None:
    assert read(small, where) == []
    assert write(small, where) == []


# --- what changes meanwhile -----------------------------------------------------------------------


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def rewrite(path: Path) -> None:
    """The same size, and the same mtime as before."""
    info = path.stat()
    with path.open("r+b") as file:
        file.write(b"CONTENT")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], None]] = {
    "grows": append,
    "shrinks": lambda path: os.truncate(path, 3),
    "rewritten": rewrite,
    "mode": lambda path: path.chmod(0o600),
    "linked": lambda path: os.link(path, path.with_name("other")),
    "attribute": lambda path: os.setxattr(path, "user.b", b"2"),
}
MOMENTS = [
    ("read", False),
    ("read", True),
    ("listxattr", False),
    ("getxattr", False),
    ("getxattr", True),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("moment", "after"), MOMENTS)
def test_a_file_that_changes_while_read_is_left(
    where: Path, change: str, moment: str, after: bool
) -> None:
    path = where / "f"
    path.write_bytes(b"content")
    os.setxattr(path, "user.a", b"1")
    rival = Rival(call(moment), lambda: CHANGES[change](path), after=after)
    assert read(SmallFiles(rival), where, b"f") == [None]
    assert rival.acted == 1


def test_an_attribute_that_vanishes_while_read_leaves_the_file(where: Path) -> None:
    path = where / "f"
    path.write_bytes(b"content")
    os.setxattr(path, "user.a", b"1")
    rival = Rival(call("getxattr"), lambda: os.removexattr(path, "user.a"))
    assert read(SmallFiles(rival), where, b"f") == [None]


class Asked:
    """Acts once, when anybody reads or opens a file, before that goes on: the kernel asks, and
    waits. A directory stands for the files right in it.
    """

    CONTENT_CLASS, CLOSE_ON_EXEC, ADD, ALLOW = 4, 1, 1, 1
    OPEN, READ, ON_CHILD = 0x00010000, 0x00020000, 0x08000000
    EVENT = struct.Struct("=IBBHQii")

    def __init__(self, path: Path, question: int, act: Callable[[], None]) -> None:
        self._path = path
        self._question = question
        self._act = act
        self.acted = 0

    def __enter__(self) -> Asked:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.fanotify_init(self.CONTENT_CLASS | self.CLOSE_ON_EXEC, os.O_RDONLY)
        assert self._fd >= 0, os.strerror(ctypes.get_errno())
        mask = ctypes.c_uint64(self._question | self.ON_CHILD * self._path.is_dir())
        place = os.fsencode(self._path)
        assert libc.fanotify_mark(self._fd, self.ADD, mask, -100, place) == 0
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()
        return self

    def _answer(self) -> None:
        while select.select([self._fd, self._stop], [], [])[0] == [self._fd]:
            events = os.read(self._fd, 4096)
            for start in range(0, len(events), self.EVENT.size):
                fd = self.EVENT.unpack_from(events, start)[5]
                try:
                    if not self.acted:
                        self.acted += 1
                        self._act()
                finally:
                    os.write(self._fd, struct.pack("=iI", fd, self.ALLOW))
                    os.close(fd)

    def __exit__(self, *_: object) -> None:
        os.close(self._stopped)
        self._thread.join()
        os.close(self._stop)
        os.close(self._fd)


@root
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_under_a_real_read_is_left(
    small: SmallFiles, where: Path, change: str
) -> None:
    path = where / "f"
    path.write_bytes(b"content")

    def change_it() -> None:
        CHANGES[change](path)

    with Opened(where) as fd, Asked(path, Asked.READ, change_it) as rival:
        found = small.read(fd, [b"f"], not_cancelled)
    assert (found, rival.acted) == ([None], 1)


# --- writing --------------------------------------------------------------------------------------

MODES = [0o644, 0o640, 0o600, 0, 0o444, 0o666, 0o777, 0o604, 0o070, 0o4755, 0o2755, 0o1777, 0o6711]


@pytest.fixture(params=[0o022, 0o077, 0], ids="umask {:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_a_write_makes_files_exactly_as_asked(small: SmallFiles, where: Path) -> None:
    items = [new(b"m%04o" % mode, mode=mode) for mode in MODES]
    items += [new(b"s%d" % size, os.urandom(size)) for size in (0, 1, 4096, SMALL_BYTES, 1 << 20)]
    items += [new(b"t%d" % time, mtime_ns=time) for time in (0, -1, -TIME_NS, 1 << 62)]
    items += [new(b"\xff\n" + b"n" * 253), new(b"x", xattrs={b"user.a": b"", b"user.b\n": b"2"})]
    items += [new(b"ro", mode=0o444, xattrs={b"user.a": b"1"}), new(b"none", xattrs={})]
    assert write(small, where, *items) == [True] * len(items)
    assert [
        item.name for item in items if not is_as_asked(where / os.fsdecode(item.name), item)
    ] == []


@root
@pytest.mark.usefixtures("umask")
def test_a_write_gives_owners_capabilities_and_acls(small: SmallFiles, where: Path) -> None:
    owners = [(1000, 1001), (0, 1001), (1000, 0), (4_000_000_000, (1 << 32) - 2)]
    items = [
        new(b"%d-%o" % (uid + gid, mode), uid=uid, gid=gid, mode=mode)
        for uid, gid in owners
        for mode in (0o644, 0o640, 0o6755)
    ]
    xattrs = {CAPABILITY: NET_RAW, b"trusted.t": b"1", ACCESS_ACL: acl((1234, 6))}
    items += [new(b"acl", mode=0o770, xattrs=xattrs), new(b"empty", b"", mode=0o770, xattrs=xattrs)]
    items += [new(b"foreign", mode=0o4770, uid=77, gid=78, xattrs=xattrs)]
    assert write(small, where, *items) == [True] * len(items)
    assert [
        item.name for item in items if not is_as_asked(where / os.fsdecode(item.name), item)
    ] == []


def test_a_default_acl_of_the_directory_is_not_inherited(small: SmallFiles, where: Path) -> None:
    os.setxattr(where, DEFAULT_ACL, acl((1234, 7), other=7))
    modes = [mode for mode in MODES if mode != 0o2755 or os.geteuid() == 0]
    items = [new(b"m%04o" % mode, mode=mode) for mode in modes]
    items.append(new(b"own", mode=0o770, xattrs={ACCESS_ACL: acl((5, 1))}))
    assert write(small, where, *items) == [True] * len(items)
    assert [
        item.name for item in items if not is_as_asked(where / os.fsdecode(item.name), item)
    ] == []


def nfs4_acl(*whos: bytes, kind: int = 0, flags: int = 0, mask: int = 0x12019F) -> bytes:
    aces = [
        struct.pack(">IIII", kind, flags, mask, len(who)) + who + b"\0" * (-len(who) % 4)
        for who in whos
    ]
    return struct.pack(">I", len(aces)) + b"".join(aces)


OF_MODE = nfs4_acl(b"OWNER@", b"GROUP@", b"EVERYONE@")


def test_an_acl_that_says_what_the_mode_does_is_not_needed_where_there_are_none(
    small: SmallFiles, where: Path
) -> None:
    items = [new(b"m%04o" % mode, mode=mode, xattrs={NFS4_ACL: OF_MODE}) for mode in (0o644, 0o640)]
    items.append(new(b"more", xattrs={NFS4_ACL: OF_MODE, b"user.a": b"1"}))
    assert write(small, where, *items) == [True] * len(items)
    for item in items:
        rest = {name: value for name, value in item.xattrs.items() if name != NFS4_ACL}
        assert is_as_asked(where / os.fsdecode(item.name), item._replace(xattrs=rest))


@pytest.mark.parametrize(
    "acl_value",
    [
        nfs4_acl(b"OWNER@", b"1234"),
        nfs4_acl(b"OWNER@", flags=1),
        nfs4_acl(b"OWNER@") + b"\0",
        nfs4_acl(b"OWNER@")[:-1],
        b"\xff\xff\xff\xff",
        nfs4_acl(*[b"EVERYONE@"] * 20),
        nfs4_acl(b"EVERYONE@", mask=0x40000),
        nfs4_acl(b"EVERYONE@", kind=2),
    ],
    ids=[
        *("named", "inherited", "longer", "shorter", "no more than a number", "too long"),
        *("writes the ACL", "audit"),
    ],
)
def test_another_one_is_for_the_careful_way(
    small: SmallFiles, where: Path, acl_value: bytes
) -> None:
    assert write(small, where, new(b"f", xattrs={NFS4_ACL: acl_value}), new(b"g")) == [False, True]
    assert os.listdir(where) == ["g"]


class WithNfs4Acls(Files):
    """A file system whose new files have this NFSv4 ACL."""

    def __init__(self, by_itself: bytes) -> None:
        self.by_itself = by_itself
        self.asked = self.given = 0

    def getxattr(self, place: sysio.Place, name: bytes) -> bytes:
        if name != NFS4_ACL:
            return super().getxattr(place, name)
        self.asked += 1
        return self.by_itself

    def setxattr(self, place: sysio.Place, name: bytes, value: bytes) -> None:
        assert (name, value) == (NFS4_ACL, OF_MODE)
        self.given += 1


def test_one_file_of_a_kind_is_asked_whether_it_has_it(where: Path) -> None:
    """In C it is the same; see tests/nfs for that one."""
    files = WithNfs4Acls(OF_MODE)
    xattrs = {NFS4_ACL: OF_MODE}
    items = [new(b"%d" % number, xattrs=xattrs) for number in range(SLICE - 1)]
    items += [new(b"other mode", mode=0o755, xattrs=xattrs)]
    assert write(SmallFiles(files), where, *items) == [True] * len(items)
    assert (files.asked, files.given) == (2, 0)


def test_files_that_have_another_one_are_each_given_it(where: Path) -> None:
    files = WithNfs4Acls(nfs4_acl(b"OWNER@", b"1234"))
    items = [new(b"%d" % number, xattrs={NFS4_ACL: OF_MODE}) for number in range(3)]
    assert write(SmallFiles(files), where, *items) == [True] * 3
    assert (files.asked, files.given) == (3, 3)


@root
def test_a_directory_that_gives_its_group_away_does_not(small: SmallFiles, where: Path) -> None:
    os.chown(where, 0, 1001)
    where.chmod(0o2777)
    items = [new(b"ours"), new(b"its", gid=1001), new(b"third", gid=5), new(b"s", mode=0o2755)]
    assert write(small, where, *items) == [True] * 4
    assert all(is_as_asked(where / os.fsdecode(item.name), item) for item in items)


@root
def test_a_file_system_that_gives_the_directorys_group_does_not(small: SmallFiles) -> None:
    """Mounted with BSD groups, nothing shows of it at the directory."""
    with FileSystems() as systems:
        place = systems.new(SMALL_BLOCKS)
        subprocess.run(["mount", "-o", "remount,grpid", systems.root(SMALL_BLOCKS)], check=True)
        os.chown(place, 0, 1001)
        items = [new(b"f%d" % number, mode=mode) for number, mode in enumerate(MODES)]
        assert write(small, place, *items) == [True] * len(items)
        assert all(is_as_asked(place / os.fsdecode(item.name), item) for item in items)
        files = Watched(before=lambda name, args: names.append(name))
        names: list[str] = []
        assert write(SmallFiles(files), place, new(b"a"), new(b"b")) == [True, True]
        assert names[2:] == [
            *WRITE[:-1],
            "chown",
            "chmod",
            *DRESS,
            "open",
            "write",
            "chown",
            *DRESS,
        ]


DRESS = ["utime", "fstat", "close"]
WRITE = ["open", "write", *DRESS]


def test_the_calls_are_as_few_as_can_be(where: Path) -> None:
    """No other than the module's docstring says."""
    (where / "f").write_bytes(b"x" * 4096)
    names: list[str] = []
    small = SmallFiles(Watched(before=lambda name, args: names.append(name)))
    assert read(small, where, b"f") == [expected(where / "f")]
    assert names == ["open_here", "fstat", "listxattr", "read", "fstat", "close"]
    names.clear()
    assert write(small, where, new(b"a"), new(b"b")) == [True, True]
    assert names == ["fstat", "getxattr", *WRITE, *WRITE]


@root
def test_the_group_that_a_directory_gives_is_known(where: Path) -> None:
    os.chown(where, 0, 1001)
    where.chmod(0o2755)
    names: list[str] = []
    small = SmallFiles(Watched(before=lambda name, args: names.append(name)))
    assert write(small, where, new(b"a", gid=1001), new(b"b")) == [True, True]
    assert names[2:] == [*WRITE, "open", "write", "chown", *DRESS]


def test_a_umask_is_repaired_once_and_then_known(where: Path) -> None:
    names: list[str] = []
    before = os.umask(0o077)
    try:
        files = Watched(before=lambda name, args: names.append(name))
        assert write(SmallFiles(files), where, new(b"a"), new(b"b")) == [True, True]
    finally:
        os.umask(before)
    repair = ["chmod", *DRESS]
    assert names[2:] == [*WRITE[:-1], *repair, "open", "write", *repair]


def test_the_atime_is_left_alone_where_it_can_be(small: SmallFiles, where: Path) -> None:
    before = (where.stat().st_mtime_ns // 10**9) * 10**9
    assert write(small, where, new()) == [True]
    atime = (where / "f").stat().st_atime_ns
    assert atime >= before if small.is_native else atime == TIME_NS


IN_THE_WAY: dict[str, Callable[[Path], Any]] = {
    "file": lambda path: path.write_bytes(b"theirs"),
    "link out": lambda path: path.symlink_to("outside"),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "directory": Path.mkdir,
    "fifo": os.mkfifo,
}


@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_what_is_in_the_way_stays(small: SmallFiles, where: Path, kind: str) -> None:
    (where / "outside").write_bytes(b"outside")
    IN_THE_WAY[kind](where / "f")
    before = snapshot(str(where))
    assert write(small, where, new(), new(b"g")) == [False, True]
    (where / "g").unlink()
    assert {**snapshot(str(where)), b"": before[b""]} == before


def test_only_names_right_in_the_directory_are_written(small: SmallFiles, where: Path) -> None:
    (where / "d").mkdir()
    names = [b"../f", b"", b".", b"..", b"./f", b"f\0g", os.fsencode(where / "f"), b"n" * 256]
    items = [new(name) for name in names]
    assert write(small, where / "d", *items, new(b"g")) == [False] * len(items) + [True]
    assert os.listdir(where / "d") == ["g"]
    assert os.listdir(where) == ["d"]


IMPOSSIBLE = {
    "attribute": {"xattrs": {b"nonsense.a": b"1"}},
    "attribute name": {"xattrs": {b"user.a\0b": b"1"}},
    "acl": {"xattrs": {ACCESS_ACL: b"nonsense"}},
    "default acl": {"xattrs": {b"system.posix_acl_default": acl((1, 7))}},
    "acl that differs": {"mode": 0o640, "xattrs": {ACCESS_ACL: acl((1234, 7))}},
    "mode": {"mode": 0o17777},
    "uid": {"uid": (1 << 32) - 1},
    "huge uid": {"uid": 1 << 70},
    "negative gid": {"gid": -1},
    "time": {"mtime_ns": 1 << 80},
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_what_cannot_be_had_leaves_nothing(small: SmallFiles, where: Path, what: str) -> None:
    item = new()._replace(**IMPOSSIBLE[what])
    assert write(small, where, new(b"a"), item, new(b"z")) == [True, False, True]
    assert sorted(os.listdir(where)) == ["a", "z"]


@root
def test_times_that_the_file_system_rounds_leave_nothing(small: SmallFiles) -> None:
    with FileSystems() as systems:
        place = systems.new(SMALL_INODES)
        items = [new(b"a"), new(b"b", mtime_ns=10**18)]
        assert write(small, place, *items) == [False, True]
        assert os.listdir(place) == ["b"]


@root
@pytest.mark.parametrize("size", [SMALL_BYTES, 70_000])
def test_a_full_target_is_left_without_the_file_that_did_not_fit(
    small: SmallFiles, size: int
) -> None:
    with tmpfs("size=1m") as place:
        items = [new(b"f%03d" % number, b"x" * size) for number in range(40)]
        done = write(small, place, *items)
        fitted = [item.name for item, good in zip(items, done, strict=True) if good]
        assert 0 < len(fitted) < len(items)
        assert sorted(map(os.fsencode, os.listdir(place))) == fitted
        assert all((place / os.fsdecode(name)).stat().st_size == size for name in fitted)


@root
def test_a_target_without_inodes_takes_nothing(small: SmallFiles) -> None:
    with tmpfs("nr_inodes=3") as place:
        assert write(small, place, new(b"a"), new(b"b"), new(b"c")) == [True, True, False]
        assert sorted(os.listdir(place)) == ["a", "b"]


@pytest.mark.parametrize("looks", [0, 1, 2])
def test_a_cancelled_write_has_not_begun_the_rest(
    small: SmallFiles, where: Path, looks: int
) -> None:
    items = [new(b"f%03d" % number) for number in range(5 * SLICE)]
    answers = iter([False] * looks + [True])
    with Opened(where) as fd:
        assert small.write(fd, items, lambda: next(answers)) == [True] * (looks * SLICE)
    assert len(os.listdir(where)) == looks * SLICE


# --- faults ---------------------------------------------------------------------------------------

FULL_ITEM = {"mode": 0o4770, "xattrs": {b"user.a": b"1", ACCESS_ACL: acl((1234, 6))}}


def full_source(where: Path) -> None:
    (where / "f").write_bytes(b"x" * 4000 + bytes(1000))
    (where / "g").write_bytes(b"plain")
    os.setxattr(where / "f", "user.a", b"1")


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOTSUP])
def test_every_fault_of_a_read_leaves_the_file_to_the_careful_way(where: Path, error: int) -> None:
    full_source(where)
    unharmed = Faulty(0, error)
    good = [expected(where / "f"), expected(where / "g")]
    assert read(SmallFiles(unharmed), where, b"f", b"g") == good
    assert unharmed.calls == 9 + 6
    for fail_at in range(1, unharmed.calls + 1):
        files = Faulty(fail_at, error)
        found = read(SmallFiles(files), where, b"f", b"g")
        assert files.hit is not None
        if files.hit[0] == "close":
            assert found == good
        elif files.hit[0] in ("listxattr", "getxattr") and error == errno.ENOTSUP:
            assert [file and file.content for file in found] == [file.content for file in good]
        else:
            assert found == ([None, good[1]] if fail_at <= 9 else [good[0], None]), files.hit


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ENOSPC, errno.ENOTSUP])
def test_every_fault_of_a_write_leaves_nothing(where: Path, error: int) -> None:
    items = [new(b"f", **FULL_ITEM), new(b"g")]
    unharmed = Faulty(0, error)
    assert write(SmallFiles(unharmed), where, *items) == [True, True]
    assert unharmed.calls == 2 + 9 + 5
    for fail_at in range(1, unharmed.calls + 1):
        for name in os.listdir(where):
            os.unlink(where / name)
        files = Faulty(fail_at, error)
        done = write(SmallFiles(files), where, *items)
        assert files.hit is not None
        if fail_at == 1 or (fail_at == 2 and error != errno.ENOTSUP):
            assert done == [False, False]
        elif fail_at == 2:
            assert done == [True, True]
        else:
            assert done == ([False, True] if fail_at <= 11 else [True, False]), files.hit
        left = [item.name for item, good in zip(items, done, strict=True) if good]
        assert sorted(map(os.fsencode, os.listdir(where))) == left, files.hit


def test_a_target_that_fails_for_good_raises_nothing(where: Path) -> None:
    class Broken(Watched):
        def __init__(self, fail_from: int) -> None:
            super().__init__(before=self._count)
            self.calls = 0
            self.fail_from = fail_from

        def _count(self, name: str, args: tuple[Any, ...]) -> None:
            self.calls += 1
            if self.calls >= self.fail_from:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    for fail_from in range(1, 12):
        (where / str(fail_from)).mkdir()
        assert write(SmallFiles(Broken(fail_from)), where / str(fail_from), new(**FULL_ITEM)) == [
            False
        ]


@root
@pytest.mark.parametrize("how", [How.FAIL, How.SHORT], ids=str)
def test_every_fault_of_a_file_system_is_met_by_both_twins(
    small: SmallFiles, tmp_path: Path, how: How
) -> None:
    """What the kernel does with them included: the flush at close, requests it repeats."""
    (tmp_path / "back").mkdir()
    (tmp_path / "front").mkdir()
    back, item = tmp_path / "back", new(b"new", **FULL_ITEM)
    full_source(back)
    good = [expected(back / "f"), expected(back / "g")]
    with FaultFs(back, tmp_path / "front") as faulty:
        front, number, lost, flushed = faulty.mountpoint, 0, 0, 0
        while not number or faulty.hit:
            number += 1
            with Opened(front) as fd:
                faulty.arm(number, errno.EIO, how=how)
                found = small.read(fd, [b"f", b"g"], not_cancelled)
                done = small.write(fd, [item], not_cancelled)
            for file, wanted in zip(found, good, strict=True):
                assert file is None or file == wanted._replace(inode=file.inode)
            lost += found.count(None) + done.count(False)
            assert (back / "new").exists() == done[0], faulty.hit
            if faulty.hit and faulty.hit.kind is Kind.FLUSH and faulty.hit.path == b"new":
                flushed += 1
                assert not done[0]
            if done[0]:
                assert is_as_asked(back / "new", item), faulty.hit
                (back / "new").unlink()
        assert number > (15 if how is How.FAIL else 3)
        assert lost > (10 if how is How.FAIL else 1)
        assert flushed == (how is How.FAIL)


def test_a_file_that_is_not_ours_is_not_taken_back(where: Path) -> None:
    """A rival moves the new file away and puts another there, right before it fails."""

    def swap() -> None:
        os.rename(where / "f", where / "moved")
        (where / "f").write_bytes(b"theirs")
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for moment in ("utime", "close"):
        rival = Rival(call(moment), swap)
        assert write(SmallFiles(rival), where, new()) == [False]
        assert (where / "f").read_bytes() == b"theirs"
        (where / "f").unlink()


def test_an_interruption_takes_the_file_back(where: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with Opened(where) as fd, pytest.raises(KeyboardInterrupt):
        SmallFiles(Rival(call("utime"), interrupt)).write(fd, [new()], not_cancelled)
    assert os.listdir(where) == []


def test_a_rival_that_spoils_the_file_is_met_with_one_repair(where: Path) -> None:
    """Once is repaired, twice is not."""
    for times, done in ((1, True), (2, False)):
        rival = Rival(call("utime"), lambda: os.chmod(where / "f", 0o777), times=times)
        assert write(SmallFiles(rival), where, new()) == [done]
        assert rival.acted == times
        if done:
            assert is_as_asked(where / "f", new())
            (where / "f").unlink()
    assert os.listdir(where) == []


@root
def test_a_setuid_file_is_not_given_its_mode_while_it_has_another_owner(where: Path) -> None:
    """A squashing server may answer that it changed the owner, and not do so."""

    class Squashing(Files):
        modes: list[int] = []  # noqa: RUF012 - of this test only

        def chown(self, place: sysio.Place, uid: int, gid: int) -> None:
            pass

        def chmod(self, place: sysio.Place, mode: int) -> None:
            self.modes.append(mode)
            super().chmod(place, mode)

    assert write(SmallFiles(Squashing()), where, new(mode=0o4755, uid=1000)) == [False]
    assert Squashing.modes == []
    assert os.listdir(where) == []


@root
@pytest.mark.parametrize(
    "changes",
    [
        {"mode": 0o640, "gid": 1001},
        {"mode": 0o604, "gid": 1001},
        {"mode": 0o660, "uid": 1000},
        {"xattrs": {ACCESS_ACL: acl((1234, 0), owner=6, group=4, other=4)}},
    ],
)
def test_nobody_can_open_on_the_way_what_they_may_not_in_the_end(
    small: SmallFiles, where: Path, changes: dict[str, Any]
) -> None:
    """Not the wrong group, and not before the ACL that keeps somebody out."""
    seen: list[int] = []

    def look() -> None:
        seen.append((where / "f").stat().st_mode & 0o777)

    with Opened(where) as fd, Asked(where, Asked.OPEN, look):
        small.write(fd, [new(**changes)], not_cancelled)
    assert seen == [0o600]


# --- the twins ------------------------------------------------------------------------------------


@root
@pytest.mark.slow
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(tree=trees())
def test_the_twins_do_the_same_on_random_trees(tree: Node) -> None:
    native, python = twin(native=True), twin(native=False)
    with tempfile.TemporaryDirectory() as top:
        for name in ("source", "native", "python"):
            (Path(top) / name).mkdir()
        build(top + "/source", tree)
        whole = snapshot(top + "/source")
        for number, (path, _, _) in enumerate(os.walk(os.fsencode(top) + b"/source")):
            names = sorted(os.listdir(path))
            below = os.path.relpath(path, os.fsencode(top) + b"/source")
            seen = {name: whole[os.path.normpath(below + b"/" + name)] for name in names}
            with Opened(os.fsdecode(path)) as fd:
                found = native.read(fd, names, not_cancelled)
                assert python.read(fd, names, not_cancelled) == found
            files = {name: file for name, file in zip(names, found, strict=False) if file}
            assert files.keys() == {name for name in names[: len(found)] if is_plain(seen[name])}
            items = [as_new(name, file) for name, file in files.items()]
            for kind, small in (("native", native), ("python", python)):
                place = Path(top) / kind / str(number)
                place.mkdir()
                # A setgid bit beside an ACL is the careful way's.
                done = write(small, place, *items)
                good = {item.name for item, ok in zip(items, done, strict=True) if ok}
                left = snapshot(str(place))
                assert left.keys() - {b""} == good
                wanted = {name: replace(seen[name], names=frozenset({name})) for name in good}
                assert differences({**wanted, b"": left[b""]}, left) == []
                assert all(ok or item.xattrs for item, ok in zip(items, done, strict=True))
            native_left = snapshot(f"{top}/native/{number}")
            assert differences({**native_left, b"": left[b""]}, left) == []


def is_plain(seen: Any) -> bool:
    whole = ((0, seen.size),) if seen.size else ()
    is_one = stat.S_ISREG(seen.kind) and len(seen.names) == 1
    return is_one and seen.extents == whole and seen.size <= SMALL_BYTES


def as_new(name: bytes, file: SmallFile) -> NewFile:
    return NewFile(name, file.content, file.mode, file.uid, file.gid, file.mtime_ns, file.xattrs)


def test_many_threads_share_one(small: SmallFiles, where: Path) -> None:
    names = [b"f%03d" % number for number in range(4 * SLICE)]
    (where / "source").mkdir()
    for name in names:
        (where / "source" / os.fsdecode(name)).write_bytes(name * 1000)

    def copy(number: int) -> list[str]:
        place = where / str(number)
        place.mkdir()
        with Opened(where / "source") as source, Opened(place) as target:
            files = small.read(source, names, not_cancelled)
            items = [as_new(name, file) for name, file in zip(names, files, strict=True) if file]
            assert small.write(target, items, not_cancelled) == [True] * len(names)
        seen = snapshot(str(where / "source"))
        left = snapshot(str(place))
        return differences({**seen, b"": left[b""]}, left)

    fds = open_fds()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(copy, range(24))) == [[]] * 24
    assert open_fds() == fds


# --- which twin -----------------------------------------------------------------------------------


def test_the_seam_is_never_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MANILA_BACKUP_NATIVE", raising=False)
    assert not SmallFiles(Files()).is_native
    with pytest.raises(RuntimeError, match="seam"):
        SmallFiles(Files(), native=True)
    assert not SmallFiles(SYSTEM, native=False).is_native


def test_the_environment_chooses_unless_the_caller_does(monkeypatch: pytest.MonkeyPatch) -> None:
    twin(native=True)
    monkeypatch.setenv("MANILA_BACKUP_NATIVE", "0")
    assert not SmallFiles().is_native
    assert SmallFiles(native=True).is_native
    monkeypatch.setenv("MANILA_BACKUP_NATIVE", "1")
    assert SmallFiles().is_native


def test_where_it_is_not_built_python_does_it(monkeypatch: pytest.MonkeyPatch, where: Path) -> None:
    import manila_backup.data.copy as package

    monkeypatch.delattr(package, "_native", raising=False)
    monkeypatch.setitem(sys.modules, "manila_backup.data.copy._native", None)
    small = SmallFiles()
    assert not small.is_native
    assert write(small, where, new()) == [True]
    with pytest.raises(RuntimeError, match="not built"):
        SmallFiles(native=True)


# --- as somebody else, and on poorer systems ------------------------------------------------------


def in_a_process(work: Callable[[], Any], *, user: int | None = None) -> Any:
    """What ``work`` answers in a process of its own, as an ordinary user if one is given."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            if user is not None:
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
            os.write(writer, json.dumps({"answer": work()}).encode())
        except BaseException:  # noqa: BLE001 - nothing may escape into the parent's test run
            os.write(writer, json.dumps({"error": traceback.format_exc()}).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        data = answer.read()
    assert os.waitpid(child, 0)[1] == 0
    found = json.loads(data)
    assert "error" not in found, found["error"]
    return found["answer"]


@root
def test_an_ordinary_user_reads_and_writes_what_it_may(small: SmallFiles) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        os.chown(place, USER, USER)
        for file, mode, owner in (("own", 0o600, USER), ("closed", 0, USER), ("root", 0o600, 0)):
            (place / file).write_bytes(b"x")
            os.chown(place / file, owner, owner)
            (place / file).chmod(mode)
        acls = {b"user.a": b"1", ACCESS_ACL: acl((1234, 6))}

        def work() -> Any:
            files = read(small, place, b"own", b"closed", b"root")
            items = [
                new(b"plain"),
                new(b"closed-", mode=0),
                new(b"ro", mode=0o440, xattrs={b"user.a": b"1"}),
                new(b"acl", mode=0o4770, xattrs=acls),
                new(b"foreign", uid=0),
                new(b"group", gid=0),
                new(b"trusted", xattrs={b"trusted.a": b"1"}),
            ]
            return [[file and file.mode for file in files], write(small, place, *items)]

        found = in_a_process(work, user=USER)
        assert found == [[0o600, None, None], [True] * 4 + [False] * 3]
        mine = {b"own", b"closed", b"root", b"plain", b"closed-", b"ro", b"acl"}
        assert set(os.listdir(os.fsencode(place))) == mine
        own = {"uid": USER, "gid": USER}
        assert is_as_asked(place / "acl", new(b"acl", mode=0o4770, xattrs=acls, **own))
        assert is_as_asked(place / "ro", new(mode=0o440, xattrs={b"user.a": b"1"}, **own))


def forbid_openat2(error: int) -> None:
    """As a seccomp filter of an older container manager does, for the rest of this process."""
    program = struct.pack(
        "HBBI" * 4,
        *(0x20, 0, 0, 0),  # load the number of the call
        *(0x15, 0, 1, 437),  # openat2?
        *(0x06, 0, 0, 0x00050000 | error),
        *(0x06, 0, 0, 0x7FFF0000),
    )
    buffer = ctypes.create_string_buffer(program)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    given_program = Program(4, ctypes.addressof(buffer))
    assert libc.prctl(22, 2, ctypes.byref(given_program), 0, 0) == 0


@root
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=errno.errorcode.get)
def test_without_openat2_the_same_is_refused(small: SmallFiles, where: Path, error: int) -> None:
    for name in ("covered", "plain", "secret"):
        (where / name).write_bytes(name.encode())
    (where / "link").symlink_to("plain")
    (where / "closed").write_bytes(b"x")

    def work() -> Any:
        forbid_openat2(error)
        found = read(small, where, b"covered", b"plain", b"link", b"gone")
        return [file and os.fsdecode(file.content) for file in found]

    with bind_mounted(where / "secret", where / "covered"):
        assert in_a_process(work) == [None, "plain", None, None]


@root
def test_a_covered_name_is_another_device_by_its_errno(where: Path) -> None:
    (where / "secret").write_bytes(b"secret")
    (where / "f").write_bytes(b"x")
    fds = open_fds()
    with bind_mounted(where / "secret", where / "f"), Opened(where) as fd:
        with pytest.raises(OSError, match="cross-device") as caught:
            SYSTEM.open_here(b"f", OPEN_FILE, fd)
        assert caught.value.errno == errno.EXDEV
        with pytest.raises(FileNotFoundError):
            SYSTEM.open_here(b"gone", OPEN_FILE, fd)
        with pytest.raises(ValueError, match="null"):
            SYSTEM.open_here(b"f\0", OPEN_FILE, fd)
    assert open_fds() == fds


@pytest.mark.parametrize(
    "arguments",
    [
        ("read", SmallFile, 0, [b"f"] * (SLICE + 1), 1),
        ("read", SmallFile, 0, ["f"], 1),
        ("read", SmallFile, 0, {b"f"}, 1),
        ("read", int, 0, [b"f"], 1),
        ("write", 0, [new()] * (SLICE + 1), 0, 0, False, frozenset()),
        ("write", 0, [(b"f", b"")], 0, 0, False, frozenset()),
        ("write", 0, [new(xattrs={"user.a": b""})], 0, 0, False, frozenset()),
        ("write", 0, [new(xattrs=5)], 0, 0, False, frozenset()),
        ("write", 0, [new(mode="x")], 0, 0, False, frozenset()),
        ("write", 0, [new()], 0, 0, False, []),
    ],
)
def test_mistakes_of_the_caller_are_raised_before_anything_is_done(
    arguments: Sequence[Any],
) -> None:
    twin(native=True)
    from manila_backup.data.copy import _native

    name, *given_ = arguments
    with pytest.raises((TypeError, ValueError, AttributeError)):
        getattr(_native, name)(*given_)


# --- mounts ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(*argv: str | Path) -> Iterator[None]:
    subprocess.run(["mount", *argv], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", argv[-1]], check=True)


def bind_mounted(source: Path, target: Path) -> contextlib.AbstractContextManager[None]:
    return mounted("--bind", source, target)


@contextlib.contextmanager
def tmpfs(options: str) -> Iterator[Path]:
    with (
        tempfile.TemporaryDirectory() as place,
        mounted("-t", "tmpfs", "-o", options, "none", place),
    ):
        yield Path(place)
