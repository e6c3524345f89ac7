# SPDX-License-Identifier: Apache-2.0
"""Trees for the shares of acceptance tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.acceptance.programs import TOOLS, run

_TIME_NS = 1_600_000_000_123_456_789


def fill(root: Path) -> Path:
    """A small tree with one of each that any user may make; ``root`` is made."""
    (root / "sub" / "deep er").mkdir(parents=True)
    (root / "file").write_bytes(b"content\n")
    (root / "sub" / "other").write_bytes(bytes(range(256)) * 1000)
    (root / "linked").hardlink_to(root / "sub" / "other")
    (root / "symlink").symlink_to("../outside")
    (root / "line\nbreak").write_bytes(b"")
    with open(os.fsencode(root) + b"/latin-\xe9", "wb") as stream:
        stream.write(b"\xe9")
    os.mkfifo(root / "fifo")
    with (root / "sparse").open("wb") as stream:
        stream.truncate(8 << 20)
        stream.seek(4 << 20)
        stream.write(b"island")
    (root / "sub" / "deep er").chmod(0o2750)
    for path in (root / "file", root / "sub" / "other", root / "sub", root):
        os.utime(path, ns=(_TIME_NS, _TIME_NS + len(path.name)))
    return root


def fill_with_many(root: Path, files: int) -> Path:
    """``fill`` and so many small files that copying them takes a while."""
    fill(root)
    for number in range(files):
        directory = root / f"many-{number // 500}"
        if number % 500 == 0:
            directory.mkdir()
        (directory / f"file-{number}").write_bytes(b"%d " % number * 100)
    return root


def fill_as_demo(root: Path, files: int) -> Path:
    """What ``tools/make_demo_tree.py`` makes."""
    root.mkdir()
    ended = run([sys.executable, TOOLS / "make_demo_tree.py", "--files", str(files), root])
    assert ended.status == 0, ended.err
    return root


def copy(original: Path, tree: str) -> None:
    """Lay an exact copy of a tree over a share's."""
    subprocess.run(["cp", "-a", f"{original}/.", tree], check=True)


def damage(tree: str) -> None:
    """Change, remove and add what ``fill`` has made."""
    top = Path(tree)
    (top / "file").write_bytes(b"something else")
    shutil.rmtree(top / "sub")
    (top / "symlink").unlink()
    (top / "symlink").write_bytes(b"a file now")
    (top / "extra").mkdir()
    (top / "extra" / "more").write_bytes(b"x")
    top.chmod(0o700)


def flip_a_byte(path: Path) -> None:
    """Bit rot: one bit of the content, while size and times stay."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    with path.open("r+b") as stream:
        stream.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
