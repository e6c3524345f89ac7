# SPDX-License-Identifier: Apache-2.0
"""Single driver calls on the backup share, outside any operation: look, verify, clean up."""

from __future__ import annotations

import threading
from typing import Any

from manila_backup import exception
from manila_backup.data import worker_process
from manila_backup.data.backup_share import BackupShare
from manila_backup.data.node import Node, NodeSettings
from manila_backup.data.task import Task
from manila_backup.data.worker_process import Hooks
from manila_backup.db.backups import Backup

UNCONTROLLED = frozenset({"inspect", "scan", "orphans"})
"""Driver methods that take no ``Control``."""

READING = frozenset({"inspect", "scan", "orphans", "verify", "restore"})
"""Driver methods that need the backup share read-only."""


def call_store(
    backup_share: BackupShare,
    settings: NodeSettings,
    method: str,
    *arguments: Any,
    hooks: Hooks | None = None,
    stop: threading.Event | None = None,
) -> Any:
    """Mount the backup share, run one driver method in a worker, unmount.

    :raises ManilaBackupError: what the driver, the mount or the share provider raised.
    """
    with backup_share.mounted(read_only=method in READING) as root:
        task = Task(
            driver=settings.driver,
            root=root,
            parallelism=settings.parallelism,
            method=method,
            arguments=arguments,
            controlled=method not in UNCONTROLLED,
        )
        return worker_process.run(task, stop or threading.Event(), hooks)


def manifest_exists(node: Node, backup: Backup) -> bool:
    """Whether the store holds a valid manifest for a backup's published epoch."""
    ref = backup.published_ref
    if ref is None:
        return False
    try:
        call_store(node.backup_share, node.settings, "inspect", ref)
    except exception.BackupDamaged:
        return False
    return True
