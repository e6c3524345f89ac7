# SPDX-License-Identifier: Apache-2.0
"""Trees for tests: random ones, built with plain system calls, and a comparer that shares no code
with the service.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

ACCESS_ACL = b"system.posix_acl_access"
DEFAULT_ACL = b"system.posix_acl_default"
CAPABILITY = b"security.capability"
NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")
"""As the kernel keeps it: version 2, effective, cap_net_raw."""

XFS_ACLS = frozenset({b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT"})
"""In these XFS, and no other file system, shows its POSIX ACLs once more."""

ID_MAX = (1 << 32) - 2
"""The highest uid and gid; the one above it means "leave it as it is"."""


# --- looking at trees -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Seen:
    """All of an entry that a copy must keep."""

    kind: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    rdev: int = 0
    target: bytes = b""
    digest: str = ""
    extents: tuple[tuple[int, int], ...] = ()
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    names: frozenset[bytes] = frozenset()


def snapshot(root: str | bytes, *, holes: bool = True) -> dict[bytes, Seen]:
    """Everything below (and at) ``root`` by path; the root is the empty path."""
    found: dict[bytes, Seen] = {}
    inodes: dict[tuple[int, int], set[bytes]] = {}
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _look(fd, b".", b"", found, inodes=inodes, holes=holes)
    finally:
        os.close(fd)
    by_name = {name: frozenset(names) for names in inodes.values() for name in names}
    return {
        path: replace(seen, names=by_name.get(path, seen.names)) for path, seen in found.items()
    }


def _look(
    dir_fd: int,
    name: bytes,
    path: bytes,
    found: dict[bytes, Seen],
    *,
    inodes: dict[tuple[int, int], set[bytes]],
    holes: bool,
) -> None:
    info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    seen = Seen(
        kind=stat.S_IFMT(info.st_mode),
        mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
        mtime_ns=info.st_mtime_ns,
        xattrs=_xattrs(dir_fd, name),
    )
    if seen.kind == stat.S_IFLNK:
        seen = replace(seen, target=os.readlink(name, dir_fd=dir_fd))
    elif seen.kind in (stat.S_IFCHR, stat.S_IFBLK):
        seen = replace(seen, rdev=info.st_rdev)
    elif seen.kind == stat.S_IFREG:
        seen = _with_content(seen, dir_fd, name, info.st_size, holes)
    found[path] = seen
    if seen.kind != stat.S_IFDIR:
        inodes.setdefault((info.st_dev, info.st_ino), set()).add(path)
        return
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        for child in sorted(os.fsencode(child) for child in os.listdir(fd)):
            below = path + b"/" + child if path else child
            _look(fd, child, below, found, inodes=inodes, holes=holes)
    finally:
        os.close(fd)


def _xattrs(dir_fd: int, name: bytes) -> tuple[tuple[bytes, bytes], ...]:
    path = b"/proc/self/fd/%d/%s" % (dir_fd, name)
    names = [os.fsencode(key) for key in os.listxattr(path, follow_symlinks=False)]
    return tuple(sorted((key, os.getxattr(path, key, follow_symlinks=False)) for key in names))


def _with_content(seen: Seen, dir_fd: int, name: bytes, size: int, holes: bool) -> Seen:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd)
    try:
        extents = tuple(_extents(fd, size))
        digest = hashlib.sha256()
        for start, end in extents:
            data = os.pread(fd, end - start, start)
            assert len(data) == end - start
            digest.update(b"%d:" % start + data)
            if not holes:
                data = data.strip(b"\0")
        whole = hashlib.sha256(os.pread(fd, size, 0)).hexdigest() if size < 1 << 26 else ""
    finally:
        os.close(fd)
    return replace(
        seen, size=size, digest=whole or digest.hexdigest(), extents=extents if holes else ()
    )


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:
            return
        position = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, min(position, size)


def differences(a: dict[bytes, Seen], b: dict[bytes, Seen]) -> list[str]:
    """One line per path that is not the same in both; empty if they are equal."""
    lines = []
    for path in sorted(a.keys() | b.keys()):
        if a.get(path) != b.get(path):
            lines.append(f"{path!r}: {a.get(path)} is not {b.get(path)}")
    return lines


def assert_same(a: str | bytes, b: str | bytes) -> None:
    found = differences(snapshot(a), snapshot(b))
    assert not found, "\n".join(found)


def without(seen: dict[bytes, Seen], names: frozenset[bytes]) -> dict[bytes, Seen]:
    """Leaving out these extended attributes."""
    return {
        path: replace(entry, xattrs=tuple(item for item in entry.xattrs if item[0] not in names))
        for path, entry in seen.items()
    }


def widened(seen: dict[bytes, Seen], block_bytes: int) -> dict[bytes, Seen]:
    """What it looks like on a file system with these larger blocks: a block that has any data is
    data."""
    return {
        path: replace(entry, extents=tuple(_widen(entry.extents, entry.size, block_bytes)))
        for path, entry in seen.items()
    }


def _widen(
    extents: tuple[tuple[int, int], ...], size: int, block_bytes: int
) -> Iterator[tuple[int, int]]:
    before: tuple[int, int] | None = None
    for start, end in extents:
        start -= start % block_bytes  # noqa: PLW2901
        end = min(-(-end // block_bytes) * block_bytes, size)  # noqa: PLW2901
        if before is not None and start <= before[1]:
            start = before[0]  # noqa: PLW2901
        elif before is not None:
            yield before
        before = start, end
    if before is not None:
        yield before


# --- random trees ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Node:
    """What to build. ``chunks`` are (block, bytes) written into a file; ``size`` is then set, or a
    hole of ``size`` is appended."""

    kind: str
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    children: dict[bytes, Node] = field(default_factory=dict)
    chunks: tuple[tuple[int, bytes], ...] = ()
    tail: int = 0
    target: bytes = b"x"
    link_to: int = 0
    rdev: int = os.makedev(1, 3)


def acl(*named: tuple[int, int], owner: int = 7, group: int = 5, other: int = 0) -> bytes:
    """A POSIX ACL as the kernel's xattr has it, with entries for named users."""
    none = 0xFFFFFFFF
    entries = [(0x01, owner, none)]
    entries += [(0x02, perm, uid) for uid, perm in sorted(named)]
    entries.append((0x04, group, none))
    if named:
        entries.append((0x10, 7, none))
    entries.append((0x20, other, none))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


