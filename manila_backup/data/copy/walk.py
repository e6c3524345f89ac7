# SPDX-License-Identifier: Apache-2.0
"""Walk a live tree in raw byte order of the paths, the order of catalogs.

Memory: the names of the directories on the way, bounded by :mod:`listing`; fds: bounded by
:mod:`dirstack`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from manila_backup.data.copy.base import IGNORED_NAMES
from manila_backup.data.copy.dirstack import (
    DirStack,
    Identity,
    Lock,
    NotTheDirectory,
    OtherMount,
    identity_of,
)
from manila_backup.data.copy.errors import copy_failed
from manila_backup.data.copy.listing import HELD_NAMES, SortedNames, Spill
from manila_backup.data.copy.sysio import Files
from manila_backup.exception import Cancelled

GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""How a directory fails to open that is not there any more, or not a directory any more."""

_CANCEL_NAMES = 4096
_DOT = ord(".")


@dataclass(slots=True)
class Found:
    """One entry; valid until the walk goes on. ``parent_fd`` and ``name`` reach it (``.`` is the
    root). Whoever looks again and finds something else there puts it into ``stat``: the walk
    descends into what ``stat`` says is a directory, if it still is the same one.
    """

    path: bytes
    name: bytes
    parent_fd: int
    stat: os.stat_result


class _Frame:
    """A directory under way. ``end``: the length of its path. ``pending``: its subdirectories that
    were yielded and not entered; the last one comes first, since each is a prefix of the next.
    """

    __slots__ = ("end", "held", "identity", "names", "pending")

    def __init__(self, end: int, identity: Identity, names: SortedNames) -> None:
        self.end = end
        self.identity = identity
        self.names = names
        self.held = 0  # names in memory while the walk is further down
        self.pending: list[tuple[bytes, Identity]] = []  # name + "/", identity


