# SPDX-License-Identifier: Apache-2.0
"""Compare two directory trees, entry by entry, without the help of the service.

This program is a second opinion: it shares no code with the backup service, so
that a mistake there cannot hide itself here.  It only reads.  Each difference is
printed as one line, ``KIND path: detail``, followed by one closing line.

Exit status: 0 the trees are the same, 1 they differ, 2 something could not be
read or the command line was wrong (also when differences were found besides).

Not compared: atime, ctime, inode numbers, sizes and link counts of directories.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import enum
import errno
import hashlib
import heapq
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

READ_SIZE = 1 << 20
PATH_CHUNK = 3000  # well under PATH_MAX; longer paths are opened piece by piece
SHOWN_BYTES = 40

DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
NO_XATTR = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENODATA})
NO_SEEK_DATA = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})

Extent = tuple[int, int]
LinkKey = tuple[int, int]


class Kind(enum.StrEnum):
    """What a reported line is about; ERROR is not a difference but ends in exit 2."""

    CONTENT = "content"
    MODE = "mode"
    OWNER = "owner"
    TIME = "time"
    XATTR = "xattr"
    LINK_GROUP = "link-group"
    HOLE = "hole"
    EXTRA = "extra"
    MISSING = "missing"
    TYPE = "type"
    TARGET = "target"
    DEVICE = "device"
    ERROR = "error"


class EntryType(enum.StrEnum):
    """The types a directory entry can have."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    CHAR = "character device"
    BLOCK = "block device"


ENTRY_TYPES = {
    stat.S_IFREG: EntryType.FILE,
    stat.S_IFDIR: EntryType.DIRECTORY,
    stat.S_IFLNK: EntryType.SYMLINK,
    stat.S_IFIFO: EntryType.FIFO,
    stat.S_IFSOCK: EntryType.SOCKET,
    stat.S_IFCHR: EntryType.CHAR,
    stat.S_IFBLK: EntryType.BLOCK,
}
DEVICES = frozenset({EntryType.CHAR, EntryType.BLOCK})


@dataclass(frozen=True, slots=True)
class Observed:
    """All that is seen of one entry, except the bytes of a file.

    ``link`` is (st_dev, st_ino) of an entry that has other names, else None.
    ``xattrs`` and ``extents`` are sorted; ``extents`` are [start, end) of data.
    """

    type: EntryType
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    rdev: int
    size: int
    target: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]
    extents: tuple[Extent, ...]
    link: LinkKey | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One line of output; ``path`` is relative to the roots, empty for the roots."""

    kind: Kind
    path: bytes
    detail: str

    def line(self) -> str:
        """The line as printed: plain ASCII, without line breaks."""
        return f"{self.kind} {escape(self.path or b'.')}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Options:
    """``ignore`` holds names left out directly below the roots, nowhere else."""

    ignore_owner: bool = False
    ignore: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Tally:
    """What a whole comparison came to; ``compared`` counts entries in both trees."""

    compared: int
    differences: int
    errors: int

    @property
    def exit_code(self) -> int:
        """The exit status that this outcome stands for."""
        if self.errors:
            return 2
        return 1 if self.differences else 0

    def line(self) -> str:
        """The closing line."""
        text = f"compared {self.compared} entries, {self.differences} differences"
        return f"{text}, {self.errors} errors" if self.errors else text


Finding = tuple[Kind, str]
Emit = Callable[[Difference], None]
# Called with the path from the root, a descriptor of the parent and the name in it.
Observer = Callable[[bytes, int, bytes], Observed]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two trees, with the function that looks at its entries."""

    root_fd: int
    observe: Observer


# --- text -----------------------------------------------------------------------


def escape(raw: bytes) -> str:
    r"""Write bytes as printable ASCII that ``unescape`` turns back.

    Anything but printable ASCII becomes ``\xNN``, so that two names which merely
    look alike stay apart.  The space of ``": "`` is escaped too: in a line of
    output the first ``": "`` therefore always ends the path.
    """
    out: list[str] = []
    previous = 0
    for byte in raw:
        if byte == 0x5C:
            out.append("\\\\")
        elif byte == 0x0A:
            out.append("\\n")
        elif not 0x20 <= byte <= 0x7E or (byte == 0x20 and previous == 0x3A):
            out.append(f"\\x{byte:02x}")
        else:
            out.append(chr(byte))
        previous = byte
    return "".join(out)


