# SPDX-License-Identifier: Apache-2.0
"""How much there is to copy, found out beside the copy."""

from __future__ import annotations

import contextlib
import errno
import os
import threading

from manila_backup.cmd.copy_progress import Total
from manila_backup.data.copy.measure import measure_tree
from manila_backup.data.copy.sysio import OPEN_DIRECTORY, Files, Place
from manila_backup.exception import OperationError

_JOIN_S = 1.0


class _Looking(Files):
    """Counts what the walk looks at, and changes nothing: an ordinary user's own directory that is
    closed to him is opened by the copy alone, since two that open and close it disturb each other.
    """

    def __init__(self) -> None:
        self.seen = 0

    def lstat(self, name: bytes, dir_fd: int) -> os.stat_result:
        self.seen += 1
        return super().lstat(name, dir_fd)

    def chmod(self, place: Place, mode: int) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


class Survey:
    """A walk in a thread. If it fails (a directory cannot be read), the total stays unknown: the
    copy meets the same error and says so.
    """

    def __init__(self, source_fd: int) -> None:
        self._source_fd = source_fd
        self._files = _Looking()
        self._found: Total | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="survey", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def total(self) -> Total:
        return self._found or Total(entries=self._files.seen, bytes=0, is_known=False)

    def end(self) -> None:
        """Idempotent. A walk that waits for a server is left alone; it has changed nothing."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        with contextlib.suppress(OperationError, OSError):
            # Not the caller's open directory: two readers of one share its position, and each
            # would miss what the other has seen.
            fd = os.open(b".", OPEN_DIRECTORY, dir_fd=self._source_fd)
            try:
                found = measure_tree(fd, cancelled=self._ended.is_set, files=self._files)
            finally:
                os.close(fd)
            self._found = Total(entries=found.entries, bytes=found.bytes, is_known=True)
