# SPDX-License-Identifier: Apache-2.0
"""What this node's manila-data has in work, and what must be undone should it die: a file each.

An entry is written before the first thing is made, and removed when nothing of it is left and
Manila's rows say how it ended. The directory is private to one manila-data, which a lock ensures.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from oslo_log import log

from manila_backup.adapter.cloud import CallKind
from manila_backup.exception import TransientError
from manila_backup.types import BackupRef

LOG = log.getLogger(__name__)

_SUFFIX = ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One call of manila-data.

    ``rules`` are ids of access rules of ours that may exist; ``mounted``: a process as root may
    have been started for it and not have ended in order; ``epoch``: where data of a backup may lie
    that is to be thrown away unless ``succeeded``. ``succeeded`` is None while the call runs, and
    stays None when it dies. ``version`` is that of the backup's row when the call ended.
    """

    operation_id: str
    kind: CallKind
    backup_id: str
    project_id: str
    share_id: str
    epoch: int
    rules: tuple[str, ...] = ()
    mounted: bool = False
    succeeded: bool | None = None
    reason: str | None = None
    version: str | None = None

    @property
    def ref(self) -> BackupRef:
        return BackupRef(project_id=self.project_id, backup_id=self.backup_id, epoch=self.epoch)

    @property
    def discards(self) -> bool:
        """Whether what lies in the store is to be thrown away: that of a backup that failed."""
        return self.kind is CallKind.BACKUP and not self.succeeded


class Journal:
    """The directory. :meth:`open` comes first."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._lock_fd: int | None = None

    def open(self) -> None:
        """Take the directory; idempotent.

        :raises TransientError: it cannot be used, or another process uses it.
        """
        if self._lock_fd is not None:
            return
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise TransientError(
                reason=f"state_directory {self._directory}: {error.strerror}"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            reason = f"another process uses state_directory {self._directory}"
            raise TransientError(reason=reason) from error
        self._lock_fd = fd

    def close(self) -> None:
        fd, self._lock_fd = self._lock_fd, None
        if fd is not None:
            os.close(fd)

    def write(self, entry: Entry) -> None:
        """Make or replace; durable when it returns.

        :raises TransientError:
        """
        path = self._path(entry)
        new = path.with_suffix(".new")
        try:
            with new.open("w") as file:
                json.dump(asdict(entry), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
            self._sync()
        except OSError as error:
            reason = f"state_directory {self._directory}: {error.strerror}"
            raise TransientError(reason=reason) from error

    def read(self, entry: Entry) -> Entry:
        """As it was written last."""
        return _load(self._path(entry).read_text())

    def remove(self, entry: Entry) -> None:
        """Idempotent."""
        with suppress(FileNotFoundError):
            self._path(entry).unlink()

    def entries(self) -> Iterator[Entry]:
        """In no particular order. A file that cannot be read is left, and said."""
        for path in self._directory.glob(f"*{_SUFFIX}"):
            try:
                yield _load(path.read_text())
            except FileNotFoundError:
                continue
            except (OSError, KeyError, TypeError, ValueError) as error:
                LOG.warning("%s cannot be read: %s", path, error)

    def _path(self, entry: Entry) -> Path:
        return self._directory / f"{entry.operation_id}{_SUFFIX}"

    def _sync(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _load(text: str) -> Entry:
    fields = json.loads(text)
    return Entry(
        **{**fields, "kind": CallKind(fields["kind"]), "rules": tuple(fields["rules"])},
    )