def unescape(text: str) -> bytes:
    """Undo ``escape``; ValueError for text that it cannot have written."""
    out = bytearray()
    rest = iter(text)
    for char in rest:
        if char != "\\":
            out += char.encode("ascii")
            continue
        mark = next(rest, "")
        if mark == "x":
            out.append(int(next(rest, "") + next(rest, ""), 16))
        elif mark in ("\\", "n"):
            out += b"\\" if mark == "\\" else b"\n"
        else:
            raise ValueError(f"not an escape: \\{mark}")
    return bytes(out)


def shown(value: bytes) -> str:
    """A value in quotes; a long one is cut and gets a checksum to tell it by."""
    if len(value) <= SHOWN_BYTES:
        return quoted(value)
    digest = hashlib.sha256(value).hexdigest()[:16]
    return f"{quoted(value[:SHOWN_BYTES])}... ({len(value)} bytes, sha256 {digest}...)"


def quoted(value: bytes) -> str:
    """A value in quotes, in full."""
    return f'"{escape(value)}"'


def describe(error: OSError) -> str:
    """An error in words that cannot break the line."""
    name = errno.errorcode.get(error.errno or 0, "error")
    return f"{name}, {escape(os.fsencode(error.strerror or str(error)))}"


# --- looking at entries ---------------------------------------------------------


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """Close a descriptor at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)


def open_quietly(name: bytes, flags: int, dir_fd: int | None = None) -> int:
    """Open without touching atime where that is allowed (owner or privileged)."""
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
    return os.open(name, flags, dir_fd=dir_fd)


def path_chunks(path: bytes) -> Iterator[bytes]:
    """Cut a relative path into pieces that the kernel accepts one at a time."""
    piece = b""
    for part in path.split(b"/"):
        if piece and len(piece) + len(part) >= PATH_CHUNK:
            yield piece
            piece = part
        else:
            piece = join(piece, part)
    if piece:
        yield piece


def open_directory(root_fd: int, path: bytes) -> int:
    """Open a directory at any depth; needs at most two descriptors at a time."""
    fd = open_quietly(b".", DIR_FLAGS, root_fd)
    for piece in path_chunks(path):
        with closing(fd):
            deeper = open_quietly(piece, DIR_FLAGS | os.O_NOFOLLOW, fd)
        fd = deeper
    return fd


def open_file(name: bytes, dir_fd: int) -> int:
    """Open what was seen to be a regular file, and make sure that it still is one."""
    fd = open_quietly(name, FILE_FLAGS, dir_fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EAGAIN, "no longer a regular file")
    return fd


def join(path: bytes, name: bytes) -> bytes:
    """A path below the root; the root itself is the empty path."""
    return path + b"/" + name if path else name


def names_in(dir_fd: int) -> set[bytes]:
    """The names in a directory, as bytes."""
    return {os.fsencode(name) for name in os.listdir(dir_fd)}


def entry_type(info: os.stat_result) -> EntryType:
    """The type of an entry."""
    return ENTRY_TYPES[stat.S_IFMT(info.st_mode)]


def read_xattrs(dir_fd: int, name: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """All extended attributes of an entry itself, never of a link's target.

    The system calls know no directory descriptor, hence the way through /proc.
    """
    path = b"/proc/self/fd/%d/%s" % (dir_fd, name)
    found: list[tuple[bytes, bytes]] = []
    try:
        keys = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in NO_XATTR:
            return ()
        raise
    for key in keys:
        try:
            found.append((os.fsencode(key), os.getxattr(path, key, follow_symlinks=False)))
        except OSError as error:
            if error.errno not in NO_XATTR:
                raise
    return tuple(sorted(found))


def seek_extents(fd: int, size: int) -> Iterator[Extent]:
    """The data extents as the file system reports them, up to ``size``."""
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            if error.errno in NO_SEEK_DATA:
                yield position, size
                return
            raise
        if start >= size:
            return
        position = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, position


def merge_extents(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Join extents, sorted by start, that overlap or touch."""
    current: Extent | None = None
    for start, end in extents:
        if current is None:
            current = start, end
        elif start <= current[1]:
            current = current[0], max(current[1], end)
        else:
            yield current
            current = start, end
    if current is not None:
        yield current


