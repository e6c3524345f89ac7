# SPDX-License-Identifier: Apache-2.0
"""Makes the frozen sample of the current format version: run once per version, as root.

``python -m tests.data.drivers.make_frozen DIRECTORY`` writes ``tree-vN.tar`` (a whole store with
one backup) and ``tree-vN.json`` (what a restore of it must give). Once released, a sample is never
made again: that is what it is for.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from manila_backup.data.catalog.manifest import VERSION
from manila_backup.data.drivers.tree import TreeDriver
from manila_backup.types import BackupRef
from tests.data.drivers.operations import back_up
from tests.data.drivers.trees import describe

FROZEN_REF = BackupRef(project_id="frozen-project", backup_id="frozen-backup", epoch=7)
HOLE_BYTES = 12_288
LONG_BYTES = 256


def build(root: Path) -> Path:
    """One entry of each kind of metadata the format knows, as small as can be."""
    root.mkdir()
    (root / "dir").mkdir()
    (root / "dir" / "file").write_bytes(b"frozen content\n")
    (root / "dir-sibling").write_bytes(b"between dir and dir/file")
    os.link(root / "dir" / "file", root / "hard link")
    (root / "empty").touch()
    (root / "symlink").symlink_to("dir/file")
    os.mkfifo(root / "fifo", 0o620)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "block", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    with open(root / "sparse", "wb") as sparse:
        sparse.seek(HOLE_BYTES)
        sparse.write(b"after the hole")
    odd = os.fsdecode(os.fsencode(root) + b"/odd\n\xff\xc3\xa4")
    Path(odd).write_bytes(b"odd name")
    os.setxattr(root / "dir", "user.on.directory", b"\0\xff")
    os.setxattr(root / "empty", "user.on.file", b"value")
    os.setxattr(root / "empty", "trusted.hidden", b"root's")
    os.setxattr(root / "dir", "system.posix_acl_default", _ACL)
    os.chown(root / "dir" / "file", 1001, 4_000_000_000)
    os.chown(root / "symlink", 1002, 1002, follow_symlinks=False)
    (root / "dir" / "file").chmod(0o6755)
    (root / "dir").chmod(0o2770)
    root.chmod(0o1770)
    paths = sorted(root.rglob("*"), key=lambda path: len(path.parts), reverse=True)
    for number, path in enumerate([*paths, root]):
        when = 1_500_000_000_123_456_789 + number * 10**9
        os.utime(path, ns=(when, when), follow_symlinks=False)
    os.utime(root / "empty", ns=(-1, -1_000_000_001))
    return root


# Version 2: user::rwx, user:1001:rwx, group::r-x, mask::rwx, other::---
_ACL = bytes.fromhex(
    "02000000" "01000700ffffffff" "02000700e9030000" "04000500ffffffff"
    "10000700ffffffff" "20000000ffffffff"
)  # fmt: skip


def expectation(facts: dict[bytes, dict[str, Any]]) -> dict[str, Any]:
    """``describe``'s answer as JSON; bytes become base64, long ones their SHA-256."""
    return {base64.b64encode(path).decode(): _plain(fact) for path, fact in sorted(facts.items())}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes) and len(value) > LONG_BYTES:
        return f"{len(value)} bytes, sha256 {hashlib.sha256(value).hexdigest()}"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def main(directory: Path) -> None:
    """Write both files; refuses to overwrite."""
    os.umask(0o022)
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        source = build(top / "source")
        (top / "store").mkdir()
        back_up(TreeDriver(str(top / "store")), source, FROZEN_REF)
        facts = json.dumps(expectation(describe(source)), indent=1)
        with open(directory / f"tree-v{VERSION}.json", "x", encoding="ascii") as expected:
            expected.write(facts + "\n")
        tar = directory / f"tree-v{VERSION}.tar"
        with tarfile.open(tar, "x", format=tarfile.PAX_FORMAT) as archive:
            archive.add(top / "store", arcname=".")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
