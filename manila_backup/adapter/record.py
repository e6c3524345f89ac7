# SPDX-License-Identifier: Apache-2.0
"""The record of an operation that is in work as root: a locked file that names its worker.

The lock says whether the process that works still lives; what is written says which worker it has
started, which may outlive it for a moment, or for long when it hangs in the kernel.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from manila_backup.data.worker_process import ProcessId
from manila_backup.exception import Cancelled, InvalidInput, TransientError

LOCK_WAIT_S = 120.0
"""How long a new process waits for the end of the one before it, which unmounts."""

_LOOK_S = 0.2
_ID = re.compile(r"[0-9a-f-]{1,64}")


def check_id(operation_id: str) -> None:
    """:raises InvalidInput: it cannot name a file."""
    if _ID.fullmatch(operation_id) is None:
        raise InvalidInput(field="operation_id", reason="not an id")


class Record:
    """An open, locked record. Only :func:`held` makes one."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path

    def worker(self) -> ProcessId | None:
        """The worker that was written down last; None if none was."""
        text = os.pread(self._fd, 4096, 0)
        with suppress(ValueError, TypeError):
            return ProcessId(**json.loads(text))
        return None

    def write_worker(self, process: ProcessId) -> None:
        """Before it is given its task. Not synced: after a crash of the machine it is gone too."""
        data = json.dumps(asdict(process)).encode()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, data, 0)

    def remove(self) -> None:
        """Nothing of the operation is left."""
        with suppress(FileNotFoundError):
            self._path.unlink()


@contextmanager
def held(
    directory: str,
    operation_id: str,
    *,
    cancelled: Callable[[], bool],
    wait_s: float = LOCK_WAIT_S,
) -> Iterator[Record]:
    """The record of an operation, made if there is none, locked while the block lasts.

    :param directory: made with mode 0700.
    :raises TransientError: another process works on the operation and does not end.
    :raises Cancelled:
    """
    check_id(operation_id)
    Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    path = Path(directory) / operation_id
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _lock(fd, time.monotonic() + wait_s, cancelled)
        yield Record(fd, path)
    finally:
        os.close(fd)


def _lock(fd: int, until_s: float, cancelled: Callable[[], bool]) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if cancelled():
                raise Cancelled from None
            if time.monotonic() >= until_s:
                reason = "an earlier process that works on it has not ended yet"
                raise TransientError(reason=reason) from None
            time.sleep(_LOOK_S)
        else:
            return