def file_extents(name: bytes, dir_fd: int, size: int) -> tuple[Extent, ...]:
    """The data extents of a regular file; an empty one is not even opened."""
    if not size:
        return ()
    with closing(open_file(name, dir_fd)) as fd:
        return tuple(merge_extents(seek_extents(fd, size)))


def observe_entry(path: bytes, dir_fd: int, name: bytes) -> Observed:
    """Look at one entry.  Only directories and regular files are ever opened."""
    del path  # for observers that single out one entry
    info = os.lstat(name, dir_fd=dir_fd)
    kind = entry_type(info)
    is_file = kind is EntryType.FILE
    linked = kind is not EntryType.DIRECTORY and info.st_nlink > 1
    return Observed(
        type=kind,
        mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
        mtime_ns=info.st_mtime_ns,
        rdev=info.st_rdev if kind in DEVICES else 0,
        size=info.st_size if is_file else 0,
        target=os.readlink(name, dir_fd=dir_fd) if kind is EntryType.SYMLINK else b"",
        xattrs=read_xattrs(dir_fd, name),
        extents=file_extents(name, dir_fd, info.st_size) if is_file else (),
        link=(info.st_dev, info.st_ino) if linked else None,
    )


# --- comparing ------------------------------------------------------------------


def compare_observed(a: Observed, b: Observed, ignore_owner: bool) -> Iterator[Finding]:
    """The differences between two entries as far as ``Observed`` shows them.

    Entries of different types are not compared any further.
    """
    if a.type is not b.type:
        yield Kind.TYPE, f"{a.type} in A, {b.type} in B"
        return
    if a.mode != b.mode:
        yield Kind.MODE, f"{a.mode:04o} in A, {b.mode:04o} in B"
    if not ignore_owner and (a.uid, a.gid) != (b.uid, b.gid):
        yield Kind.OWNER, f"{a.uid}:{a.gid} in A, {b.uid}:{b.gid} in B"
    if a.mtime_ns != b.mtime_ns:
        yield Kind.TIME, f"{a.mtime_ns} ns in A, {b.mtime_ns} ns in B"
    if a.target != b.target:
        yield Kind.TARGET, f"{quoted(a.target)} in A, {quoted(b.target)} in B"
    if a.rdev != b.rdev:
        yield Kind.DEVICE, f"{device(a.rdev)} in A, {device(b.rdev)} in B"
    if a.size != b.size:
        yield Kind.CONTENT, f"size {a.size} in A, {b.size} in B"
    elif a.extents != b.extents:
        yield Kind.HOLE, compare_extents(a.extents, b.extents)
    yield from compare_xattrs(dict(a.xattrs), dict(b.xattrs))


def device(rdev: int) -> str:
    """A device number as people write it."""
    return f"{os.major(rdev)}:{os.minor(rdev)}"


def compare_extents(a: tuple[Extent, ...], b: tuple[Extent, ...]) -> str:
    """Say in one line where two differing lists of data extents part."""
    index = next((i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), None)
    where = min(len(a), len(b)) if index is None else index
    texts = ["none" if where >= len(x) else f"{x[where][0]}-{x[where][1]}" for x in (a, b)]
    return (
        f"{len(a)} data extents in A, {len(b)} in B; "
        f"number {where + 1} is {texts[0]} in A, {texts[1]} in B"
    )


def compare_xattrs(a: dict[bytes, bytes], b: dict[bytes, bytes]) -> Iterator[Finding]:
    """One finding per attribute that is not the same on both sides."""
    for key in sorted(a.keys() | b.keys()):
        if a.get(key) != b.get(key):
            texts = [shown(side[key]) if key in side else "absent" for side in (a, b)]
            yield Kind.XATTR, f"{escape(key)} is {texts[0]} in A, {texts[1]} in B"


def read_fully(fd: int, length: int, offset: int) -> bytes:
    """Read exactly so many bytes; OSError if the file has become shorter."""
    data = os.pread(fd, length, offset)
    while len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            raise OSError(errno.EAGAIN, "became shorter while it was read")
        data += more
    return data


