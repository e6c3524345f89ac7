# SPDX-License-Identifier: Apache-2.0
"""A worker's part in the names of a live tree: what the source's directories have, and what only
the target's have, which is removed.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator

from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.dirstack import DirStack, NotTheDirectory, OtherMount
from manila_backup.data.copy.errors import TargetFailed, copy_failed, target_errors
from manila_backup.data.copy.listing import SortedNames, Spill, live_names
from manila_backup.data.copy.notes import Pulse
from manila_backup.data.copy.remove import Remover
from manila_backup.data.copy.sysio import Files, Kind
from manila_backup.data.copy.target import Mounted, Raced, Target
from manila_backup.data.copy.tasks import Directory, Name
from manila_backup.data.copy.walk import is_ignored

LISTED_NAMES = 20_000
"""A worker lists no larger directories: their names would have to be held in memory."""

_CANCEL_NAMES = 4096


class Lister:
    """``dirs`` and ``target`` are the worker's. ``is_stale`` says whether an error is how an NFS
    client tells that a directory was removed."""

    def __init__(
        self,
        dirs: DirStack,
        target: Target,
        options: CopyOptions,
        pulse: Pulse,
        *,
        is_stale: Callable[[OSError, bytes], bool],
        files: Files,
    ) -> None:
        self._dirs = dirs
        self._target = target
        self._options = options
        self._pulse = pulse
        self._is_stale = is_stale
        self._files = files
        self._remover = Remover(files=files, cancelled=pulse.cancelled, keep=True)

    def names(self, fd: int, path: bytes) -> list[Name] | None:
        """None: there are too many."""
        names: list[Name] = []
        try:
            for name, kind in self._live(fd, path):
                if is_ignored(name, is_root=not path):
                    continue
                names.append((name, kind))
                if len(names) > LISTED_NAMES:
                    return None
        except OSError as error:
            if error.errno == errno.ENOENT or self._is_stale(error, path):
                return []  # it was removed after it was entered
            raise copy_failed(path, error) from error
        names.sort()
        # While the directory changes a name may come twice.
        return [
            name
            for name, before in zip(names, [None, *names], strict=False)
            if before is None or name[0] != before[0]
        ]

    def all_names(self, directory: Directory) -> Iterator[Name]:
        """The names of a very large directory in order; pruned first, if that is asked for.

        Read into memory and temporary files by the first step.
        :raises CopyFailed:
        """
        self._pulse.start()
        if self._options.delete and not directory.fresh:
            self.prune(directory, (name for name, _ in self._sorted(directory)))
        yield from self._sorted(directory)

    def _sorted(self, directory: Directory) -> Iterator[Name]:
        spill = Spill()
        try:
            fd = self._dirs.enter(directory.path, directory.source)
            found = SortedNames(self._packed(fd, directory), spill)
            before: bytes | None = None
            while (packed := found.next) is not None:
                found.advance()
                if packed[:-2] != before:  # as what it is, a name may come twice
                    before = packed[:-2]
                    yield before, Kind(packed[-1])
        except (NotTheDirectory, OtherMount):
            self._pulse.notes.skip(directory.path)
        except OSError as error:
            raise copy_failed(directory.path, error) from error
        finally:
            spill.close()

    def _packed(self, fd: int, directory: Directory) -> Iterator[bytes]:
        """Names with their kinds, such that they sort as the names do."""
        for number, (name, kind) in enumerate(self._live(fd, directory.path)):
            if number % _CANCEL_NAMES == 0:
                self._pulse.check()
            if not is_ignored(name, is_root=not directory.path):
                yield b"%b\0%c" % (name, kind)

    def _live(self, fd: int, path: bytes) -> Iterator[Name]:
        return live_names(self._files, fd, on_change=lambda: self._pulse.notes.change(path))

    def prune(self, directory: Directory, wanted: Iterable[bytes]) -> None:
        if directory.fresh or not self._options.delete:
            return
        root = not directory.path
        spill = Spill()
        try:
            with target_errors():
                fd = self._target.enter(directory.path, directory.target)
                found = SortedNames((name for name, _ in self._files.names(fd)), spill)
            left = iter(wanted)
            following = next(left, None)
            while (name := found.next) is not None:
                found.advance()
                while following is not None and following < name:
                    following = next(left, None)
                if following != name and not is_ignored(name, is_root=root):
                    self._remove(directory, fd, name)
        except TargetFailed as failed:
            raise copy_failed(directory.path, failed.error) from failed
        except (Raced, Mounted) as raced:
            raise copy_failed(directory.path, Raced().error) from raced
        finally:
            spill.close()

    def _remove(self, directory: Directory, fd: int, name: bytes) -> None:
        path = directory.path + b"/" + name if directory.path else name
        removed_before = self._remover.removed
        gone = self._remover.remove(fd, name, path=path)
        notes = self._pulse.notes
        notes.deleted += self._remover.removed - removed_before
        if not gone:  # a mount, or a file that an NFS client has open, is in it
            notes.warnings += 1
        self._pulse.entry()
