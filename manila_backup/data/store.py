# SPDX-License-Identifier: Apache-2.0
"""Single driver calls on the backup share, outside any operation: look, verify, clean up."""

from __future__ import annotations

import threading
from typing import Any

from manila_backup import exception
from manila_backup.data import worker_process
from manila_backup.data.mounts import MountManager
from manila_backup.data.node import NodeSettings
from manila_backup.data.task import Task
from manila_backup.data.worker_process import Hooks
from manila_backup.db.backups import Backup

UNCONTROLLED = frozenset({"inspect", "scan", "orphans"})
"""Driver methods that take no ``Control``."""

READING = frozenset({"inspect", "scan", "orphans", "verify", "restore"})
"""Driver methods that need the backup share read-only."""


def backup_share_name(*, read_only: bool) -> str:
    """Name of the mount of the backup share that all of a process share."""
    return "backup-share-ro" if read_only else "backup-share-rw"


def call_store(
    mounts: MountManager,
    settings: NodeSettings,
    method: str,
    *arguments: Any,
    hooks: Hooks | None = None,
    stop: threading.Event | None = None,
) -> Any:
    """Mount the backup share, run one driver method in a worker, unmount.

    :raises ManilaBackupError: what the driver or the mount raised.
    """
    read_only = method in READING
    name = backup_share_name(read_only=read_only)
    with mounts.mounted(settings.backup_mount, name, read_only=read_only) as root:
        task = Task(
            driver=settings.driver,
            root=root,
            parallelism=settings.parallelism,
            method=method,
            arguments=arguments,
            controlled=method not in UNCONTROLLED,
        )
        return worker_process.run(task, stop or threading.Event(), hooks)


def manifest_exists(mounts: MountManager, settings: NodeSettings, backup: Backup) -> bool:
    """Whether the store holds a valid manifest for a backup's published epoch."""
    ref = backup.published_ref
    if ref is None:
        return False
    try:
        call_store(mounts, settings, "inspect", ref)
    except exception.BackupDamaged:
        return False
    return True