def first_difference(fd_a: int, fd_b: int, extents: Iterable[Extent]) -> int | None:
    """The offset of the first differing byte within the extents, None if equal."""
    for start, end in extents:
        for offset in range(start, end, READ_SIZE):
            length = min(READ_SIZE, end - offset)
            a, b = read_fully(fd_a, length, offset), read_fully(fd_b, length, offset)
            if a != b:
                return offset + next(i for i in range(length) if a[i] != b[i])
    return None


def link_leaders(links: dict[bytes, LinkKey]) -> dict[bytes, bytes]:
    """For each path that shares its inode with an earlier one, the earliest such path.

    Two trees have the same groups exactly when these mappings are equal.
    """
    groups: dict[LinkKey, list[bytes]] = {}
    for path, key in links.items():
        groups.setdefault(key, []).append(path)
    leaders: dict[bytes, bytes] = {}
    for group in groups.values():
        first, *others = sorted(group)
        leaders.update(dict.fromkeys(others, first))
    return leaders


def walk(root_fd: int, top: bytes) -> Iterator[tuple[bytes, EntryType]]:
    """All entries below a directory, without the directory itself."""
    stack = [top]
    while stack:
        directory = stack.pop()
        with closing(open_directory(root_fd, directory)) as fd:
            for name in sorted(names_in(fd)):
                path, kind = join(directory, name), entry_type(os.lstat(name, dir_fd=fd))
                yield path, kind
                if kind is EntryType.DIRECTORY:
                    stack.append(path)


class Comparer:
    """One comparison of two trees that stand still meanwhile.

    Depth, length of paths and number of entries are not limited by descriptors
    or recursion; what is remembered are pending directories and hard links.
    """

    def __init__(self, a: Side, b: Side, options: Options, emit: Emit) -> None:
        self._a = a
        self._b = b
        self._options = options
        self._emit = emit
        self._compared = 0
        self._counts = {True: 0, False: 0}  # by "is an error"
        self._links: tuple[dict[bytes, LinkKey], dict[bytes, LinkKey]] = ({}, {})
        self._read: dict[tuple[LinkKey, LinkKey], int | None] = {}

    def run(self) -> Tally:
        """Compare everything, the roots included."""
        stack: list[bytes] = []
        if self._entry(b"", self._a.root_fd, self._b.root_fd, b"."):
            stack.append(b"")
        while stack:
            path = stack.pop()
            try:
                stack.extend(reversed(self._directory(path)))
            except OSError as error:
                self._report(Kind.ERROR, path, describe(error))
        self._compare_links()
        return Tally(self._compared, self._counts[False], self._counts[True])

    def _report(self, kind: Kind, path: bytes, detail: str) -> None:
        self._counts[kind is Kind.ERROR] += 1
        self._emit(Difference(kind, path, detail))

    def _directory(self, path: bytes) -> list[bytes]:
        """Compare what is in a directory; returns the directories to go on with."""
        deeper: list[bytes] = []
        with (
            closing(open_directory(self._a.root_fd, path)) as fd_a,
            closing(open_directory(self._b.root_fd, path)) as fd_b,
        ):
            ignored = self._options.ignore if not path else frozenset()
            names_a, names_b = names_in(fd_a) - ignored, names_in(fd_b) - ignored
            for name in sorted(names_a | names_b):
                child = join(path, name)
                if name not in names_b:
                    self._one_sided(Kind.MISSING, self._a, child, fd_a, name)
                elif name not in names_a:
                    self._one_sided(Kind.EXTRA, self._b, child, fd_b, name)
                elif self._entry(child, fd_a, fd_b, name):
                    deeper.append(child)
        return deeper

    def _one_sided(self, kind: Kind, side: Side, path: bytes, fd: int, name: bytes) -> None:
        """Report an entry that one side lacks, with all that is below it."""
        try:
            what = entry_type(os.lstat(name, dir_fd=fd))
            self._report(kind, path, what)
            if what is EntryType.DIRECTORY:
                self._below(kind, side, path)
        except OSError as error:
            self._report(Kind.ERROR, path, describe(error))

    def _below(self, kind: Kind, side: Side, path: bytes) -> None:
        for below, what in walk(side.root_fd, path):
            self._report(kind, below, what)

    def _entry(self, path: bytes, fd_a: int, fd_b: int, name: bytes) -> bool:
        """Compare one entry; True when it is a directory on both sides."""
        self._compared += 1
        try:
            a = self._a.observe(path, fd_a, name)
            b = self._b.observe(path, fd_b, name)
            for kind, detail in compare_observed(a, b, self._options.ignore_owner):
                self._report(kind, path, detail)
            if a.type is not b.type:
                self._other_type(path, a, b)
                return False
            self._remember_links(path, a, b)
            if a.type is EntryType.FILE and a.size == b.size:
                self._content(path, (fd_a, a), (fd_b, b), name)
        except OSError as error:
            self._report(Kind.ERROR, path, describe(error))
            return False
        return a.type is EntryType.DIRECTORY

    def _other_type(self, path: bytes, a: Observed, b: Observed) -> None:
        if a.type is EntryType.DIRECTORY:
            self._below(Kind.MISSING, self._a, path)
        if b.type is EntryType.DIRECTORY:
            self._below(Kind.EXTRA, self._b, path)

    def _remember_links(self, path: bytes, a: Observed, b: Observed) -> None:
        for links, entry in zip(self._links, (a, b), strict=True):
            if entry.link is not None:
                links[path] = entry.link

    def _content(
        self, path: bytes, a: tuple[int, Observed], b: tuple[int, Observed], name: bytes
    ) -> None:
        """Compare bytes; a pair of inodes met before is not read a second time.

        Where both sides report a hole nothing is read; where only one does, it is
        read like data and has to give zeros.
        """
        links = (a[1].link, b[1].link)
        key = (links[0], links[1]) if links[0] and links[1] else None
        if key is not None and key in self._read:
            offset = self._read[key]
        else:
            extents = merge_extents(heapq.merge(a[1].extents, b[1].extents))
            with closing(open_file(name, a[0])) as fd_a, closing(open_file(name, b[0])) as fd_b:
                offset = first_difference(fd_a, fd_b, extents)
        if key is not None:
            self._read[key] = offset
        if offset is not None:
            self._report(Kind.CONTENT, path, f"first different byte at offset {offset}")

    def _compare_links(self) -> None:
        """Compare the groups of hard links, formed of paths that both trees have."""
        a, b = (link_leaders(links) for links in self._links)
        for path in sorted(a.keys() | b.keys()):
            if a.get(path) != b.get(path):
                texts = [quoted(g[path]) if path in g else "no earlier path" for g in (a, b)]
                self._report(
                    Kind.LINK_GROUP, path, f"linked to {texts[0]} in A, to {texts[1]} in B"
                )


