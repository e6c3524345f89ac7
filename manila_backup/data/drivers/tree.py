# SPDX-License-Identifier: Apache-2.0
"""The driver ``nfs``: each backup a browsable tree with a catalog, as ``doc/format.md`` says.

The store is any mounted directory. Nothing is kept between calls, nothing in it is renamed, and of
what lies in it only the manifests of the right directories are believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from manila_backup.data.catalog.manifest import Manifest
from manila_backup.data.copy.measure import Measure, measure_tree
from manila_backup.data.copy.sysio import SYSTEM, Files
from manila_backup.data.drivers import listing, restoring, verification
from manila_backup.data.drivers.base import (
    BackupResult,
    Capabilities,
    Control,
    RestoreResult,
    VerifyResult,
)
from manila_backup.data.drivers.durable import DISK, Disk
from manila_backup.data.drivers.layout import checked, created_levels, failing, label
from manila_backup.data.drivers.meter import Meter
from manila_backup.data.drivers.mounted import is_within, opened_root, opened_tree
from manila_backup.data.drivers.removal import Removal
from manila_backup.data.drivers.saving import NewEpoch, check_description
from manila_backup.data.drivers.space import Room, require
from manila_backup.data.drivers.stored import found_epoch, opened_stored, read_manifest
from manila_backup.exception import Cancelled, InvalidBackup, InvalidShare
from manila_backup.types import (
    BackupDescription,
    BackupRef,
    MountedTree,
    Parallelism,
    RestoreMode,
    StoredBackup,
)

ONE = Parallelism()

_CATALOG_ENTRY_BYTES = 256
_MARGIN_BYTES = 64 << 10
_NOTHING = Room(bytes=0, inodes=0)


class TreeDriver:
    """See :class:`~manila_backup.data.drivers.base.BackupDriver`.

    ``root`` is the mounted backup share. ``mount_id``, where the caller knows it, is checked on
    each call, so that nothing is written under an empty mount point. ``files`` and ``disk`` are
    the ways to the file system.
    """

    def __init__(
        self,
        root: str,
        *,
        mount_id: int | None = None,
        parallelism: Parallelism = ONE,
        files: Files = SYSTEM,
        disk: Disk = DISK,
    ) -> None:
        self.capabilities = Capabilities(restore_to_target=True, merge=True, checksums=True)
        self._root_path = root
        self._mount_id = mount_id
        self._parallelism = parallelism
        self._files = files
        self._disk = disk

    def backup(
        self,
        description: BackupDescription,
        source: MountedTree,
        parent: BackupRef | None,
        control: Control,
    ) -> BackupResult:
        """As the contract says. ``parent`` must be None: there are no increments yet."""
        ref = checked(description.ref)
        if parent is not None:
            raise InvalidBackup(reason="This driver makes no incremental backups.")
        check_description(description)
        with opened_tree(source) as source_fd, self._opened_root() as root_fd:
            _refuse_nested(source_fd, root_fd)
            measure = measure_tree(source_fd, cancelled=control.cancelled, files=self._files)
            require(root_fd, "the backup share", _needed(measure), _NOTHING)
            meter = Meter(control, content_bytes=measure.bytes, entries=measure.entries)
            with self._new_epoch(root_fd, ref) as epoch:
                return self._save(epoch, description, source_fd, meter, control)

    def _save(
        self,
        epoch: NewEpoch,
        description: BackupDescription,
        source_fd: int,
        meter: Meter,
        control: Control,
    ) -> BackupResult:
        result, catalog = epoch.copy(
            source_fd, self._parallelism, progress=meter, cancelled=control.cancelled
        )
        manifest = Manifest(
            description=description,
            catalog=catalog,
            counters=result.counters,
            stored_bytes=result.counters.bytes,
            logical_bytes=result.logical_bytes,
        )
        _stop_if(control.cancelled)
        epoch.make_durable()
        _stop_if(control.cancelled)
        meter.finish(result.counters)
        control.about_to_publish()
        epoch.publish(manifest)
        return BackupResult(stored=manifest.stored(), remarks=result.remarks)

    def inspect(self, ref: BackupRef) -> StoredBackup:
        """As the contract says."""
        checked(ref)
        with self._opened_root() as root_fd, found_epoch(root_fd, ref) as epoch_fd:
            return read_manifest(epoch_fd, ref).stored()

    def restore(
        self, ref: BackupRef, target: MountedTree, mode: RestoreMode, control: Control
    ) -> RestoreResult:
        """As the contract says; durable in the target when it returns."""
        checked(ref)
        with (
            self._opened_root() as root_fd,
            opened_tree(target) as target_fd,
            opened_stored(root_fd, ref) as stored,
        ):
            _refuse_nested(target_fd, root_fd)
            restoring.require_writable(target, target_fd)
            restoration = restoring.Restoration(
                stored,
                target_fd,
                mode,
                control,
                parallelism=self._parallelism,
                files=self._files,
                disk=self._disk,
            )
            restoration.check()
            control.about_to_write()
            return restoration.write()

    def delete(self, ref: BackupRef, control: Control) -> None:
        """As the contract says."""
        checked(ref)
        with self._opened_root() as root_fd:
            Removal(root_fd, control.cancelled, self._files, self._disk).remove_backup(ref)

    def discard(self, ref: BackupRef, control: Control) -> None:
        """As the contract says."""
        checked(ref)
        with self._opened_root() as root_fd:
            Removal(root_fd, control.cancelled, self._files, self._disk).remove_epoch(ref)

    def verify(self, ref: BackupRef, control: Control) -> VerifyResult:
        """As the contract says."""
        checked(ref)
        with self._opened_root() as root_fd:
            return verification.verify_stored(root_fd, ref, control, self._files)

    def scan(self) -> Iterator[StoredBackup]:
        """As the contract says."""
        with self._opened_root() as root_fd:
            yield from listing.published(root_fd)

    def orphans(self) -> Iterator[listing.Orphan]:
        """As the contract says."""
        with self._opened_root() as root_fd:
            yield from listing.unpublished(root_fd)

    @contextmanager
    def _opened_root(self) -> Iterator[int]:
        with opened_root(self._root_path, self._mount_id) as fd:
            yield fd

    @contextmanager
    def _new_epoch(self, root_fd: int, ref: BackupRef) -> Iterator[NewEpoch]:
        with ExitStack() as stack:
            with failing(label(ref)):
                levels = stack.enter_context(created_levels(root_fd, ref))
            yield NewEpoch(levels, ref, self._files, self._disk)


def _needed(measure: Measure) -> Room:
    """Room for the tree with its catalog and manifest, and a little that grows meanwhile."""
    return Room(
        bytes=measure.bytes
        + measure.bytes // 100
        + _CATALOG_ENTRY_BYTES * measure.entries
        + _MARGIN_BYTES,
        inodes=measure.entries + 8,
    )


def _refuse_nested(tree_fd: int, root_fd: int) -> None:
    """A store within the share would be copied into itself; a share within the store overwrites it.

    Only an operator's mistake can bring this about, and it would cost the backups.
    """
    if is_within(root_fd, tree_fd) or is_within(tree_fd, root_fd):
        raise InvalidShare(reason="the share and the backup share lie within each other.")


def _stop_if(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled
