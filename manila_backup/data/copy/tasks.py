# SPDX-License-Identifier: Apache-2.0
"""What the coordinator of a copy asks its workers to do, and what they answer.

All of it is picklable: a worker may be in another process. Paths are raw and relative to the roots.
A task names the inodes it is about where that matters: a worker that finds others there, since
somebody swapped them, does nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from manila_backup.data.catalog.entry import Entry, EntryType
from manila_backup.data.catalog.pieces import Piece
from manila_backup.data.copy.attributes import Attributes
from manila_backup.data.copy.dirstack import Identity
from manila_backup.data.copy.notes import Notes
from manila_backup.data.copy.sysio import Kind

Name = tuple[bytes, Kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """A directory of both trees that is under way. ``fresh``: the target's was empty when the copy
    came to it."""

    path: bytes
    source: Identity
    target: Identity
    fresh: bool


# --- tasks ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyDirectory:
    """Make the directory at ``path`` and copy the entries in it if there are at most ``limit``.
    ``parent``: the inode that its parent in the source must be."""

    path: bytes
    parent: Identity | None
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyNames:
    """Copy these entries of a directory, in their order. ``whole``: files with several names too,
    each with an inode of its own; else they are answered as :class:`Linked`. ``large``: files of
    any size; else large ones are answered as :class:`Large` where others can share in the work.
    """

    directory: Directory
    names: list[Name]
    whole: bool = False
    large: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeFile:
    """A large file whose content comes in ranges: what the source must still be, and what was made
    in the target, which the coordinator holds open at ``place``. ``seen`` is what the source looked
    like when it was begun: size, mtime_ns, ctime_ns."""

    directory: Directory
    name: bytes
    source: Identity
    seen: tuple[int, int, int]
    target: Identity
    place: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginFile:
    """Look at a large file of the source; answers :class:`Begun`, or None if it has to be copied in
    one go, be it to find out what it is by now."""

    directory: Directory
    name: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRange:
    """Copy the content between two offsets; answers :class:`~.content.CopiedPart`, or None if the
    source is not what it was."""

    file: LargeFile
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SealFile:
    """All ranges are there: give the file its size and attributes; answers its entry without
    content, or None if the source is not what it was, or the file not at its name any more."""

    file: LargeFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """``path`` is to be another name of what ``first`` is in the target, if that is ``inode``."""

    path: bytes
    first: bytes
    inode: Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeLinks:
    """Make hard links; answers a :class:`LinkMade` for each, in order."""

    links: list[Link]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishDirectory:
    """Give a directory what it gets last, when everything below it is there. ``losses`` are known
    already; ``strip``: it may have attributes that it must not have."""

    path: bytes
    target: Identity
    wanted: Attributes
    losses: tuple[str, ...] = ()
    strip: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayEntries:
    """Restore these entries, which are no directories and have content of their own; the
    directories that they are in have been made. Records come of those in a hard-link group: the
    path, and the inode made (None: none was)."""

    entries: list[Entry]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayPieces:
    """Restore some pieces of a file, in order. ``entry`` is without its content; ``made`` is what
    the coordinator made for it, and holds open at ``place``."""

    entry: Entry
    made: Identity
    place: bytes
    pieces: list[Piece]


LargeTask = BeginFile | CopyRange | SealFile
Task = CopyDirectory | CopyNames | LargeTask | MakeLinks | FinishDirectory | LayEntries | LayPieces


DIRECTORY_WEIGHT = 16
"""What a directory that was not entered yet is taken for."""

_PATH_BYTES = 1024
"""What a path has for each entry that it counts as: of long ones only few are to wait."""


def weight_of(task: Task, most: int) -> int:
    """About how many entries it is. What has large files is ``most``: it is to be alone."""
    match task:
        case CopyDirectory():
            return DIRECTORY_WEIGHT + len(task.path) // _PATH_BYTES
        case CopyNames():
            path_weight = len(task.directory.path) // _PATH_BYTES
            return most if task.large else len(task.names) + path_weight
        case LayEntries():
            return len(task.entries)
        case MakeLinks():
            return len(task.links)
        case FinishDirectory():
            return 1 + len(task.path) // _PATH_BYTES
    return most


# --- answers --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked:
    """A file with several names that was not copied: who copies it is the coordinator's to say."""

    inode: Identity
    type: EntryType
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Large:
    """A large file that was not copied, so that others go on meanwhile."""

    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A large file as it was seen; ``ranges`` to copy: holes as large as a range are in none."""

    source: Identity
    seen: tuple[int, int, int]
    ranges: list[tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """An entry with an inode of its own. ``links``: how many names the source's inode has;
    ``made``: the inode in the target, None if it was left out there."""

    entry: Entry
    links: int
    made: Identity | None


Record = tuple[bytes, Any]
"""A name, and what became of it: ``bytes`` is its encoded entry; :class:`Whole`; :class:`Linked`;
:class:`Large`;
``Kind.DIRECTORY`` a directory that has to be entered. In the order of the names; what was skipped
has none. Without a catalog there are records only for what the coordinator has to act on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entered:
    """What became of a :class:`CopyDirectory`. ``names`` are those left to do, in order; None if
    there are too many: the coordinator lists them itself. ``is_finished``: nothing was left, and
    the directory has got what it gets last."""

    directory: Directory
    entry: Entry
    wanted: Attributes
    losses: tuple[str, ...]
    names: list[Name] | None
    is_finished: bool = False


class NotEntered(IntEnum):
    """A directory that was not entered."""

    GONE = 0
    """It vanished, or another one took its place; it was counted."""

    OTHER_TYPE = 1
    """It is something else now."""


class LinkMade(IntEnum):
    YES = 0

    FIRST_GONE = 1
    """The first name is not that inode any more."""

    IMPOSSIBLE = 2
    """The target cannot have (more) hard links."""

    PREVENTED = 3
    """Somebody else is at this name of the target; it was noted."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """``cpu_s`` is what the task took of a processor, ``queued_s`` how long its thread waited for
    one, ``blocked_s`` for anything else. ``rest``: names of a :class:`CopyNames` that are left,
    since others may take a part of the work."""

    notes: Notes
    records: list[Record] = field(default_factory=list)
    answer: Any = None
    rest: list[Name] = field(default_factory=list)
    cpu_s: float = 0.0
    queued_s: float = 0.0
    blocked_s: float = 0.0