def compare_trees(
    a: bytes,
    b: bytes,
    options: Options,
    emit: Emit,
    observers: tuple[Observer, Observer] = (observe_entry, observe_entry),
) -> Tally:
    """Compare the trees at two paths; OSError when a root cannot be opened.

    Symbolic links are followed for the two roots only.
    """
    with (
        closing(open_quietly(a, DIR_FLAGS)) as fd_a,
        closing(open_quietly(b, DIR_FLAGS)) as fd_b,
    ):
        sides = Side(fd_a, observers[0]), Side(fd_b, observers[1])
        return Comparer(*sides, options, emit).run()


# --- self-test ------------------------------------------------------------------

BASE_NS = 1_234_567_890_123_456_789
UNSUPPORTED = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
SPARSE_SIZE = 1 << 20
Change = Callable[[Observed], Observed]


def unchanged(entry: Observed) -> Observed:
    """The injection that injects nothing."""
    return entry


@dataclass(frozen=True)
class Damage:
    """One way to spoil the copy.

    ``apply`` gets both trees and changes nothing else than the one thing.  Where
    the machine does not permit that, ``inject`` changes what is observed at
    ``path`` in the original and in the copy.
    """

    kind: Kind
    path: str
    apply: Callable[[str, str], None]
    inject: tuple[Change, Change] | None = None


@contextlib.contextmanager
def keeping_times(*paths: str) -> Iterator[None]:
    """Set the times of entries back to what they were before the block."""
    before = [(path, os.lstat(path)) for path in paths]
    try:
        yield
    finally:
        for path, info in before:
            times = (info.st_atime_ns, info.st_mtime_ns)
            os.utime(path, ns=times, follow_symlinks=False)