class Walk:
    """Iterable once; to be closed if not run to its end. ``on_skip`` hears of entries that vanished
    or were swapped meanwhile, and of mounts that are not entered.
    """

    def __init__(
        self,
        root_fd: int,
        *,
        files: Files,
        cancelled: Callable[[], bool],
        on_skip: Callable[[bytes], None],
        held_names: int = HELD_NAMES,
    ) -> None:
        self._files = files
        self._cancelled = cancelled
        self._on_skip = on_skip
        self._root_fd = root_fd
        self._spill = Spill()
        self._frames: list[_Frame] = []
        self._path = b""  # the path of each frame is its beginning
        self._held = 0
        self._held_limit = held_names
        self._skip = False

    def skip(self) -> None:
        """Do not descend into the directory yielded last."""
        self._skip = True

    def __iter__(self) -> Generator[Found]:
        """The root first.

        :raises CopyFailed: a directory could not be read; names it.
        :raises Cancelled: asked once per entry.
        """
        self._check_cancelled()
        stack: DirStack | None = None
        try:
            try:
                stack = DirStack(self._root_fd, self._files, lock=Lock.PUT_BACK)
                info = self._files.fstat(self._root_fd)
            except OSError as error:
                raise copy_failed(b"", error) from error
            found = Found(b"", b".", self._root_fd, info)
            yield found
            if not self._take_skip():
                self._descend(stack, b"", identity_of(info))
            while self._frames:
                frame = self._frames[-1]
                if (yield from self._entries(stack, frame)):
                    self._go_on(stack, frame)
        finally:
            if stack is not None:
                stack.close()
            self._spill.close()

    def _entries(self, stack: DirStack, frame: _Frame) -> Generator[Found, None, bool]:
        """Of one directory, until the way leads down or up; False: the way to it is lost."""
        names, pending = frame.names, frame.pending
        if names.next is None:
            return True
        path = self._path_of(frame)
        prefix = path + b"/" if path else b""
        fd = -1  # opened when an entry is to be looked at, valid until the way leads elsewhere
        lstat, cancelled = self._files.lstat, self._cancelled
        while (name := names.next) is not None and not (pending and pending[-1][0] <= name):
            try:
                names.advance()
            except OSError as error:  # the temporary file
                raise copy_failed(path, error) from error
            if cancelled():
                raise Cancelled
            try:
                if fd < 0:
                    fd = stack.enter(path, frame.identity)
            except (OSError, NotTheDirectory, OtherMount) as error:
                self._abandon(frame, error)
                return False
            try:
                info = lstat(name, fd)
            except OSError as error:
                if self._is_lost(frame, prefix + name, error):
                    return False
                continue
            found = Found(prefix + name, name, fd, info)
            yield found
            if self._skip:
                self._skip = False
            elif stat.S_ISDIR(found.stat.st_mode):
                pending.append((name + b"/", identity_of(found.stat)))
        return True

    def _is_lost(self, frame: _Frame, path: bytes, error: OSError) -> bool:
        """An entry cannot be looked at. True: its whole directory has gone and was left; False:
        only the entry has."""
        if isinstance(error, FileNotFoundError):
            self._on_skip(path)
            return False
        directory = self._path_of(frame)
        if error.errno == errno.ESTALE and self._has_vanished(directory, frame.identity):
            self._abandon(frame, error)
            return True
        raise copy_failed(path, error) from error

    def _go_on(self, stack: DirStack, frame: _Frame) -> None:
        """Into a subdirectory, or up."""
        if not frame.pending:
            self._leave(frame)
            return
        subdirectory, identity = frame.pending.pop()
        path = self._path_of(frame, subdirectory[:-1])
        if frame.names.next is None and not frame.pending:
            self._leave(frame)  # there is nothing to come back for
        self._descend(stack, path, identity)

    def _path_of(self, frame: _Frame, name: bytes = b"") -> bytes:
        path = self._path = self._path[: frame.end]
        return b"/".join((path, name)) if path and name else path or name

    def _abandon(self, frame: _Frame, error: Exception) -> None:
        """The way back to a directory under way is lost: what is left of it is skipped."""
        stale = isinstance(error, OSError) and error.errno == errno.ESTALE
        if isinstance(error, OSError) and error.errno not in GONE and not stale:
            raise copy_failed(self._path_of(frame), error) from error
        self._on_skip(self._path_of(frame))
        self._leave(frame)

    def _leave(self, frame: _Frame) -> None:
        frame.names.close()
        self._frames.pop()
        if self._frames:
            self._held -= self._frames[-1].held

    def _descend(self, stack: DirStack, path: bytes, identity: Identity) -> None:
        try:
            fd = stack.enter(path, identity)
            self._make_room()
            names = SortedNames(self._names(fd, is_root=not path), self._spill)
        except (NotTheDirectory, OtherMount):
            self._on_skip(path)
        except OSError as error:
            # An NFS client says ESTALE of what another client has removed.
            stale = error.errno == errno.ESTALE and self._has_vanished(path, identity)
            if error.errno not in GONE and not stale:
                raise copy_failed(path, error) from error
            self._on_skip(path)
        else:
            if self._frames:
                self._frames[-1].held = self._frames[-1].names.held
                self._held += self._frames[-1].held
            self._path = path
            self._frames.append(_Frame(len(path), identity, names))

    def _make_room(self) -> None:
        """Before a directory's names are read, those of the one above it may have to go."""
        if self._frames and self._held + self._frames[-1].names.held > self._held_limit:
            self._frames[-1].names.put_away()

    def _names(self, fd: int, *, is_root: bool) -> Iterator[bytes]:
        for number, (name, _) in enumerate(self._files.names(fd)):
            if number % _CANCEL_NAMES == 0:
                self._check_cancelled()
            # In other directories only hidden names may be ignored ones.
            if not ((is_root or name[0] == _DOT) and is_ignored(name, is_root=is_root)):
                yield name

    def _has_vanished(self, path: bytes, identity: Identity) -> bool:
        """Whether the directory that was at ``path`` is certainly not there any more."""
        if not path:
            return False
        fresh = DirStack(self._root_fd, self._files)
        try:
            fresh.enter(path, identity)
        except (NotTheDirectory, OtherMount):
            return True
        except OSError as error:
            return error.errno in GONE
        finally:
            fresh.close()
        return False

    def _take_skip(self) -> bool:
        skip, self._skip = self._skip, False
        return skip

    def _check_cancelled(self) -> None:
        if self._cancelled():
            raise Cancelled


def is_ignored(name: bytes, *, is_root: bool) -> bool:
    """Whether a name belongs to the file server; see :data:`~.base.IGNORED_NAMES`."""
    return name.startswith(b".nfs") or (is_root and name in IGNORED_NAMES)
