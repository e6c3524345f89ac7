# SPDX-License-Identifier: Apache-2.0
"""Trees for tests that are not random: one of each kind, and large ones that are the same for the
same seed and have what a dozen entries cannot have, such as hard links between directories far from
each other.
"""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

from tests.support.trees import ACCESS_ACL, DEFAULT_ACL, ID_MAX, Node, acl

_IDS = (0, 0, 1000, 1001, 65534, ID_MAX)
_ODD = (b"", b"", b"", b"-", b".", b" ", b"\n", b"\xff", b"e\xcc\x81", b"\xc3\xa9", b"\x1b[m")
_KINDS = {
    "file": 50,
    "dir": 14,
    "link": 18,
    "symlink": 10,
    "fifo": 3,
    "socket": 2,
    "char": 2,
    "block": 1,
}
_LARGE_BYTES = 5 << 20


def one_of_each(root: Path) -> None:
    """A file f, a directory d with a file, a symlink l, a fifo p, a socket s, a device c."""
    (root / "f").write_bytes(b"#!")
    (root / "d").mkdir()
    (root / "d" / "inner").touch()
    (root / "l").symlink_to("x")
    os.mkfifo(root / "p")
    os.mknod(root / "s", stat.S_IFSOCK | 0o600)
    os.mknod(root / "c", stat.S_IFCHR | 0o600, os.makedev(1, 3))


def forest(seed: int, entries: int) -> Node:
    """A root with so many entries below it, of all kinds, in directories of all sizes."""
    draw = random.Random(seed)
    root = _node(draw, "dir")
    directories = [root]
    kinds = draw.choices(list(_KINDS), list(_KINDS.values()), k=entries)
    for number, kind in enumerate(kinds):
        # Half of all is in the few directories that came first.
        among = directories[:3] if draw.random() < 0.5 else directories
        child = _node(draw, kind)
        draw.choice(among).children[draw.choice(_ODD) + b"%x" % number + draw.choice(_ODD)] = child
        if kind == "dir":
            directories.append(child)
    return root


def _node(draw: random.Random, kind: str) -> Node:
    if kind == "link":
        return Node(kind=kind, link_to=draw.randrange(1 << 16))
    return Node(
        kind=kind,
        mode=draw.choice([0o644, 0o755, 0o600, 0, draw.randrange(0o10000)]),
        uid=draw.choice(_IDS),
        gid=draw.choice(_IDS),
        mtime_ns=draw.randrange((1 - (1 << 31)) * 10**9, (1 << 33) * 10**9),
        xattrs=_xattrs(draw, kind),
        chunks=_chunks(draw) if kind == "file" else (),
        tail=draw.choice([0, 0, 0, 0, 1, 9999]) if kind == "file" else 0,
        target=draw.choice([b"x", b"../..", b"/etc/passwd", b"t" * draw.randrange(1, 1000)]),
    )


def _xattrs(draw: random.Random, kind: str) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    if kind in ("file", "dir") and draw.random() < 0.1:
        found[b"user.a"] = draw.randbytes(draw.randrange(300))
    if kind in ("file", "dir") and draw.random() < 0.05:
        found[ACCESS_ACL] = acl((draw.randrange(5000), draw.randrange(8)))
    if kind == "dir" and draw.random() < 0.1:
        found[DEFAULT_ACL] = acl((draw.randrange(5000), draw.randrange(8)))
    if draw.random() < 0.03:
        found[b"trusted.t"] = b"t"
    return found


def _chunks(draw: random.Random) -> tuple[tuple[int, bytes], ...]:
    if draw.random() < 0.005:
        return ((draw.randrange(9), draw.randbytes(draw.randrange(_LARGE_BYTES))),)
    if draw.random() < 0.1:
        return tuple((draw.randrange(99), draw.randbytes(30)) for _ in range(draw.randrange(9)))
    return ((0, draw.randbytes(draw.choice([0, 1, 100, 5000]))),)