def write(path: str, data: bytes, mode: int = 0o640) -> None:
    """Write a small file with exactly this mode."""
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, mode)


def build(root: str) -> None:
    """Make the tree that the self-test starts from."""
    os.makedirs(os.path.join(root, "dir"))
    write(os.path.join(root, "plain"), b"plain content\n" * 100)
    write(os.path.join(root, "dir", "linked-1"), b"linked\n")
    os.link(os.path.join(root, "dir", "linked-1"), os.path.join(root, "linked-2"))
    os.symlink("plain", os.path.join(root, "link"))
    os.mkfifo(os.path.join(root, "pipe"), 0o600)
    with open(os.path.join(root, "sparse"), "wb") as file:
        file.seek(SPARSE_SIZE // 4)
        file.write(b"\x01" * 65536)
        file.truncate(SPARSE_SIZE)
    with contextlib.suppress(OSError):
        os.setxattr(os.path.join(root, "plain"), "user.note", b"old")
    with contextlib.suppress(OSError):  # some file systems want UTF-8
        write(os.path.join(root, os.fsdecode(b"odd\n\xff: \\")), b"")
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            set_time(os.path.join(folder, name), BASE_NS)
        set_time(folder, BASE_NS)


def set_time(path: str, mtime_ns: int) -> None:
    """Set the time of an entry itself, not of what a link points to."""
    os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)


def harm_content(_: str, copy: str) -> None:
    """Change one byte, neither size nor time."""
    path = os.path.join(copy, "plain")
    with keeping_times(path), open(path, "r+b") as file:
        file.seek(700)
        file.write(b"X")


def harm_mode(mode: int) -> Callable[[str, str], None]:
    """Change permission bits."""
    return lambda _, copy: os.chmod(os.path.join(copy, "plain"), mode)


def harm_owner(uid: int, gid: int) -> Callable[[str, str], None]:
    """Move an entry to another uid or gid; privileged."""

    def apply(_: str, copy: str) -> None:
        if os.geteuid() != 0:
            raise PermissionError(errno.EPERM, "not root")
        info = os.lstat(os.path.join(copy, "plain"))
        owner = (info.st_uid + uid, info.st_gid + gid)
        os.chown(os.path.join(copy, "plain"), *owner, follow_symlinks=False)

    return apply


def harm_time(name: str) -> Callable[[str, str], None]:
    """Set the time of an entry one nanosecond off."""

    def apply(_: str, copy: str) -> None:
        path = os.path.join(copy, name)
        set_time(path, BASE_NS + 1)
        if os.lstat(path).st_mtime_ns != BASE_NS + 1:
            raise OSError(errno.ENOTSUP, "times are coarser than a nanosecond")

    return apply


def harm_xattr(key: str, value: bytes) -> Callable[[str, str], None]:
    """Change or add an extended attribute."""
    return lambda _, copy: os.setxattr(os.path.join(copy, "plain"), key, value)


def drop_xattr(_: str, copy: str) -> None:
    """Remove an extended attribute."""
    os.removexattr(os.path.join(copy, "plain"), "user.note")


def harm_links(_: str, copy: str) -> None:
    """Replace a hard link by a file of its own that is otherwise the same."""
    path, other = os.path.join(copy, "linked-2"), os.path.join(copy, "dir", "linked-1")
    with keeping_times(copy):
        os.unlink(path)
        shutil.copy2(other, path)
        shutil.copystat(other, path)


def harm_hole(_: str, copy: str) -> None:
    """Write the same bytes again, this time without holes."""
    path = os.path.join(copy, "sparse")
    with open(path, "rb") as file:
        data = file.read()
        if list(seek_extents(file.fileno(), SPARSE_SIZE)) == [(0, SPARSE_SIZE)]:
            raise OSError(errno.ENOTSUP, "no holes are reported here")
    with keeping_times(path), open(path, "r+b") as file:
        file.write(data)


def harm_extra(_: str, copy: str) -> None:
    """Add an entry."""
    with keeping_times(os.path.join(copy, "dir")):
        write(os.path.join(copy, "dir", "new"), b"")


