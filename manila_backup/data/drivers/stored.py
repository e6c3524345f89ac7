# SPDX-License-Identifier: Apache-2.0
"""Reading what the store holds: one backup's manifest, catalog and data directory."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from manila_backup.data.catalog import manifest as manifests
from manila_backup.data.catalog.entry import Entry
from manila_backup.data.catalog.errors import CatalogDamaged, ManifestDamaged
from manila_backup.data.catalog.manifest import Manifest
from manila_backup.data.catalog.reader import CatalogReader, check
from manila_backup.data.copy.errors import ContentDamaged
from manila_backup.data.drivers import layout
from manila_backup.data.drivers.layout import (
    ABSENT,
    CATALOG,
    DATA,
    MANIFEST,
    failing,
    label,
    opened,
)
from manila_backup.exception import BackupDamaged, BackupNotStored, Cancelled
from manila_backup.types import BackupRef

# O_NONBLOCK: a FIFO that somebody put there must not hang us before it is seen for what it is.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTree:
    """A published backup, open for reading. The fds are the context's that made it."""

    ref: BackupRef
    manifest: Manifest
    catalog_fd: int
    data_fd: int

    def entries(self) -> Iterator[Entry]:
        """A new pass over the catalog; passes do not disturb each other."""
        source = _CatalogSource(self.catalog_fd, self.ref, lambda: False)
        return iter(CatalogReader(source, self.manifest.catalog))

    def check_catalog(self, cancelled: Callable[[], bool]) -> None:
        """Read the whole catalog and compare it with the manifest.

        :raises CatalogDamaged:
        :raises Cancelled:
        """
        check(_CatalogSource(self.catalog_fd, self.ref, cancelled), self.manifest.catalog)


class _CatalogSource:
    """Reads the catalog at an offset of its own, so that several passes can share one open file
    (which cannot be exchanged between them, as its name could).
    """

    def __init__(self, fd: int, ref: BackupRef, cancelled: Callable[[], bool]) -> None:
        self._fd = fd
        self._ref = ref
        self._cancelled = cancelled
        self._offset = 0

    def read(self, size: int, /) -> bytes:
        if self._cancelled():
            raise Cancelled
        with failing(label(self._ref, CATALOG)):
            data = os.pread(self._fd, size, self._offset)
        self._offset += len(data)
        return data


def read_manifest(epoch_fd: int, ref: BackupRef) -> Manifest:
    """The manifest in an epoch's directory, checked, and checked to belong there.

    :raises BackupNotStored: there is none, or it is damaged or of another backup.
    :raises CopyFailed: it cannot be read.
    """
    try:
        with failing(label(ref, MANIFEST)):
            manifest = manifests.load(_manifest_bytes(epoch_fd))
    except ManifestDamaged as error:
        raise BackupNotStored(backup_id=ref.backup_id, what=error.what) from error
    found = manifest.description.ref
    if found != ref:
        what = f"the manifest is that of {label(found)!a}"
        raise BackupNotStored(backup_id=ref.backup_id, what=what)
    return manifest


def _manifest_bytes(epoch_fd: int) -> bytes:
    try:
        with _opened_file(MANIFEST, epoch_fd) as fd:
            chunks = []
            room = manifests.LIMIT_BYTES + 1
            while room and (chunk := os.read(fd, room)):
                chunks.append(chunk)
                room -= len(chunk)
            return b"".join(chunks)
    except _OddFile as error:
        raise ManifestDamaged(what=str(error)) from error


class _OddFile(Exception):
    """Missing, or not a regular file; the text says which."""


@contextmanager
def _opened_file(name: str, epoch_fd: int) -> Iterator[int]:
    """A regular file of ours, open for reading; ``_OddFile`` if there is none."""
    try:
        fd = os.open(name, _FILE_FLAGS, dir_fd=epoch_fd)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise _OddFile(f"there is no {name}") from error
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise _OddFile(f"{name} is not a regular file") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _OddFile(f"{name} is not a regular file")
        yield fd
    finally:
        os.close(fd)


@contextmanager
def found_epoch(root_fd: int, ref: BackupRef) -> Iterator[int]:
    """The directory of an epoch.

    :raises BackupNotStored: there is none, or something odd in place of a level.
    :raises CopyFailed: it cannot be opened.
    """
    with ExitStack() as stack:
        with failing(label(ref)):
            try:
                fd = stack.enter_context(layout.opened_epoch(root_fd, ref))
            except OSError as error:
                if error.errno not in ABSENT:
                    raise
                what = "there is no directory for it, so no manifest"
                raise BackupNotStored(backup_id=ref.backup_id, what=what) from error
        yield fd


@contextmanager
def opened_catalog(epoch_fd: int, ref: BackupRef) -> Iterator[int]:
    """The catalog's file.

    :raises CatalogDamaged: there is none.
    :raises CopyFailed: it cannot be opened.
    """
    with ExitStack() as stack:
        with failing(label(ref, CATALOG)):
            try:
                fd = stack.enter_context(_opened_file(CATALOG, epoch_fd))
            except _OddFile as error:
                raise CatalogDamaged(what=str(error)) from error
        yield fd


@contextmanager
def opened_data(epoch_fd: int, ref: BackupRef) -> Iterator[int]:
    """The root of the stored tree.

    :raises BackupDamaged: there is none.
    :raises CopyFailed: it cannot be opened.
    """
    with ExitStack() as stack:
        with failing(label(ref, DATA)):
            try:
                fd = stack.enter_context(opened(DATA, epoch_fd))
            except OSError as error:
                if error.errno not in ABSENT:
                    raise
                what = f"there is no directory {DATA}"
                raise BackupDamaged(backup_id=ref.backup_id, what=what) from error
        yield fd


@contextmanager
def opened_stored(root_fd: int, ref: BackupRef) -> Iterator[StoredTree]:
    """All of a published backup, open; nothing but the manifest is checked yet.

    :raises BackupNotStored: as :func:`found_epoch` and :func:`read_manifest`.
    :raises BackupDamaged: its catalog or data are not there.
    :raises CopyFailed: something cannot be read.
    """
    with ExitStack() as stack:
        epoch_fd = stack.enter_context(found_epoch(root_fd, ref))
        manifest = read_manifest(epoch_fd, ref)
        with damage_named(ref):
            catalog_fd = stack.enter_context(opened_catalog(epoch_fd, ref))
        data_fd = stack.enter_context(opened_data(epoch_fd, ref))
        yield StoredTree(ref=ref, manifest=manifest, catalog_fd=catalog_fd, data_fd=data_fd)


@contextmanager
def damage_named(ref: BackupRef) -> Iterator[None]:
    """Turn the engine's words for damage into ``BackupDamaged`` of this backup."""
    try:
        yield
    except CatalogDamaged as error:
        raise BackupDamaged(backup_id=ref.backup_id, what=f"{CATALOG}: {error.what}") from error
    except ContentDamaged as error:
        what = f"{error.path}: {error.what}"
        raise BackupDamaged(backup_id=ref.backup_id, what=what) from error
