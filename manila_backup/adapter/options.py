# SPDX-License-Identifier: Apache-2.0
"""Options of the adapter: group ``[manila_backup]`` of manila.conf.

Not Manila's ``backup_mount_*``: these are templates that are split at spaces, with ``-o`` in the
options; here an export is one argument, whatever it contains.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from oslo_config import cfg

from manila_backup.types import Mount, Parallelism

GROUP = "manila_backup"

COMMAND = "manila-backup-adapter"
"""The program as rootwrap's filter names it."""

OPTS = [
    cfg.StrOpt(
        "backup_mount_export",
        help="Export of the backup share, for example 10.0.0.5:/backups. Required. Not one that "
        "Manila's own backup driver has used.",
    ),
    cfg.StrOpt(
        "backup_mount_proto",
        default="nfs",
        choices=["nfs", "bind"],
        help="How the backup share is mounted: nfs; bind, a directory of this machine.",
    ),
    cfg.ListOpt(
        "backup_mount_options",
        default=[],
        help="More mount options for the backup share. nosuid, nodev and noexec are always set.",
    ),
    cfg.StrOpt(
        "share_mount_proto",
        default="nfs",
        choices=["nfs", "bind"],
        help="How shares are mounted: nfs; bind, where the exports of shares are directories of "
        "this machine (HOST:DIRECTORY), for tests on one machine.",
    ),
    cfg.ListOpt(
        "share_mount_options",
        default=[],
        help="More mount options for shares. nosuid, nodev and noexec are always set, and ro for "
        "a backup.",
    ),
    cfg.StrOpt(
        "work_directory",
        default="/var/lib/manila-backup/adapter",
        help="Directory, private to root on this node, in which shares are mounted and running "
        "workers are written down. Made with mode 0700.",
    ),
    cfg.StrOpt(
        "state_directory",
        default="$state_path/manila-backup",
        help="Directory, private to manila-data on this node, in which what is in work is written "
        "down, so that it can be undone after a crash. It must outlive a restart of the service "
        "(a volume, where the service runs in a container).",
    ),
    cfg.StrOpt(
        "root_helper",
        help=f"Command before {COMMAND} that runs it as root. Without a value: none where "
        "manila-data runs as root, else sudo manila-rootwrap with Manila's rootwrap_config.",
    ),
    cfg.IntOpt(
        "max_operations",
        default=4,
        min=1,
        help="How many backups and restores together, and how many deletes besides, this "
        "manila-data works on at the same time.",
    ),
    cfg.IntOpt(
        "copy_processes",
        default=2,
        min=1,
        help="How many processes work at one backup or restore, once it is large enough.",
    ),
    cfg.IntOpt(
        "copy_threads",
        default=32,
        min=1,
        help="How many threads each of these processes has at most.",
    ),
    cfg.FloatOpt(
        "operation_timeout_s",
        default=604800.0,
        min=1.0,
        help="Seconds after which a backup, restore or delete is ended as failed.",
    ),
    cfg.FloatOpt(
        "silence_timeout_s",
        default=300.0,
        min=30.0,
        help="Seconds without a sign of life of the working process after which it is ended and "
        "the operation fails.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options, read once. ``command`` is the argv of the process that works as root."""

    store: Mount
    share_mount_proto: str
    share_mount_options: tuple[str, ...]
    work_directory: str
    state_directory: str
    command: tuple[str, ...]
    max_operations: int
    parallelism: Parallelism
    operation_timeout_s: float
    silence_timeout_s: float

    @classmethod
    def from_conf(cls, group: cfg.ConfigOpts.GroupAttr, rootwrap_config: str) -> Settings:
        """:raises ValueError: an option is missing; the message names it."""
        if not group.backup_mount_export:
            raise ValueError(f"option backup_mount_export is required in group [{GROUP}]")
        return cls(
            store=Mount(
                proto=group.backup_mount_proto,
                export=group.backup_mount_export,
                options=tuple(group.backup_mount_options),
            ),
            share_mount_proto=group.share_mount_proto,
            share_mount_options=tuple(group.share_mount_options),
            work_directory=group.work_directory,
            state_directory=group.state_directory,
            command=_command(group.root_helper, rootwrap_config),
            max_operations=group.max_operations,
            parallelism=Parallelism(processes=group.copy_processes, threads=group.copy_threads),
            operation_timeout_s=group.operation_timeout_s,
            silence_timeout_s=group.silence_timeout_s,
        )


def _command(root_helper: str | None, rootwrap_config: str) -> tuple[str, ...]:
    if root_helper:
        return (*root_helper.split(), COMMAND)
    if os.geteuid() == 0:
        # -P: what lies in the service's working directory is not imported.
        return (sys.executable, "-P", "-m", "manila_backup.adapter.runner")
    return ("sudo", "manila-rootwrap", rootwrap_config, COMMAND)


def list_opts() -> list[tuple[str | None, list[cfg.Opt]]]:
    """For oslo-config-generator (namespace ``manila_backup.adapter``)."""
    return [(GROUP, list(OPTS))]