def harm_missing(_: str, copy: str) -> None:
    """Remove an entry."""
    with keeping_times(copy):
        os.unlink(os.path.join(copy, "plain"))


def harm_type(_: str, copy: str) -> None:
    """Put a directory in the place of a file."""
    with keeping_times(copy):
        os.unlink(os.path.join(copy, "plain"))
        os.mkdir(os.path.join(copy, "plain"))


def harm_target(_: str, copy: str) -> None:
    """Point a symbolic link elsewhere."""
    path = os.path.join(copy, "link")
    with keeping_times(copy):
        os.unlink(path)
        os.symlink("plaim", path)
    set_time(path, BASE_NS)


def harm_device(original: str, copy: str) -> None:
    """Make a device node in both trees, with different numbers; privileged."""
    for root, minor in ((original, 3), (copy, 5)):
        path = os.path.join(root, "node")
        with keeping_times(root):
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, minor))
        set_time(path, BASE_NS)


def injecting(change: Change) -> tuple[Change, Change]:
    """Change only what is observed in the copy."""
    return unchanged, change


def as_device(minor: int) -> Change:
    """Let an entry be taken for a device node."""
    rdev = os.makedev(1, minor)
    return lambda entry: dataclasses.replace(entry, type=EntryType.CHAR, rdev=rdev)


def with_xattr(entry: Observed) -> Observed:
    """Let an entry have one more attribute."""
    return dataclasses.replace(entry, xattrs=(*entry.xattrs, (b"user.zzz", b"injected")))


LATER = injecting(lambda entry: dataclasses.replace(entry, mtime_ns=entry.mtime_ns + 1))
OTHER_UID = injecting(lambda entry: dataclasses.replace(entry, uid=entry.uid + 1))
OTHER_GID = injecting(lambda entry: dataclasses.replace(entry, gid=entry.gid + 1))
LESS_DATA = injecting(lambda entry: dataclasses.replace(entry, extents=((0, 4096),)))
DAMAGES = (
    Damage(Kind.CONTENT, "plain", harm_content),
    Damage(Kind.MODE, "plain", harm_mode(0o600)),
    Damage(Kind.MODE, "plain", harm_mode(0o640 | stat.S_ISUID)),
    Damage(Kind.OWNER, "plain", harm_owner(1, 0), OTHER_UID),
    Damage(Kind.OWNER, "plain", harm_owner(0, 1), OTHER_GID),
    Damage(Kind.TIME, "plain", harm_time("plain"), LATER),
    Damage(Kind.TIME, "dir", harm_time("dir"), LATER),
    Damage(Kind.TIME, "link", harm_time("link"), LATER),
    Damage(Kind.TIME, "", harm_time(""), LATER),
    Damage(Kind.XATTR, "plain", harm_xattr("user.note", b"new"), injecting(with_xattr)),
    Damage(Kind.XATTR, "plain", harm_xattr("user.more", b""), injecting(with_xattr)),
    Damage(Kind.XATTR, "plain", drop_xattr, injecting(with_xattr)),
    Damage(Kind.LINK_GROUP, "linked-2", harm_links),
    Damage(Kind.HOLE, "sparse", harm_hole, LESS_DATA),
    Damage(Kind.EXTRA, "dir/new", harm_extra),
    Damage(Kind.MISSING, "plain", harm_missing),
    Damage(Kind.TYPE, "plain", harm_type),
    Damage(Kind.TARGET, "link", harm_target),
    Damage(Kind.DEVICE, "pipe", harm_device, (as_device(3), as_device(5))),
)


def changed_observer(path: bytes, change: Change) -> Observer:
    """An observer that sees one entry otherwise than it is."""

    def observe(where: bytes, dir_fd: int, name: bytes) -> Observed:
        entry = observe_entry(where, dir_fd, name)
        return change(entry) if where == path else entry

    return observe


def kinds_found(
    original: str, copy: str, path: str = "", changes: tuple[Change, Change] | None = None
) -> set[Kind]:
    """The kinds of difference that a comparison reports."""
    found: list[Difference] = []
    first, second = changes or (unchanged, unchanged)
    observers = (
        changed_observer(os.fsencode(path), first),
        changed_observer(os.fsencode(path), second),
    )
    roots = os.fsencode(original), os.fsencode(copy)
    compare_trees(*roots, Options(), found.append, observers)
    return {difference.kind for difference in found}