_RESERVED = (b".", b"..", b"lost+found", b".snapshot", b".zfs")
_NAMES = st.one_of(
    st.sampled_from(
        [b"a", b"b", b"a-", b"a.", b"a0", b"ab", b"a\n", b"\xff\xfe", b"-rf", b" ", b"\\x41"]
    ),
    st.sampled_from(
        ["e\u0301".encode(), "\u00e9".encode(), b"n" * 255, b"...", b"*", b"lost+found2"]
    ),
    st.binary(min_size=1, max_size=6).map(lambda raw: raw.replace(b"/", b"-").replace(b"\0", b"_")),
).filter(lambda name: name not in _RESERVED and not name.startswith(b".nfs"))

_TIMES = st.one_of(
    # The first second that XFS and ext4 can hold has no fraction.
    st.integers((1 - (1 << 31)) * 10**9, (1 << 33) * 10**9),
    st.sampled_from([0, -1, 1, 999_999_999, -1_000_000_001]),
)
_IDS = st.sampled_from([0, 1, 1000, 65534, 4_000_000_000, ID_MAX])
_USER_XATTRS = st.dictionaries(
    st.sampled_from(
        [b"user.a", b"user.b\n", b"trusted.t", b"security.s", b"user.\xff" + b"n" * 249]
    ),
    st.binary(max_size=40),
    max_size=2,
)
_RDEVS = st.sampled_from([os.makedev(1, 3), os.makedev(0, 0), os.makedev(259, 70_000)])
_CHUNKS = st.lists(
    st.tuples(st.integers(0, 24), st.binary(min_size=1, max_size=30)), max_size=4
).map(tuple)
BLOCK = 2048


@st.composite
def _files(draw: st.DrawFn) -> Node:
    xattrs = draw(_USER_XATTRS)
    if draw(st.integers(0, 5)) == 0:
        xattrs[ACCESS_ACL] = acl((1234, 6), (77, draw(st.integers(0, 7))))
    if draw(st.integers(0, 7)) == 0:
        xattrs[CAPABILITY] = NET_RAW
    return Node(
        kind="file",
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(_IDS),
        gid=draw(_IDS),
        mtime_ns=draw(_TIMES),
        xattrs=xattrs,
        chunks=draw(_CHUNKS),
        tail=draw(st.sampled_from([0, 0, 1, 4096, 9999, 5 << 20])),
    )


