# SPDX-License-Identifier: Apache-2.0
"""Writing a new epoch, up to its manifest: the last thing created, when all else is durable.

Whatever step this is killed at, there is no manifest, or there is one and it tells the truth.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from manila_backup.data.catalog import manifest as manifests
from manila_backup.data.catalog.manifest import Manifest
from manila_backup.data.catalog.summary import CatalogSummary
from manila_backup.data.catalog.writer import CatalogWriter
from manila_backup.data.copy.base import CopyOptions, CopyResult
from manila_backup.data.copy.sysio import Files
from manila_backup.data.copy.tree import copy_tree
from manila_backup.data.drivers.durable import Disk
from manila_backup.data.drivers.layout import (
    CATALOG,
    DATA,
    DIRECTORY_MODE,
    MANIFEST,
    Levels,
    failing,
    label,
    opened,
)
from manila_backup.exception import InvalidBackup
from manila_backup.types import BackupDescription, BackupRef, Counters, Parallelism

_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_MODE = 0o600
_NO_CATALOG = CatalogSummary(bytes=0, entries=0, blake3_hex="0" * 64)


def check_description(description: BackupDescription) -> None:
    """Refuse at once what would only turn out not to fit into a manifest after hours of copying.

    :raises InvalidBackup:
    """
    draft = Manifest(
        description=description,
        catalog=_NO_CATALOG,
        counters=Counters(),
        stored_bytes=0,
        logical_bytes=0,
    )
    try:
        manifests.dump(draft)
    except ValueError as error:
        raise InvalidBackup(reason=f"its description cannot be stored: {error}") from error


class NewEpoch:
    """The directories of one attempt, just created."""

    def __init__(self, levels: Levels, ref: BackupRef, files: Files, disk: Disk) -> None:
        self._levels = levels
        self._ref = ref
        self._files = files
        self._disk = disk

    def copy(
        self,
        source_fd: int,
        parallelism: Parallelism,
        *,
        progress: Callable[[Counters], None],
        cancelled: Callable[[], bool],
    ) -> tuple[CopyResult, CatalogSummary]:
        """Copy the tree into ``data`` and write ``catalog``, which is durable afterwards.

        :raises CopyFailed:
        :raises Cancelled:
        """
        with self._created(CATALOG) as catalog_fd, self._created_data() as data_fd:
            catalog = CatalogWriter(_Sink(catalog_fd, label(self._ref, CATALOG)))
            result = copy_tree(
                source_fd,
                data_fd,
                CopyOptions(
                    plain_target=True,
                    processes=parallelism.processes,
                    threads=parallelism.threads,
                    rate_path=parallelism.rate_path,
                ),
                catalog=catalog,
                progress=progress,
                cancelled=cancelled,
                files=self._files,
            )
            summary = catalog.close()
            with failing(label(self._ref, CATALOG)):
                self._disk.fsync(catalog_fd)
        return result, summary

    def make_durable(self) -> None:
        """Everything written so far, and the directories above, up to the store's root.

        :raises CopyFailed: it may not be on the disk.
        """
        # The epoch's fd is older than the data in it, so no write error can have been reported to
        # somebody else before.
        with failing(label(self._ref)):
            self._disk.syncfs(self._levels.epoch_fd)
            for fd in (self._levels.backup_fd, self._levels.project_fd, self._levels.root_fd):
                self._disk.fsync(fd)

    def publish(self, manifest: Manifest) -> None:
        """Create the manifest, durable when this returns; not there at all when it raises.

        :raises CopyFailed:
        """
        data = manifests.dump(manifest)
        fd = self._create(MANIFEST)
        with failing(label(self._ref, MANIFEST)):
            try:
                try:
                    _write(fd, data)
                    self._disk.fsync(fd)
                finally:
                    os.close(fd)
                self._disk.fsync(self._levels.epoch_fd)
            except BaseException:
                # In the page cache it may look whole although the disk refused it.
                with suppress(OSError):
                    os.unlink(MANIFEST, dir_fd=self._levels.epoch_fd)
                    self._disk.fsync(self._levels.epoch_fd)
                raise

    def _create(self, name: str) -> int:
        with failing(label(self._ref, name)):
            return os.open(name, _CREATE_FLAGS, _FILE_MODE, dir_fd=self._levels.epoch_fd)

    @contextmanager
    def _created(self, name: str) -> Iterator[int]:
        fd = self._create(name)
        try:
            yield fd
        except BaseException:
            with suppress(OSError):
                os.close(fd)
            raise
        with failing(label(self._ref, name)):
            os.close(fd)

    @contextmanager
    def _created_data(self) -> Iterator[int]:
        with ExitStack() as stack:
            with failing(label(self._ref, DATA)):
                os.mkdir(DATA, DIRECTORY_MODE, dir_fd=self._levels.epoch_fd)
                fd = stack.enter_context(opened(DATA, self._levels.epoch_fd))
            yield fd


class _Sink:
    """The catalog's file for its writer; whole writes or ``CopyFailed``."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path

    def write(self, data: bytes, /) -> int:
        with failing(self._path):
            _write(self._fd, data)
        return len(data)


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