def inability(kind: Kind, error: OSError) -> str:
    """Why real damage of a kind is not possible here."""
    if error.errno == errno.EPERM and os.geteuid() != 0 and kind in (Kind.OWNER, Kind.DEVICE):
        return f"{kind}: cannot be tested without root; an injected observation is used"
    return (
        f"{kind}: cannot be tested in this directory ({describe(error)}); an injected "
        "observation is used (see --self-test-dir)"
    )


def detects(damage: Damage, parent: str, notes: set[str]) -> bool:
    """Do one damage to fresh trees: is this kind reported, and no other?"""
    with tempfile.TemporaryDirectory(prefix="compare-trees-", dir=parent) as folder:
        original, copy = os.path.join(folder, "a"), os.path.join(folder, "b")
        build(original)
        build(copy)
        if kinds_found(original, copy):
            return False
        try:
            damage.apply(original, copy)
        except OSError as error:
            if damage.inject is None or error.errno not in UNSUPPORTED | {errno.ENODATA}:
                raise
            notes.add(inability(damage.kind, error))
            return detects_injected(damage, folder)
        return kinds_found(original, copy) == {damage.kind}


def detects_injected(damage: Damage, folder: str) -> bool:
    """The same with trees that are equal and observations that are not."""
    original, copy = os.path.join(folder, "c"), os.path.join(folder, "d")
    build(original)
    build(copy)
    return kinds_found(original, copy, damage.path, damage.inject) == {damage.kind}


def equal_trees_pass(parent: str) -> bool:
    """Are two trees that were made alike found to be alike?"""
    with tempfile.TemporaryDirectory(prefix="compare-trees-", dir=parent) as folder:
        original, copy = os.path.join(folder, "a"), os.path.join(folder, "b")
        build(original)
        build(copy)
        return not kinds_found(original, copy)


def self_test(parent: str) -> int:
    """Show that the comparison would find each kind of damage; an exit status."""
    good = equal_trees_pass(parent)
    print(f"equal trees compare equal: {'yes' if good else 'NO'}")
    for kind in [kind for kind in Kind if kind is not Kind.ERROR]:
        notes: set[str] = set()
        results = [detects(damage, parent, notes) for damage in DAMAGES if damage.kind is kind]
        for note in sorted(notes):
            print(note)
        seen = bool(results) and all(results)
        print(f"detects {kind}: {'yes' if seen else 'NO'}")
        good = good and seen
    return 0 if good else 1


# --- command line ---------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="compare_trees.py",
        description="Compare two directory trees with all their metadata.",
        epilog="Exit status: 0 the same, 1 different, 2 usage or reading error.",
    )
    parser.add_argument("a", metavar="A", nargs="?", help="the original tree")
    parser.add_argument("b", metavar="B", nargs="?", help="the tree to be checked")
    parser.add_argument("--ignore-owner", action="store_true", help="do not compare uid and gid")
    parser.add_argument(
        "--ignore",
        metavar="NAME",
        action="append",
        default=[],
        help="leave out this name directly below A and B, such as lost+found; repeatable",
    )
    parser.add_argument("--self-test", action="store_true", help="check that damage is detected")
    parser.add_argument(
        "--self-test-dir",
        metavar="DIR",
        default=tempfile.gettempdir(),
        help="where the self-test makes its trees (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; SystemExit(2) for a wrong command line."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.self_test == (args.a is not None) or (args.a is None) != (args.b is None):
        parser.error("give either A and B or --self-test")
    try:
        if args.self_test:
            return self_test(args.self_test_dir)
        options = Options(args.ignore_owner, frozenset(os.fsencode(n) for n in args.ignore))
        roots = os.fsencode(args.a), os.fsencode(args.b)
        tally = compare_trees(*roots, options, lambda found: print(found.line()))
    except OSError as error:
        where = "" if error.filename is None else f"{escape(os.fsencode(error.filename))}: "
        print(f"compare_trees.py: {where}{describe(error)}", file=sys.stderr)
        return 2
    print(tally.line())
    return tally.exit_code


if __name__ == "__main__":
    sys.exit(main())
