# SPDX-License-Identifier: Apache-2.0
"""A tree with everything in it, backed up and restored over NFS, and looked at on the servers."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from manila_backup.data.drivers.tree import TreeDriver
from manila_backup.data.mounts import MountManager
from manila_backup.types import Mount, MountedTree, Parallelism, RestoreMode
from tests.data.drivers.operations import REF, Watch, described
from tests.support.trees import (
    ACCESS_ACL,
    CAPABILITY,
    DEFAULT_ACL,
    ID_MAX,
    NET_RAW,
    XFS_ACLS,
    Node,
    Seen,
    acl,
    build,
    snapshot,
    without,
)

DAY_NS = 86_400 * 10**9
NOW_NS = 1_700_000_000_123_456_789

FIELDS = (
    *("kind", "mode", "uid", "gid", "mtime_ns", "size", "rdev", "target", "digest"),
    *("extents", "names"),
)
"""Of :class:`Seen`; extended attributes are compared one by one."""

TREE = Node(
    kind="dir",
    mode=0o2771,
    uid=1001,
    gid=1002,
    mtime_ns=NOW_NS,
    children={
        b"plain": Node(
            kind="file", mode=0o640, uid=1, gid=2, mtime_ns=NOW_NS + 1, chunks=((0, b"x"),)
        ),
        b"empty": Node(kind="file", mtime_ns=1),
        b"setuid": Node(
            kind="file", mode=0o6755, uid=1003, gid=1004, chunks=((0, b"#!/bin/true\n"),)
        ),
        b"unreadable": Node(
            kind="file", mode=0, uid=4_000_000_000, gid=ID_MAX, chunks=((0, b"x"),)
        ),
        b"sparse": Node(kind="file", chunks=((0, b"head"), (512, b"middle")), tail=3 << 20),
        b"old": Node(kind="file", mtime_ns=-5 * DAY_NS - 1, chunks=((0, b"x"),)),
        b"far": Node(kind="file", mtime_ns=(1 << 33) * 10**9, chunks=((0, b"x"),)),
        b"attributes": Node(
            kind="file",
            xattrs={b"user.colour": b"blue\0green", b"trusted.t": b"t", b"security.s": b"s"},
        ),
        b"capable": Node(kind="file", mode=0o755, xattrs={CAPABILITY: NET_RAW}),
        b"acl": Node(kind="file", mode=0o640, xattrs={ACCESS_ACL: acl((1234, 6), (77, 4))}),
        b"d": Node(
            kind="dir",
            mode=0o1770,
            mtime_ns=NOW_NS - DAY_NS,
            xattrs={DEFAULT_ACL: acl((1234, 7), (5, 1)), b"user.of a directory": b"1"},
            children={
                b"plain's link": Node(kind="link", link_to=0),
                b"closed": Node(kind="dir", mode=0, mtime_ns=5),
                b"below": Node(kind="file", chunks=((1, b"below"),)),
            },
        ),
        b"named": Node(
            kind="dir",
            mode=0o750,
            xattrs={ACCESS_ACL: acl((1234, 6))},
            children={b"f": Node(kind="file", chunks=((0, b"x"),))},
        ),
        b"new\nline \xff\xfe \\": Node(kind="file", chunks=((0, b"odd"),)),
        "e\u0301".encode(): Node(kind="file", chunks=((0, b"NFD"),)),
        "\u00e9".encode(): Node(kind="file", chunks=((0, b"NFC"),)),
        b"n" * 255: Node(kind="file", chunks=((0, b"long"),)),
        b"link": Node(kind="symlink", target=b"/etc/passwd", uid=7, gid=8, mtime_ns=9),
        b"fifo": Node(kind="fifo", mode=0o640, uid=5),
        b"socket": Node(kind="socket", mode=0o600),
        b"char": Node(kind="char", mode=0o600, rdev=os.makedev(1, 3)),
        b"block": Node(kind="block", mode=0o660, rdev=os.makedev(259, 70_000)),
    },
)


def _server(host: str, address: str, fs_type: str, name: str) -> tuple[Path, str]:
    """A directory of its own, as the server sees it and as clients name it."""
    path = Path(f"/export/{host}/{fs_type}/{name}")
    path.mkdir(mode=0o700)
    return path, f"{address}:/{fs_type}/{name}"


def _changes(before: dict[bytes, Seen], after: dict[bytes, Seen]) -> dict[str, list[str]]:
    """What of each path is not as it was."""
    found: dict[str, list[str]] = {}
    for path in sorted(before.keys() | after.keys()):
        one, other = before.get(path), after.get(path)
        name = os.fsdecode(path).encode("utf-8", "backslashreplace").decode()
        if one is None or other is None:
            found[name] = ["missing" if other is None else "extra"]
        elif one != other:
            fields = [field for field in FIELDS if getattr(one, field) != getattr(other, field)]
            mine, theirs = dict(one.xattrs), dict(other.xattrs)
            fields += sorted(
                os.fsdecode(key)
                for key in mine.keys() | theirs.keys()
                if mine.get(key) != theirs.get(key)
            )
            found[name] = fields
    return found


def round_trip(
    *, source: str, backup: str, target: str, fs_types: list[str], addresses: list[str], name: str
) -> dict[str, Any]:
    """Backed up from NFS version ``source`` into ``backup``, restored through ``target``.

    :param fs_types: of the source's, the backup share's and the target's file system.
    :param addresses: of the servers ``source`` and ``backup``; the target lies on the first.
    :returns: what is not as it was, and what was counted as lost by backup and restore.
    """
    shares = [
        _server("source", addresses[0], fs_types[0], f"{name}-source"),
        _server("backup", addresses[1], fs_types[1], f"{name}-backup"),
        _server("source", addresses[0], fs_types[2], f"{name}-target"),
    ]
    build(str(shares[0][0]), TREE)
    # What was there before a restore is not to be there after it, nor what it lets others inherit.
    os.setxattr(shares[2][0], os.fsdecode(DEFAULT_ACL), acl((1234, 7), (5, 7)))
    (shares[2][0] / "extra").mkdir()
    versions = [source, backup, target]
    manager = MountManager(f"/run/mounts-{name}")
    mounts = [
        Mount(proto="nfs", export=export, options=(f"vers={version}",))
        for (_, export), version in zip(shares, versions, strict=True)
    ]
    try:
        with ExitStack() as stack:
            tree = stack.enter_context(manager.mounted(mounts[0], "source", read_only=True))
            store = stack.enter_context(manager.mounted(mounts[1], "backup", read_only=False))
            result = _driver(store).backup(described(), tree, None, Watch().control)
        with ExitStack() as stack:
            store = stack.enter_context(manager.mounted(mounts[1], "backup", read_only=True))
            tree = stack.enter_context(manager.mounted(mounts[2], "target", read_only=False))
            found = _driver(store).restore(REF, tree, RestoreMode.EXACT, Watch().control)
        assert manager.leftovers() == []
        before, after = (without(snapshot(str(shares[n][0])), XFS_ACLS) for n in (0, 2))
        return {
            "changes": _changes(before, after),
            "lost in the backup": result.stored.counters.losses,
            "lost in the restore": found.counters.losses,
            "entries": len(before),
        }
    finally:
        for path, _ in shares:
            shutil.rmtree(path, ignore_errors=True)


def _driver(store: MountedTree) -> TreeDriver:
    return TreeDriver(store.path, mount_id=store.mount_id, parallelism=Parallelism())
