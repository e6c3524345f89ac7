# SPDX-License-Identifier: Apache-2.0
"""Values that cross the borders between packages. Frozen, typed, without behaviour of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class AccessLevel(StrEnum):
    RO = "ro"
    RW = "rw"


class RestoreMode(StrEnum):
    """EXACT removes from the share what the backup lacks; MERGE leaves it."""

    EXACT = "exact"
    MERGE = "merge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share as its provider describes it at one moment.

    ``status`` and ``task_state`` are the provider's own words; overlays of ours are not in them.
    """

    id: str
    project_id: str
    name: str | None
    status: str
    task_state: str | None = None
    share_proto: str = "NFS"
    size_gib: int
    is_public: bool = False
    is_soft_deleted: bool = False
    has_snapshots: bool = False
    has_replicas: bool = False
    availability_zone: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One way to reach a share's tree.

    ``proto`` is ``nfs``, ``bind`` (a directory of this machine, bind-mounted; needs root) or
    ``path`` (a directory of this machine, used where it is). ``export`` is passed to mount(8) as
    one argument, whatever characters it has.
    """

    proto: str
    export: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Access of one address to one share.

    ``ours`` is False when a rule of the tenant was reused; such a grant is never revoked.
    ``reference`` is the provider's id of the rule, if it has one.
    """

    share_id: str
    address: str
    level: AccessLevel
    ours: bool
    reference: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedTree:
    """A mounted share: the directory and the id of the mount it must be on.

    ``mount_id`` is what ``/proc/self/fdinfo`` reports for the directory; whoever opens ``path``
    checks it, so that an unmounted mount point is never mistaken for the share.
    """

    path: str
    mount_id: int
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What an operation has done so far. All counts, ``bytes`` of content actually written."""

    files: int = 0
    directories: int = 0
    others: int = 0
    bytes: int = 0
    skipped: int = 0
    changed: int = 0
    losses: int = 0
    warnings: int = 0
    deleted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Remarks:
    """What is behind the counters of the same names: printable, the first 100 of each.

    ``changed`` and ``skipped`` are paths, ``losses`` are "path: what".
    """

    changed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """How much may work at one tree: ``processes`` at once, each with up to ``threads`` threads, as
    many as the latency that is seen makes worth it. ``rate_path``: content passes no faster than
    the :class:`~manila_backup.data.copy.rate.SharedRate` there allows."""

    processes: int = 1
    threads: int = 1
    rate_path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupRef:
    """Where a backup's data lies, or will lie: ``<root>/<project_id>/<backup_id>/<epoch>/``."""

    project_id: str
    backup_id: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupDescription:
    """What the manifest tells about a backup, so that a row can be made from the store alone."""

    ref: BackupRef
    share_id: str
    share_name: str | None
    share_proto: str
    size_gib: int
    user_id: str | None
    name: str | None
    description: str | None
    availability_zone: str | None
    created_at: str
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBackup:
    """A published backup as its manifest describes it.

    ``stored_bytes`` is the content kept (holes excluded); ``logical_bytes`` the sum of file sizes.
    """

    description: BackupDescription
    driver: str
    counters: Counters
    stored_bytes: int
    logical_bytes: int
    format_version: int
