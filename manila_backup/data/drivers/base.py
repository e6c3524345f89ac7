# SPDX-License-Identifier: Apache-2.0
"""The contract of a backup driver: how a mounted share becomes a stored backup and back.

Every sentence here has a test in ``tests/data/drivers/test_driver_contract.py``, which runs over
all drivers. Drivers run in a worker process of their own, hold no database session and know
nothing of shares, grants or quotas. They are found by the entry point group
``manila_backup.drivers`` and constructed with the path of the mounted backup share and, as the
keyword ``mount_id``, the mount that it must be on. A ref whose parts cannot name directories is
refused with :class:`~manila_backup.exception.InvalidBackup` before any path is touched; a tree or
store that is not the mount it should be, with ``MountFailed``. A store that cannot be read (EIO,
ESTALE) is ``CopyFailed``, never taken for an empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from manila_backup.types import (
    BackupDescription,
    BackupRef,
    Counters,
    MountedTree,
    Remarks,
    RestoreMode,
    StoredBackup,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """``done`` of ``total`` in ``unit`` ("bytes" or "entries"). ``done`` never falls, and reaches
    ``total``, which may grow while walking, only when all is done.
    """

    done: int
    total: int
    unit: str
    counters: Counters


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """How a driver talks to the operation it works for.

    ``progress`` may be called as often as the driver likes; it is cheap and limits itself.
    ``cancelled`` is asked at least once a second of work and once per file; when it answers True
    the driver stops with :class:`~manila_backup.exception.Cancelled`. ``about_to_publish`` is
    called once, when all data is durable and before the manifest is created; if it raises,
    nothing is published. ``about_to_write`` is called once in a restore, when everything that can
    be checked has been checked and before the first change of the target.
    """

    progress: Callable[[Progress], None]
    cancelled: Callable[[], bool]
    about_to_publish: Callable[[], None] = lambda: None
    about_to_write: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a driver can do, so that callers ask instead of trying."""

    restore_to_target: bool = True
    merge: bool = False
    incremental: bool = False
    checksums: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupResult:
    """What was published, and what of the share is not in it as it was."""

    stored: StoredBackup
    remarks: Remarks


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreResult:
    """``remarks``: what of the target is not as in the backup, or may not be, since others changed
    it during the restore.
    """

    counters: Counters
    remarks: Remarks


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """``problems`` (printable, at most 1000) each name the manifest, the catalog or a path and say
    what is wrong; empty means that every byte and entry is as stored.
    """

    counters: Counters
    problems: tuple[str, ...] = field(default=())


class BackupDriver(Protocol):
    """See the module's docstring. A driver instance serves one call at a time. Made by
    ``driver(root, mount_id=..., parallelism=...)`` of its entry point."""

    capabilities: Capabilities

    def backup(
        self,
        description: BackupDescription,
        source: MountedTree,
        parent: BackupRef | None,
        control: Control,
    ) -> BackupResult:
        """Store the tree under ``description.ref``; durable and published when it returns.

        Until then ``inspect`` does not find it. A ref is written once: if its directory exists
        already, the call fails and changes nothing. On any error nothing is published; what was
        written stays for ``discard``. Files that vanish or change meanwhile are retried once and
        counted, never fatal.
        :raises NotEnoughSpace: before anything is copied, when the store has less free space than
            the source uses.
        :raises CopyFailed: a file could not be read or written; names the path.
        :raises Cancelled:
        """
        ...

    def inspect(self, ref: BackupRef) -> StoredBackup:
        """Read and check the manifest only. Cheap.

        :raises BackupNotStored: no manifest, a damaged one, or that of another backup.
        """
        ...

    def restore(
        self, ref: BackupRef, target: MountedTree, mode: RestoreMode, control: Control
    ) -> RestoreResult:
        """Make the target equal to the backup (EXACT), or lay the backup over it (MERGE).

        The manifest, the whole catalog, the presence and size of each file in the store, and the
        target's free space are checked before the first change of the target. Content is verified
        while it is written; a mismatch names the path and ends the restore. The root's own
        metadata is restored too. Repeatable: a second run over an interrupted one completes it.
        :raises BackupNotStored: as ``inspect``.
        :raises BackupDamaged: catalog or data are not what the manifest says.
        :raises NotEnoughSpace: nothing was touched.
        :raises CopyFailed:
        :raises Cancelled:
        """
        ...

    def delete(self, ref: BackupRef, control: Control) -> None:
        """Remove the backup with all its epochs: the manifests first, durably, then the data.

        Idempotent: what is not there is deleted. Interrupted, it can be called again.
        :raises CopyFailed: something could not be removed; names the path.
        """
        ...

    def discard(self, ref: BackupRef, control: Control) -> None:
        """Remove this one epoch's directory, published or not. Idempotent."""
        ...

    def verify(self, ref: BackupRef, control: Control) -> VerifyResult:
        """Read everything back and compare it with manifest and catalog; changes nothing.

        Damage is reported, not raised.
        """
        ...

    def scan(self) -> Iterator[StoredBackup]:
        """All published backups in the store, one per backup (the highest valid epoch), in no
        particular order. Damaged and foreign directories are passed over; see ``orphans``.
        """
        ...

    def orphans(self) -> Iterator[tuple[str, str]]:
        """Directories in the store that hold no published backup, and oddities in their place:
        (printable path relative to the root, why). Epochs of running operations are among them:
        the caller knows which. Nothing odd is followed or opened.
        """
        ...
