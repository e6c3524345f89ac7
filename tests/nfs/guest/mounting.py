# SPDX-License-Identifier: Apache-2.0
"""What the kernel makes of a mount that the mount manager asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from manila_backup.data.mountinfo import mounted_at, mounted_below
from manila_backup.data.mounts import MountManager
from manila_backup.types import Mount

TOP = Path("/export/source/ext4")


def look(*, export: str, options: list[str], read_only: bool) -> dict[str, Any]:
    """``export`` without the path of the file system, in which a directory of its name and a file
    are made."""
    _, _, path = export.rpartition(":")
    directory = TOP / Path(path).relative_to("/ext4")
    directory.mkdir(exist_ok=True)
    (directory / "file").write_text("content")
    manager = MountManager("/run/mounts-look")
    mount = Mount(proto="nfs", export=export, options=tuple(options))
    with manager.mounted(mount, "one", read_only=read_only) as tree:
        entry = mounted_at(tree.path)
        assert entry is not None
        with manager.mounted(mount, "one", read_only=read_only) as again:
            assert again == tree
            mounts = len(mounted_below("/run/mounts-look"))
        found = {
            "content": Path(tree.path, "file").read_text(),
            "source": entry.source,
            "own": sorted(entry.options),
            "of the file system": _options(tree.path),
            "mounts": mounts,
        }
    assert manager.leftovers() == []
    return found


def _options(point: str) -> list[str]:
    for line in Path("/proc/mounts").read_text().splitlines():
        fields = line.split(" ")
        if fields[1] == point:
            return sorted(fields[3].split(","))
    raise AssertionError("not mounted")
