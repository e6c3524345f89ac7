# SPDX-License-Identifier: Apache-2.0
"""Trees to back up, and plain descriptions of trees to compare, independent of the engine."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

from manila_backup.types import MountedTree

DAY_NS = 86_400 * 10**9
HOLE_BYTES = 1 << 20
FILES = 8
"""Regular files that :func:`fill` makes, each name of a hard link counted."""
ODD_NAME = b"new\nline \xff"


def clone(tree: Path, copy: Path) -> None:
    """``tree`` once more, with all that ``cp -a`` keeps; ``copy`` may be an empty directory."""
    subprocess.run(["cp", "-a", "-T", str(tree), str(copy)], check=True)


def mount_id(path: Path) -> int:
    """The mount id that the kernel reports for a directory."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
            key, _, value = line.partition(":")
            if key == "mnt_id":
                return int(value)
    finally:
        os.close(fd)
    raise AssertionError("no mnt_id in fdinfo")


def mounted(path: Path, *, read_only: bool = False) -> MountedTree:
    """A directory as the mount code hands it to a driver."""
    return MountedTree(path=str(path), mount_id=mount_id(path), read_only=read_only)


def fill(root: Path) -> Path:
    """A tree with something of everything: types, odd names, links, holes, owners, times."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "a").mkdir()
    (root / "a" / "x.txt").write_bytes(b"content of x\n")
    (root / "a-b").write_bytes(b"sorts between a and a/x.txt")
    (root / "empty").write_bytes(b"")
    (root / "big").write_bytes(bytes(range(256)) * 600)
    with open(root / "sparse", "wb") as sparse:
        sparse.write(b"head")
        sparse.seek(HOLE_BYTES)
        sparse.write(b"tail")
    os.link(root / "a" / "x.txt", root / "zz-link")
    (root / "symlink").symlink_to("/etc/passwd")
    os.mkfifo(root / "fifo", 0o640)
    Path(os.fsdecode(os.fsencode(root) + b"/" + ODD_NAME)).write_bytes(b"odd name")
    deep = root / "deep" / "deeper"
    deep.mkdir(parents=True)
    (deep / "program").write_bytes(b"#!/bin/true\n")
    os.setxattr(root / "a-b", "user.colour", b"blue\0green")
    os.setxattr(root / "deep", "user.dir", b"1")
    if os.geteuid() == 0:
        _owners(root)
    (deep / "program").chmod(0o4755)
    (root / "a").chmod(0o2750)
    root.chmod(0o1777)
    _times(root)
    return root


def _owners(root: Path) -> None:
    os.chown(root / "big", 1001, 1002)
    os.chown(root / "symlink", 1003, 1003, follow_symlinks=False)
    os.chown(root / "deep", 1004, 1005)
    os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))


def _times(root: Path) -> None:
    paths = sorted(root.rglob("*"), key=lambda path: len(path.parts), reverse=True)
    for number, path in enumerate([*paths, root]):
        when = 1_600_000_000 * 10**9 + number * DAY_NS + 123_456_789
        os.utime(path, ns=(when, when), follow_symlinks=False)


def describe(root: Path, *, times: bool = True) -> dict[bytes, dict[str, Any]]:
    """Everything that must be equal in two equal trees: path relative to ``root`` -> facts."""
    top = os.fsencode(root)
    facts: dict[bytes, dict[str, Any]] = {}
    groups: dict[int, list[bytes]] = {}
    todo = [top]
    while todo:
        path = todo.pop()
        status = os.lstat(path)
        relative = path[len(top) :].lstrip(b"/")
        facts[relative] = _facts(path, status, times=times)
        if stat.S_ISDIR(status.st_mode):
            todo += [path + b"/" + os.fsencode(entry.name) for entry in os.scandir(path)]
        elif status.st_nlink > 1:
            groups.setdefault(status.st_ino, []).append(relative)
    for group in groups.values():
        for path in group:
            facts[path]["links"] = sorted(group)
    return facts


def _facts(path: bytes, status: os.stat_result, *, times: bool) -> dict[str, Any]:
    fact: dict[str, Any] = {
        "mode": status.st_mode,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "xattrs": {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
        },
    }
    if times:
        fact["mtime_ns"] = status.st_mtime_ns
    if stat.S_ISREG(status.st_mode):
        fact["content"] = Path(os.fsdecode(path)).read_bytes()
        fact["sparse"] = status.st_blocks * 512 < status.st_size
    elif stat.S_ISLNK(status.st_mode):
        fact["target"] = os.readlink(path)
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        fact["device"] = status.st_rdev
    return fact


def fingerprint(root: Path) -> dict[bytes, dict[str, Any]]:
    """``describe`` plus what any write at all would change: inode numbers and ctimes."""
    facts = describe(root)
    for relative, fact in facts.items():
        status = os.lstat(os.path.join(os.fsencode(root), relative))
        fact["inode"], fact["ctime_ns"] = status.st_ino, status.st_ctime_ns
    return facts
