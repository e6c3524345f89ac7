# SPDX-License-Identifier: Apache-2.0
"""Fill a directory with a tree for trying out backups.

``real/`` holds copies of files of this machine, with their modes and times;
``odd/`` holds one of everything that file systems permit and programs forget.
What only root may make, or the file system does not support, is left out and
named in the output.  On one machine the same call makes the same tree, except
for the times of the directory itself and of ``real``.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import itertools
import os
import random
import shutil
import stat
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

DEFAULT_FILES = 4000
MAX_TOTAL = 56 << 20  # the odd entries take some more
MAX_ONE = 512 << 10
BLOCK = 4096
SEED = 20240229
# The likely smallest first: what one source lacks is taken from the next.
SOURCES = (
    b"/usr/include",
    b"/usr/lib/python3",
    b"/usr/lib/python3.*",
    b"/usr/local/lib/python3.*",
    b"/usr/share",
    b"/usr/lib",
    b"/etc",
)
CANNOT = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EILSEQ}
)
BASE_NS = 1_500_000_000_000_000_000
BEFORE_1970_NS = -123_456_789_987_654_321


@dataclass
class Budget:
    """What may still be copied; ``taken`` guards sources within each other."""

    files: int
    octets: int
    taken: set[bytes] = field(default_factory=set)


# --- copies of real files -------------------------------------------------------


def source_directories() -> list[bytes]:
    """The sources that exist here, patterns expanded, links left out."""
    found: list[bytes] = []
    for source in SOURCES:
        parent, name = os.path.split(source)
        prefix = name.removesuffix(b"*")
        try:
            names = sorted(os.listdir(parent))
        except OSError:
            continue
        for one in names:
            path = os.path.join(parent, one)
            wanted = one.startswith(prefix) if prefix != name else one == name
            if wanted and os.path.isdir(path) and not os.path.islink(path):
                found.append(path)
    return found


def entries_below(source: bytes) -> Iterator[bytes]:
    """Paths of all that is not a directory, in an order that does not vary."""
    for folder, folders, names in os.walk(source):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in sorted([*names, *links]):
            yield os.path.join(folder, name)


def copy_entry(path: bytes, real: bytes, budget: Budget) -> bool:
    """Copy a file or symbolic link below ``real``; True when a file was copied."""
    destination = os.path.join(real, path.lstrip(b"/"))
    info = os.lstat(path)
    regular = stat.S_ISREG(info.st_mode)
    if not (regular or stat.S_ISLNK(info.st_mode)) or path in budget.taken:
        return False
    if info.st_size > min(MAX_ONE, budget.octets):
        return False
    os.makedirs(os.path.dirname(destination), exist_ok=True)
    shutil.copy2(path, destination, follow_symlinks=False)
    budget.taken.add(path)
    budget.octets -= -(-info.st_size // BLOCK) * BLOCK if regular else 0
    return regular


def copy_source(source: bytes, real: bytes, wanted: int, budget: Budget) -> None:
    """Copy up to so many files of one source; what cannot be read is passed over."""
    for path in entries_below(source):
        if wanted <= 0 or budget.octets <= 0:
            return
        try:
            copied = copy_entry(path, real, budget)
        except OSError as error:
            if error.errno not in CANNOT | {errno.ENOENT, errno.ELOOP}:
                raise
            continue
        wanted -= copied
        budget.files -= copied


def copy_directory_times(real: bytes) -> None:
    """Give copied directories the mode and times of the originals, deepest first."""
    for folder, _, _ in os.walk(real, topdown=False):
        original = folder[len(real) :]
        if original:
            shutil.copystat(original, folder)
            os.chmod(folder, stat.S_IMODE(os.lstat(original).st_mode) | stat.S_IRWXU)


def make_real(root: bytes, files: int) -> None:
    """Fill ``real``, with about as many files from each of the sources."""
    real = os.path.join(root, b"real")
    os.mkdir(real)
    budget = Budget(files, MAX_TOTAL)
    sources = source_directories()
    for index, source in enumerate(sources):
        share = -(-budget.files // (len(sources) - index))
        copy_source(source, real, share, budget)
    for source in sources:  # if the later sources had little
        copy_source(source, real, budget.files, budget)
    copy_directory_times(real)


# --- odd entries ----------------------------------------------------------------


def write(path: bytes, data: bytes, mode: int = 0o644) -> None:
    """Write a small file with exactly this mode."""
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, mode)


def make_links(odd: bytes) -> None:
    """A group of three hard links over two directories, and a pair."""
    here, there = os.path.join(odd, b"links-a"), os.path.join(odd, b"links-b")
    os.mkdir(here)
    os.mkdir(there)
    write(os.path.join(here, b"one"), b"one inode, three names\n")
    os.link(os.path.join(here, b"one"), os.path.join(here, b"two"))
    os.link(os.path.join(here, b"one"), os.path.join(there, b"three"))
    write(os.path.join(there, b"left"), b"one inode, two names\n")
    os.link(os.path.join(there, b"left"), os.path.join(there, b"right"))


def make_symlinks(odd: bytes) -> None:
    """Symbolic links of every sort."""
    folder = os.path.join(odd, b"symlinks")
    os.mkdir(folder)
    targets = {
        b"relative": b"../links-a/one",
        b"absolute": b"/etc/hostname",
        b"dangling": b"no/such/entry",
        b"to-directory": b"../links-a",
        b"to-itself": b"to-itself",
        b"to-bytes": b"not utf-8 \xfe\n\\",
        b"long": b"/".join([b"x" * 99] * 40),
    }
    for name, target in targets.items():
        os.symlink(target, os.path.join(folder, name))


def make_sparse(odd: bytes) -> None:
    """Files with holes: between, before and after data, and nothing but a hole."""
    rng = random.Random(SEED)
    with open(os.path.join(odd, b"sparse"), "wb") as file:
        for offset in (0, 1 << 20, 5 << 20, 33 << 20):
            file.seek(offset)
            file.write(rng.randbytes(128 << 10))
        file.truncate(64 << 20)
    with open(os.path.join(odd, b"hole-only"), "wb") as file:
        file.truncate(16 << 20)


def make_names(odd: bytes) -> None:
    """Names that are hard to print, to sort or to pass to a program."""
    folder = os.path.join(odd, b"names")
    os.mkdir(folder)
    names = (
        b"with  spaces ",
        b"new\nline",
        b"-rf",
        b"--",
        b"back\\slash",
        b"colon: space",
        b"quote'\"`$(x)*?[a]",
        b"tab\tbell\x07delete\x7f",
        b"...",
        "caf\u00e9".encode(),  # composed
        "cafe\u0301".encode(),  # decomposed, looks the same
        "\u202eright to left \U0001f4be".encode(),
        b"n" * 255,
        "\u00fc".encode() * 127,
    )
    for name in names:
        write(os.path.join(folder, name), name)


def make_invalid_name(odd: bytes) -> None:
    """A file and a directory whose names are not UTF-8."""
    os.mkdir(os.path.join(odd, b"names", b"folder \xc3\x28"))
    write(os.path.join(odd, b"names", b"folder \xc3\x28", b"\xff\xfe"), b"not text\n")


def make_plain(odd: bytes) -> None:
    """Empty things, a larger file, a deep path and unusual permissions."""
    write(os.path.join(odd, b"empty"), b"")
    write(os.path.join(odd, b"random"), random.Random(SEED + 1).randbytes(3_000_001))
    write(os.path.join(odd, b"private"), b"for the owner only\n", 0o600)
    write(os.path.join(odd, b"read-only"), b"not to be written\n", 0o444)
    os.mkdir(os.path.join(odd, b"empty-dir"))
    os.makedirs(os.path.join(odd, *[b"deep-%03d-%s" % (i, b"d" * 20) for i in range(60)]))


def make_special_modes(odd: bytes) -> None:
    """Files and directories with setuid, setgid and sticky bits."""
    for name, bit in ((b"setuid", stat.S_ISUID), (b"setgid", stat.S_ISGID)):
        write(os.path.join(odd, name), b"#!/bin/true\n")
        os.chmod(os.path.join(odd, name), 0o755 | bit)  # noqa: S103
    for name, bit in ((b"sticky-dir", stat.S_ISVTX), (b"setgid-dir", stat.S_ISGID)):
        os.mkdir(os.path.join(odd, name))
        os.chmod(os.path.join(odd, name), 0o775 | bit)  # noqa: S103


def make_fifo(odd: bytes) -> None:
    """A named pipe."""
    os.mkfifo(os.path.join(odd, b"fifo"), 0o600)


def make_socket(odd: bytes) -> None:
    """A socket that nobody listens on; without a limit on the length of its path."""
    os.mknod(os.path.join(odd, b"socket"), stat.S_IFSOCK | 0o600)


def make_device(odd: bytes) -> None:
    """Device nodes; root only."""
    os.mknod(os.path.join(odd, b"char-device"), stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(os.path.join(odd, b"block-device"), stat.S_IFBLK | 0o600, os.makedev(7, 300))


def make_no_mode(odd: bytes) -> None:
    """A file that its owner may not read; only root could copy it."""
    if os.geteuid() != 0:
        raise PermissionError(errno.EPERM, "not root")
    write(os.path.join(odd, b"mode-zero"), b"only root reads this\n", 0)


def make_owners(odd: bytes) -> None:
    """Files, a directory and a link of owners that need not exist; root only."""
    if os.geteuid() != 0:
        raise PermissionError(errno.EPERM, "not root")
    folder = os.path.join(odd, b"owners")
    os.mkdir(folder)
    owners = itertools.product((1, 12345, 3_000_000_000), (1, 54321))
    for uid, gid in owners:
        path = os.path.join(folder, b"%d-%d" % (uid, gid))
        write(path, b"foreign\n")
        os.chown(path, uid, gid)
        # Only now, for the change of owner takes the bit away.
        os.chmod(path, 0o4750)  # noqa: S103
    os.symlink(b"12345-1", os.path.join(folder, b"link"))
    os.chown(os.path.join(folder, b"link"), 12345, 54321, follow_symlinks=False)
    os.chown(folder, 12345, 54321)


def make_xattrs(odd: bytes) -> None:
    """User attributes of a file and of a directory."""
    path, folder = os.path.join(odd, b"with-xattr"), os.path.join(odd, b"with-xattr-dir")
    write(path, b"look closer\n")
    os.mkdir(folder)
    os.setxattr(path, "user.text", b"value")
    os.setxattr(path, "user.empty", b"")
    os.setxattr(path, "user.binary", bytes(range(256)))
    os.setxattr(folder, "user.folder", b"value\n")


def make_trusted(odd: bytes) -> None:
    """A trusted attribute; root only."""
    path = os.path.join(odd, b"with-trusted")
    write(path, b"look as root\n")
    os.setxattr(path, "trusted.demo", b"\x00\x01secret")


def make_acl(odd: bytes) -> None:
    """An access list on a file and a default one on a directory."""
    undefined = 0xFFFFFFFF
    entries = ((1, 7, undefined), (2, 5, 12345), (4, 5, undefined), (16, 5, undefined))
    value = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry) for entry in (*entries, (32, 0, undefined))
    )
    path, folder = os.path.join(odd, b"with-acl"), os.path.join(odd, b"with-acl-dir")
    write(path, b"a user more\n")
    os.mkdir(folder)
    os.setxattr(path, "system.posix_acl_access", value)
    os.setxattr(folder, "system.posix_acl_default", value)


MAKERS: dict[str, Callable[[bytes], None]] = {
    "hard links": make_links,
    "symbolic links": make_symlinks,
    "sparse files": make_sparse,
    "odd names": make_names,
    "names that are not UTF-8": make_invalid_name,
    "plain odd files": make_plain,
    "setuid, setgid, sticky": make_special_modes,
    "fifo": make_fifo,
    "socket": make_socket,
    "device nodes": make_device,
    "mode 0 file": make_no_mode,
    "foreign owners": make_owners,
    "user attributes": make_xattrs,
    "trusted attribute": make_trusted,
    "access lists": make_acl,
}


def set_times(odd: bytes) -> None:
    """Give every entry its own time, down to the nanosecond, directories last."""
    rng = random.Random(SEED + 2)
    for folder, folders, names in os.walk(odd, topdown=False):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in sorted([*names, *links]):
            mtime = BASE_NS + rng.randrange(10**17)
            path = os.path.join(folder, name)
            os.utime(path, ns=(mtime, mtime), follow_symlinks=False)
        mtime = BASE_NS + rng.randrange(10**17)
        os.utime(folder, ns=(mtime, mtime))


def make_old(odd: bytes) -> None:
    """Times before 1970, without touching the time of the directory."""
    for name in (b"empty", b"empty-dir"):
        times = (BEFORE_1970_NS, BEFORE_1970_NS)
        os.utime(os.path.join(odd, name), ns=times)


def make_odd(root: bytes) -> list[str]:
    """Fill ``odd``; returns what was left out."""
    odd = os.path.join(root, b"odd")
    os.mkdir(odd)
    left_out: list[str] = []
    for what, make in MAKERS.items():
        try:
            make(odd)
        except OSError as error:
            if error.errno not in CANNOT:
                raise
            left_out.append(f"{what} ({error.strerror})")
    set_times(odd)
    with contextlib.suppress(OverflowError):
        make_old(odd)
    return left_out


# --- command line ---------------------------------------------------------------


def count(root: bytes) -> Counter[str]:
    """How many entries of each type there are, and how many bytes in files."""
    names = {
        stat.S_IFREG: "files",
        stat.S_IFDIR: "directories",
        stat.S_IFLNK: "symlinks",
        stat.S_IFIFO: "fifos",
        stat.S_IFSOCK: "sockets",
        stat.S_IFCHR: "devices",
        stat.S_IFBLK: "devices",
    }
    counts: Counter[str] = Counter()
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            info = os.lstat(os.path.join(folder, name))
            counts[names[stat.S_IFMT(info.st_mode)]] += 1
            if stat.S_ISREG(info.st_mode):
                counts["allocated KiB"] += info.st_blocks // 2
                counts["hard-linked files"] += info.st_nlink > 1
    return counts


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; SystemExit(2) for a wrong command line."""
    parser = argparse.ArgumentParser(prog="make_demo_tree.py", description="Make a demo tree.")
    parser.add_argument("dir", metavar="DIR", help="an existing directory, to be filled")
    parser.add_argument(
        "--files",
        metavar="N",
        type=int,
        default=DEFAULT_FILES,
        help="how many real files to copy at most (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    root = os.fsencode(args.dir)
    try:
        make_real(root, max(args.files, 0))
        left_out = make_odd(root)
        counts = count(root)
    except OSError as error:
        print(f"make_demo_tree.py: {str(error)!a}", file=sys.stderr)
        return 2
    for what in left_out:
        print(f"left out: {what}")
    print("made " + ", ".join(f"{number} {what}" for what, number in sorted(counts.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
