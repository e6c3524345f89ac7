# SPDX-License-Identifier: Apache-2.0
"""What the kernel says is mounted, read without touching what is mounted: a dead file server holds
up whoever asks it, and nobody who asks the kernel.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class MountEntry:
    """A line of /proc/self/mountinfo (proc(5)). ``options`` are the mount's own, not the file
    system's.
    """

    mount_id: int
    parent_id: int
    device: str
    point: str
    options: frozenset[str]
    fs_type: str
    source: str

    @property
    def is_read_only(self) -> bool:
        return "ro" in self.options


def mount_entries() -> list[MountEntry]:
    """All that this process sees."""
    table = os.fsdecode(Path("/proc/self/mountinfo").read_bytes())
    # Not splitlines: of the characters that it takes for line ends the kernel escapes one only.
    return [_entry(line) for line in table.rstrip("\n").split("\n")]


def _entry(line: str) -> MountEntry:
    own, _, of_file_system = line.partition(" - ")
    fields = own.split(" ")
    fs_type, source, _ = of_file_system.split(" ", 2)
    return MountEntry(
        mount_id=int(fields[0]),
        parent_id=int(fields[1]),
        device=fields[2],
        point=_unescape(fields[4]),
        options=frozenset(fields[5].split(",")),
        fs_type=fs_type,
        source=_unescape(source),
    )


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def mounted_below(directory: str) -> list[str]:
    """Mount points under ``directory``, the last mounted first; one that is mounted over twice is
    there twice.
    """
    top = directory.rstrip("/") + "/"
    return [entry.point for entry in mount_entries() if entry.point.startswith(top)][::-1]


def mounted_at(point: str) -> MountEntry | None:
    """What a path that is a mount point leads to: of several mounts the topmost."""
    found = [entry for entry in mount_entries() if entry.point == point]
    below = {entry.parent_id for entry in found}
    return next((entry for entry in found if entry.mount_id not in below), None)


def mount_id(fd: int) -> int:
    """The id of the mount that an open directory is on (proc(5), fdinfo)."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "mnt_id":
            return int(value)
    raise OSError("the kernel reports no mount ids in /proc/self/fdinfo")
