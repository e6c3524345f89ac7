# SPDX-License-Identifier: Apache-2.0
"""The directories of the tree driver's store, as ``doc/format.md`` lays them out.

Others may be able to write to the backup share. So no path is ever put together: each level is
opened relative to the one above it, without following links, and ids are checked before they name
anything. Functions take and give directory fds; they raise plain ``OSError``, which
:func:`failing` turns into :class:`~manila_backup.exception.CopyFailed` with a path fit for people.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from manila_backup.data.drivers.durable import Disk
from manila_backup.exception import CopyFailed, InvalidBackup
from manila_backup.types import BackupRef

CATALOG = "catalog"
DATA = "data"
MANIFEST = "manifest.json"

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
DIRECTORY_MODE = 0o700

ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What opening a level raises when there is none: nothing, or something odd in its place."""

_VANISHED = frozenset({errno.ENOENT, errno.ESTALE})
_NOT_EMPTY = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY})
_ID = re.compile(r"[A-Za-z0-9_.-]{1,255}")
_EPOCH = re.compile(r"0|[1-9][0-9]{0,18}")
_CREATE_ATTEMPTS = 16


def is_id(name: str) -> bool:
    """Whether ``name`` may name a project's or a backup's directory."""
    return _ID.fullmatch(name) is not None and name not in {".", ".."}


def is_epoch(name: str) -> bool:
    """Whether ``name`` is an epoch: decimal, without leading zeros, at most 19 digits."""
    return _EPOCH.fullmatch(name) is not None


def checked(ref: BackupRef) -> BackupRef:
    """``ref`` itself, if its parts may name directories.

    :raises InvalidBackup: they may not, so that nothing can be stored there.
    """
    if is_id(ref.project_id) and is_id(ref.backup_id) and is_epoch(str(ref.epoch)):
        return ref
    raise InvalidBackup(reason=f"{ref!a} cannot name directories in the store.")


def label(ref: BackupRef, *rest: str) -> str:
    """Path for messages, relative to the store's root; printable, since ids are."""
    return "/".join((ref.project_id, ref.backup_id, str(ref.epoch), *rest))


@contextmanager
def failing(path: str) -> Iterator[None]:
    """Turn an ``OSError`` into ``CopyFailed`` for ``path`` (printable)."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        raise CopyFailed(path=path, reason=os.strerror(number), errno=number) from error


def open_directory(name: str | bytes, parent_fd: int) -> int:
    """Open one level; the caller closes it."""
    return os.open(name, DIRECTORY_FLAGS, dir_fd=parent_fd)


@contextmanager
def opened(name: str | bytes, parent_fd: int) -> Iterator[int]:
    """One level, open while the context lasts."""
    fd = open_directory(name, parent_fd)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def opened_epoch(root_fd: int, ref: BackupRef) -> Iterator[int]:
    """The directory of ``ref``; ``OSError`` in ``ABSENT`` if it or a level above is missing."""
    with (
        opened(ref.project_id, root_fd) as project_fd,
        opened(ref.backup_id, project_fd) as backup_fd,
        opened(str(ref.epoch), backup_fd) as epoch_fd,
    ):
        yield epoch_fd


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """The directories down to a new epoch, open. The fds are the context's that made it."""

    root_fd: int
    project_fd: int
    backup_fd: int
    epoch_fd: int


@contextmanager
def created_levels(root_fd: int, ref: BackupRef) -> Iterator[Levels]:
    """The directories of a new ``ref``, the epoch created here.

    :raises FileExistsError: the epoch is there already; nothing was changed.
    """
    with ExitStack() as stack:
        levels = _create(root_fd, ref, stack)
        yield levels


def _create(root_fd: int, ref: BackupRef, stack: ExitStack) -> Levels:
    # The last backup of the same project may be deleted meanwhile, and its empty directory with
    # it, between our making or opening the directory and our making the next level in it.
    for attempt in range(_CREATE_ATTEMPTS):
        with ExitStack() as attempt_stack:
            try:
                project_fd = _make(ref.project_id, root_fd, attempt_stack)
                backup_fd = _make(ref.backup_id, project_fd, attempt_stack)
                os.mkdir(str(ref.epoch), DIRECTORY_MODE, dir_fd=backup_fd)
            except OSError as error:
                if error.errno in _VANISHED and attempt + 1 < _CREATE_ATTEMPTS:
                    continue
                raise
            epoch_fd = open_directory(str(ref.epoch), backup_fd)
            attempt_stack.callback(os.close, epoch_fd)
            stack.push(attempt_stack.pop_all())
            return Levels(
                root_fd=root_fd, project_fd=project_fd, backup_fd=backup_fd, epoch_fd=epoch_fd
            )
    raise AssertionError("unreachable: the last attempt returns or raises")


def _make(name: str, parent_fd: int, stack: ExitStack) -> int:
    """Open a level, making it first if it is missing."""
    with suppress(FileExistsError):
        os.mkdir(name, DIRECTORY_MODE, dir_fd=parent_fd)
    fd = open_directory(name, parent_fd)
    stack.callback(os.close, fd)
    return fd


def remove_if_empty(name: str, parent_fd: int, disk: Disk) -> None:
    """Remove an empty level durably; one that another backup still uses stays, as does oddity."""
    try:
        os.rmdir(name, dir_fd=parent_fd)
    except OSError as error:
        if error.errno in _NOT_EMPTY:
            return
        if error.errno not in ABSENT:
            raise
    # Also when it was gone already: whoever removed it may have died before this fsync.
    disk.fsync(parent_fd)
