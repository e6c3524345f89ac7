# SPDX-License-Identifier: Apache-2.0
"""Run a program as an ordinary user although Python and the project may lie in root's home, which
others cannot pass; as a module, the words that a command begins with then, as a program:

    unshare --mount --propagation private -- python as_user.py UID PATH... -- PROGRAM ARGUMENT...

In the mount namespace of its own that ``unshare`` has made, each directory above a PATH that others
cannot pass is covered by an empty one with nothing but the PATHs in it. Then it becomes the user.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

NOBODY = 65534
_PROJECT = Path(__file__).parents[2]


def as_user(user: int, *paths: Path) -> list[str]:
    """The words before a command (a program by its whole path) that have it run as ``user`` in
    ``/``; it reaches Python, the project and ``paths``.
    """
    # The environment's program is a link to that of the base.
    needed = {_PROJECT, Path(sys.base_prefix), Path(sys.prefix), *paths}
    return [
        *("unshare", "--mount", "--propagation", "private", "--"),
        *(sys.executable, __file__, str(user), *map(str, needed), "--"),
    ]


def closed_above(path: Path) -> Path | None:
    """The topmost directory above ``path`` that others cannot pass."""
    for parent in reversed(path.parents):
        if not parent.stat().st_mode & 0o001:
            return parent
    return None


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def open_up(closed: Path, paths: list[Path]) -> None:
    """Cover ``closed``; the paths below it stay where they are."""
    aside = Path(tempfile.mkdtemp())
    mount("-t", "tmpfs", "-o", "mode=755", "none", aside)
    kept = []
    for number, path in enumerate(paths):
        (aside / str(number)).mkdir()
        mount("--rbind", path, aside / str(number))
        kept.append(aside / str(number))
    mount("-t", "tmpfs", "-o", "mode=755", "none", closed)
    for path, where in zip(paths, kept, strict=True):
        path.mkdir(parents=True)
        mount("--move", where, path)
    subprocess.run(["umount", str(aside)], check=True)
    aside.rmdir()


def outermost(paths: set[Path]) -> list[Path]:
    """Without those that lie within others."""
    return [path for path in sorted(paths) if not paths & set(path.parents)]


def main(arguments: list[str]) -> None:
    split = arguments.index("--")
    user = int(arguments[0])
    paths = outermost({Path(path).resolve() for path in arguments[1:split]})
    below: dict[Path, list[Path]] = {}
    for path in paths:
        closed = closed_above(path)
        if closed is not None:
            below.setdefault(closed, []).append(path)
    os.umask(0o022)
    for closed, those in below.items():
        open_up(closed, those)
    os.chdir("/")
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    program = arguments[split + 1 :]
    os.execv(program[0], program)  # noqa: S606 - that is what it is for


if __name__ == "__main__":
    main(sys.argv[1:])