@st.composite
def _others(draw: st.DrawFn) -> Node:
    return Node(
        kind=draw(st.sampled_from(["symlink", "symlink", "fifo", "socket", "char", "block"])),
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(_IDS),
        gid=draw(_IDS),
        mtime_ns=draw(_TIMES),
        target=draw(st.sampled_from([b"x", b"/etc/passwd", b"../..", b"a\n\xff", b"t" * 1000])),
        xattrs=draw(st.sampled_from([{}, {}, {b"trusted.s": b"v"}, {b"security.s": b""}])),
        rdev=draw(_RDEVS),
    )


_LINKS = st.builds(Node, kind=st.just("link"), link_to=st.integers(0, 5))


def _directories(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    @st.composite
    def build(draw: st.DrawFn) -> Node:
        xattrs = draw(_USER_XATTRS)
        if draw(st.integers(0, 5)) == 0:
            xattrs[DEFAULT_ACL] = acl((1234, 7), (5, 1))
        return Node(
            kind="dir",
            mode=draw(st.integers(0, 0o7777)),
            uid=draw(_IDS),
            gid=draw(_IDS),
            mtime_ns=draw(_TIMES),
            xattrs=xattrs,
            children=draw(st.dictionaries(_NAMES, children, max_size=6)),
        )

    return build()


_ENTRIES = st.recursive(
    st.one_of(_files(), _files(), _others(), _LINKS), _directories, max_leaves=14
)


def trees() -> st.SearchStrategy[Node]:
    """A root directory with anything in it; needs root to be built."""
    return _directories(_ENTRIES)


def owned(node: Node, owner: int) -> Node:
    """The nearest to it that the ordinary user ``owner`` could have made all by itself, and whose
    root it can open."""
    return replace(_owned(node, owner), mode=node.mode | 0o700)


def _owned(node: Node, owner: int) -> Node:
    return replace(
        node,
        kind={"char": "fifo", "block": "socket"}.get(node.kind, node.kind),
        uid=owner,
        gid=owner,
        xattrs={
            name: value
            for name, value in node.xattrs.items()
            if not name.startswith((b"trusted.", b"security."))
        },
        children={name: _owned(child, owner) for name, child in node.children.items()},
    )


def build(root: str, node: Node) -> None:
    """Make ``root`` (which must be an empty directory) look like ``node``."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _build_children(fd, b"", node, fd, [])
        _dress(b"/proc/self/fd/%d" % fd, node)
    finally:
        os.close(fd)


def _build_children(dir_fd: int, path: bytes, node: Node, root_fd: int, made: list[bytes]) -> None:
    for name, child in node.children.items():
        below = path + b"/" + name if path else name
        _build(dir_fd, name, below, child, root_fd=root_fd, made=made)


def _build(
    dir_fd: int, name: bytes, path: bytes, node: Node, *, root_fd: int, made: list[bytes]
) -> None:
    if node.kind == "link":
        if not made:
            node = Node(kind="file", uid=node.uid, gid=node.gid)
        else:
            with contextlib.suppress(OSError):
                first = made[node.link_to % len(made)]
                os.link(first, name, src_dir_fd=root_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
            return
    place = b"/proc/self/fd/%d/%s" % (dir_fd, name)
    if node.kind == "dir":
        os.mkdir(name, 0o700, dir_fd=dir_fd)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=dir_fd)
        try:
            _build_children(fd, path, node, root_fd, made)
        finally:
            os.close(fd)
    elif node.kind == "file":
        _build_file(dir_fd, name, node)
    elif node.kind == "symlink":
        os.symlink(node.target, name, dir_fd=dir_fd)
    elif node.kind == "socket":
        os.mknod(name, stat.S_IFSOCK | 0o600, dir_fd=dir_fd)
    else:
        kinds = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK}
        os.mknod(name, kinds[node.kind] | 0o600, node.rdev, dir_fd=dir_fd)
    if node.kind != "dir":
        made.append(path)
    _dress(place, node)


def _build_file(dir_fd: int, name: bytes, node: Node) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=dir_fd)
    try:
        size = 0
        for block, data in node.chunks:
            os.pwrite(fd, data, block * BLOCK)
            size = max(size, block * BLOCK + len(data))
        if node.tail:
            os.ftruncate(fd, size + node.tail)
    finally:
        os.close(fd)


def _dress(place: bytes, node: Node) -> None:
    os.chown(place, node.uid, node.gid, follow_symlinks=place.count(b"/") == 4)
    follow = place.count(b"/") == 4
    if node.kind != "symlink":
        os.chmod(place, node.mode)
    for name, value in node.xattrs.items():
        os.setxattr(place, name, value, follow_symlinks=follow)
    os.utime(place, ns=(node.mtime_ns, node.mtime_ns), follow_symlinks=follow)
