# SPDX-License-Identifier: Apache-2.0
"""What lies in the store, known without the database: published backups, and what is none."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from manila_backup.data.copy.base import IGNORED_NAMES
from manila_backup.data.drivers.layout import (
    ABSENT,
    failing,
    is_epoch,
    is_id,
    opened,
)
from manila_backup.data.drivers.stored import read_manifest
from manila_backup.exception import BackupNotStored
from manila_backup.names import printable
from manila_backup.types import BackupRef, StoredBackup

Orphan = tuple[str, str]
"""(printable path relative to the store's root, why it is no published backup)."""

Parts = tuple[str, ...]
"""Names of the levels from the root down."""

_LEVELS: tuple[Callable[[str], bool], ...] = (is_id, is_id, is_epoch)
_EMPTY = "empty"
_ODD = "not a directory of this service"


def published(root_fd: int) -> Iterator[StoredBackup]:
    """Each backup with a valid manifest once, at its highest valid epoch.

    Levels that vanish meanwhile are passed over.
    :raises CopyFailed: the store cannot be read, which is not the same as holding nothing.
    """
    for project_id in _ours(root_fd, ()):
        with _present(root_fd, (project_id,)) as project_fd:
            for backup_id in _ours(project_fd, (project_id,)):
                with _present(project_fd, (project_id, backup_id)) as backup_fd:
                    stored = _highest(backup_fd, project_id, backup_id)
                if stored is not None:
                    yield stored


def newest(root_fd: int, project_id: str, backup_id: str) -> StoredBackup | None:
    """One backup at its highest valid epoch; None if there is none.

    :raises CopyFailed: the store cannot be read.
    """
    with (
        _present(root_fd, (project_id,)) as project_fd,
        _present(project_fd, (project_id, backup_id)) as backup_fd,
    ):
        return _highest(backup_fd, project_id, backup_id)


def _highest(backup_fd: int | None, project_id: str, backup_id: str) -> StoredBackup | None:
    for epoch in sorted(map(int, _ours(backup_fd, (project_id, backup_id))), reverse=True):
        ref = BackupRef(project_id=project_id, backup_id=backup_id, epoch=epoch)
        with _present(backup_fd, (project_id, backup_id, str(epoch))) as epoch_fd:
            if epoch_fd is None:
                continue
            try:
                return read_manifest(epoch_fd, ref).stored()
            except BackupNotStored:
                continue
    return None


def unpublished(root_fd: int) -> Iterator[Orphan]:
    """Directories without a published backup, and whatever else lies in the upper three levels.

    :raises CopyFailed: the store cannot be read.
    """
    return _unpublished(root_fd, ())


def _unpublished(fd: int, above: Parts) -> Iterator[Orphan]:
    listed = _listed(fd, above)
    if above and listed == []:
        yield _path(above), _EMPTY
    for name in listed or []:
        parts = (*above, name)
        if not _LEVELS[len(above)](name):
            yield _path(parts), _ODD
            continue
        with _present(fd, parts) as below_fd:
            if below_fd is None:
                if _is_there(name, fd):
                    yield _path(parts), _ODD
            elif len(parts) < len(_LEVELS):
                yield from _unpublished(below_fd, parts)
            else:
                yield from _unless_published(below_fd, parts)


def _unless_published(epoch_fd: int, parts: Parts) -> Iterator[Orphan]:
    project_id, backup_id, epoch = parts
    ref = BackupRef(project_id=project_id, backup_id=backup_id, epoch=int(epoch))
    try:
        read_manifest(epoch_fd, ref)
    except BackupNotStored as error:
        yield _path(parts), error.what


def _ours(fd: int | None, above: Parts) -> list[str]:
    """The names in a level that may be ours."""
    if fd is None:
        return []
    return [name for name in _listed(fd, above) or [] if _LEVELS[len(above)](name)]


def _listed(fd: int, above: Parts) -> list[str] | None:
    """The names in a level but the file server's own; None if it was removed meanwhile."""
    with failing(_path(above)):
        try:
            listed = os.listdir(fd)
        except OSError as error:
            # An NFS server says ESTALE of a directory that another node removed. At the root it
            # means that the store itself is gone.
            if above and error.errno in {errno.ENOENT, errno.ESTALE}:
                return None
            raise
    return [name for name in listed if not _is_the_servers(name, at_root=not above)]


def _is_the_servers(name: str, *, at_root: bool) -> bool:
    raw = os.fsencode(name)
    return raw.startswith(b".nfs") or (at_root and raw in IGNORED_NAMES)


@contextmanager
def _present(parent_fd: int | None, parts: Parts) -> Iterator[int | None]:
    """The directory at ``parts``, of which only the last is looked up; None if there is none."""
    with ExitStack() as stack:
        fd = None
        if parent_fd is not None:
            with failing(_path(parts)):
                try:
                    fd = stack.enter_context(opened(parts[-1], parent_fd))
                except OSError as error:
                    if error.errno not in ABSENT:
                        raise
        yield fd


def _is_there(name: str, parent_fd: int) -> bool:
    try:
        os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _path(parts: Parts) -> str:
    return printable(os.fsencode("/".join(parts)))
