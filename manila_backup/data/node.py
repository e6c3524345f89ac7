# SPDX-License-Identifier: Apache-2.0
"""What a data node is made of: its settings and the parts that its jobs work with."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from oslo_config import cfg

from manila_backup.data.backup_share import BackupShare, ManagedShare
from manila_backup.data.copy.rate import SharedRate
from manila_backup.data.mounts import MountManager
from manila_backup.data.notifications import NoNotifications, Notifications
from manila_backup.db.engine import Database
from manila_backup.share.base import ShareProvider
from manila_backup.states import OperationKind
from manila_backup.types import Mount, Parallelism

BINARY = "manila-backup-data"
"""Name of the program."""

TOPIC = "manila-backup-data"
"""Message topic of data nodes; shown to administrators as a backup's ``topic``."""

OPTS = [
    cfg.HostAddressOpt(
        "host",
        default=socket.gethostname(),
        sample_default="<this machine's host name>",
        help="Name of this node. Operations remember the node that holds them by this name, so it "
        "must stay the same over restarts and be unique among the nodes.",
    ),
    cfg.StrOpt(
        "data_node_address",
        default="127.0.0.1",
        help="The address from which this node mounts shares; access is granted to it. Two nodes "
        "must not have the same address.",
    ),
    cfg.StrOpt(
        "availability_zone",
        default="nova",
        help="Availability zone that this node reports.",
    ),
    cfg.StrOpt(
        "mount_directory",
        default="/var/lib/manila-backup/mounts",
        help="Directory, private to this node (made with mode 0700), under which shares are "
        "mounted. What is found mounted there at start is taken for a leftover and unmounted.",
    ),
    cfg.StrOpt(
        "backup_driver",
        default="nfs",
        help="Name of the backup driver (entry point group manila_backup.drivers) for new "
        "backups. Its data is not encrypted and every data node can read it.",
    ),
    cfg.StrOpt(
        "backup_mount_export",
        help="Export of the backup share, for example 10.0.0.5:/backups. Data nodes require this "
        "or backup_share_id.",
    ),
    cfg.StrOpt(
        "backup_share_id",
        help="Id of a share of share_provider that is the backup share, instead of "
        "backup_mount_export and backup_mount_proto: where it is exported is asked for, and "
        "access to it is granted to each data node only while the node needs it. It must belong "
        "to a project of the operator.",
    ),
    cfg.StrOpt(
        "backup_mount_proto",
        default="nfs",
        choices=["nfs", "bind", "path"],
        help="How the backup share is mounted: nfs; bind, a directory of this machine through a "
        "bind mount (needs root); path, a directory used where it is, which must be private to "
        "the service.",
    ),
    cfg.ListOpt(
        "backup_mount_options",
        default=[],
        help="More mount options for the backup share. nosuid, nodev and noexec are always set.",
    ),
    cfg.IntOpt(
        "max_operations",
        default=2,
        min=1,
        help="How many operations this node works on at the same time.",
    ),
    *(
        cfg.IntOpt(
            f"max_{kind}_operations",
            min=0,
            help=f"How many of them may be {plural}; without a value as many as there are. With 0 "
            f"this node takes none, and another one has to.",
        )
        for kind, plural in (("create", "creates"), ("restore", "restores"), ("delete", "deletes"))
    ),
    cfg.BoolOpt(
        "own_availability_zone_only",
        default=False,
        help="Take only operations on shares of this node's availability zone. Shares of a zone "
        "without a node wait then for ever.",
    ),
    cfg.IntOpt(
        "copy_processes",
        default=2,
        min=1,
        help="How many processes work at one backup or restore, once it is large enough for them. "
        "More than there are processors for all operations of the node make no sense.",
    ),
    cfg.IntOpt(
        "copy_threads",
        default=32,
        min=1,
        help="How many threads each of these processes has at most. It takes so many only where "
        "the file servers answer slowly.",
    ),
    cfg.IntOpt(
        "max_bytes_per_s",
        default=0,
        min=0,
        mutable=True,
        help="How much content this node copies per second, all its backups and restores together; "
        "0 for as much as it can. Read again at SIGHUP, also for what is in work.",
    ),
    cfg.IntOpt(
        "max_attempts",
        default=3,
        min=1,
        help="How often an operation is tried, transient errors and deaths of the node included, "
        "before it fails for good.",
    ),
    cfg.FloatOpt(
        "retry_delay_s",
        default=10.0,
        min=0.0,
        help="Seconds before a failed attempt is repeated; doubled for each further one.",
    ),
    cfg.FloatOpt(
        "lease_s",
        default=60.0,
        min=1.0,
        help="Seconds without a sign of life after which other nodes may take an operation over. "
        "A node that cannot renew its lease stops its own work before that.",
    ),
    cfg.FloatOpt(
        "takeover_grace_s",
        default=30.0,
        min=0.0,
        help="Seconds to wait, when a restore of another node is taken over, between the end of "
        "that node's access to the share and the first write of this one: as long as the file "
        "server may go on with requests that it has accepted.",
    ),
    cfg.FloatOpt(
        "poll_interval_s",
        default=10.0,
        min=0.1,
        help="Seconds between looks into the queue; a look heals a lost wake-up message.",
    ),
    cfg.FloatOpt(
        "reaper_interval_s",
        default=60.0,
        min=0.1,
        help="Seconds between attempts to undo what ended operations left behind (access rules, "
        "marks, mounts, data of failed attempts), and to set again the marks of running ones.",
    ),
    cfg.BoolOpt(
        "use_bus",
        default=True,
        help="Wake data nodes over the message bus that transport_url names. Without it nodes find "
        "work when they poll.",
    ),
    cfg.BoolOpt(
        "refuse_shares_with_snapshots",
        default=True,
        help="Refuse to back up a share that has snapshots, as Manila does: the API with 400, and "
        "the data node when it looks again.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """The options above, read once."""

    host: str
    address: str
    availability_zone: str
    driver: str
    backup_mount: Mount | ManagedShare
    max_operations: int
    max_by_kind: Mapping[OperationKind, int | None]
    own_zone_only: bool
    parallelism: Parallelism
    max_attempts: int
    retry_delay_s: float
    lease_s: float
    takeover_grace_s: float
    poll_interval_s: float
    reaper_interval_s: float
    refuse_shares_with_snapshots: bool

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> NodeSettings:
        """:raises ValueError: an option is missing; the message names it."""
        return cls(
            host=conf.host,
            address=conf.data_node_address,
            availability_zone=conf.availability_zone,
            driver=conf.backup_driver,
            backup_mount=_backup_mount(conf),
            max_operations=conf.max_operations,
            max_by_kind={
                OperationKind.CREATE: conf.max_create_operations,
                OperationKind.RESTORE: conf.max_restore_operations,
                OperationKind.DELETE: conf.max_delete_operations,
            },
            own_zone_only=conf.own_availability_zone_only,
            parallelism=Parallelism(processes=conf.copy_processes, threads=conf.copy_threads),
            max_attempts=conf.max_attempts,
            retry_delay_s=conf.retry_delay_s,
            lease_s=conf.lease_s,
            takeover_grace_s=conf.takeover_grace_s,
            poll_interval_s=conf.poll_interval_s,
            reaper_interval_s=conf.reaper_interval_s,
            refuse_shares_with_snapshots=conf.refuse_shares_with_snapshots,
        )


def _backup_mount(conf: cfg.ConfigOpts) -> Mount | ManagedShare:
    options = tuple(conf.backup_mount_options)
    if conf.backup_share_id and conf.backup_mount_export:
        raise ValueError("options backup_mount_export and backup_share_id exclude each other")
    if conf.backup_share_id:
        return ManagedShare(share_id=conf.backup_share_id, options=options)
    if not conf.backup_mount_export:
        raise ValueError(
            "option backup_mount_export (or backup_share_id) is required on a data node"
        )
    return Mount(proto=conf.backup_mount_proto, export=conf.backup_mount_export, options=options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The parts; shared by all threads of the process."""

    settings: NodeSettings
    database: Database
    provider: ShareProvider
    mounts: MountManager
    rate: SharedRate
    notifications: Notifications = field(default_factory=NoNotifications)

    @property
    def backup_share(self) -> BackupShare:
        return BackupShare(
            self.settings.backup_mount,
            provider=self.provider,
            address=self.settings.address,
            mounts=self.mounts,
        )

    @property
    def parallelism(self) -> Parallelism:
        """For one operation."""
        return replace(self.settings.parallelism, rate_path=self.rate.path)
