# SPDX-License-Identifier: Apache-2.0
"""The three calls of manila-data: check, write down, grant, have it done as root, give back.

Marks, quotas, the statuses of shares and backups are Manila's own; nothing here touches them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from oslo_log import log
from oslo_utils import uuidutils

from manila_backup.adapter.access import Access
from manila_backup.adapter.cloud import BUSY_BACKUP, BUSY_SHARE, CallKind, Cloud, CloudBackup
from manila_backup.adapter.cloud import CloudShare as Share
from manila_backup.adapter.journal import Entry, Journal
from manila_backup.adapter.messages import Job, JobKind, Outcome
from manila_backup.adapter.options import Settings
from manila_backup.adapter.process import Limits, run_job
from manila_backup.adapter.reaper import Reaper
from manila_backup.exception import (
    InvalidBackup,
    InvalidShare,
    ManilaBackupError,
    PermanentError,
)
from manila_backup.types import AccessLevel, BackupDescription, BackupRef, Mount

LOG = log.getLogger(__name__)

_LEVEL = {CallKind.BACKUP: AccessLevel.RO, CallKind.RESTORE: AccessLevel.RW}
_JOB = {
    CallKind.BACKUP: JobKind.BACKUP,
    CallKind.RESTORE: JobKind.RESTORE,
    CallKind.DELETE: JobKind.DELETE,
}
_TOLD_PERCENT = 10


class Calls:
    """Shared by all threads of manila-data. Cheap to make; nothing is touched before the first
    call, since manila-data makes its driver before it forks.

    :param addresses: of this node, as shares see it.
    :param access_timeout_s: how long a share's service may take to apply a rule.
    """

    def __init__(
        self, settings: Settings, cloud: Cloud, addresses: Sequence[str], access_timeout_s: float
    ) -> None:
        self._settings = settings
        self._cloud = cloud
        self._addresses = tuple(addresses)
        self._access = Access(cloud, timeout_s=access_timeout_s)
        self._journal = Journal(settings.state_directory)
        self._reaper = Reaper(self._journal, cloud, self._access, self._clean)
        copies = threading.BoundedSemaphore(settings.max_operations)
        deletes = threading.BoundedSemaphore(settings.max_operations)
        self._rooms = {
            CallKind.BACKUP: copies,
            CallKind.RESTORE: copies,
            CallKind.DELETE: deletes,
        }

    def start(self) -> None:
        """Look for what is left of an earlier process; idempotent, and called by each call.

        :raises ManilaBackupError: state_directory cannot be used.
        """
        self._reaper.start()

    def backup(self, backup_id: str, share_id: str, *, as_admin: bool) -> None:
        """Back the share up; durable and published when it returns.

        :raises ManilaBackupError: it could not be done, and nothing of it is published.
        """
        with self._working(CallKind.BACKUP, backup_id, share_id) as entry:
            backup, share = self._looked_up(entry, as_admin)
            granted = self._granted(entry, share)
            job = replace(
                self._job(entry),
                share=self._mount(share),
                description=_describe(backup, share, entry.ref),
            )
            self._run(granted, job)

    def restore(self, backup_id: str, share_id: str, *, as_admin: bool) -> None:
        """Make the share equal to the backup.

        :raises ManilaBackupError: it could not be done; the share may hold some of both.
        """
        with self._working(CallKind.RESTORE, backup_id, share_id) as entry:
            _, share = self._looked_up(entry, as_admin)
            granted = self._granted(entry, share)
            self._run(granted, replace(self._job(entry), share=self._mount(share)))

    def delete(self, backup_id: str, share_id: str) -> None:
        """Remove the backup from the store: no longer published first, durably, then its data.
        Idempotent.

        :raises ManilaBackupError: some of it may be left; to be called again.
        """
        with self._working(CallKind.DELETE, backup_id, share_id) as entry:
            # A second one for the same row would give its quota back twice.
            self._busy_backup(entry)
            self._run(entry, self._job(entry))

    # --- steps --------------------------------------------------------------------------------

    @contextmanager
    def _working(self, kind: CallKind, backup_id: str, share_id: str) -> Iterator[Entry]:
        """Written down from the first moment, also while it waits for its turn; in the block it is
        the only one on its share and backup.
        """
        self.start()
        backup = self._cloud.backup(backup_id)
        if backup is None:
            raise InvalidBackup(reason=f"{backup_id} is gone")
        entry = Entry(
            operation_id=uuidutils.generate_uuid(),
            kind=kind,
            backup_id=backup_id,
            project_id=backup.project_id,
            share_id=share_id,
            # Of two attempts, were a request ever delivered twice, the later has the higher epoch.
            epoch=time.time_ns(),
        )
        LOG.info("%s", _line(entry, "begins"))
        self._reaper.begin(entry)
        try:
            with self._rooms[kind]:
                yield entry
            entry = self._ended(entry, succeeded=True, reason=None)
        except BaseException as error:
            LOG.warning("%s: %s", _line(entry, "failed"), error)
            self._reaper.end(self._failed(entry, str(error)))
            raise
        self._reaper.end(entry)
        LOG.info("%s", _line(entry, "done"))

    def _failed(self, entry: Entry, reason: str) -> Entry:
        try:
            return self._ended(entry, succeeded=False, reason=reason)
        except (OSError, ManilaBackupError) as error:
            LOG.warning("Operation %s: %s", entry.operation_id, error)
            return replace(entry, mounted=True, succeeded=False, reason=reason)

    def _ended(self, entry: Entry, *, succeeded: bool, reason: str | None) -> Entry:
        """Written down before anybody is told: what is not known to have succeeded is undone."""
        entry = replace(
            self._journal.read(entry),
            succeeded=succeeded,
            reason=reason,
            version=self._version(entry.backup_id),
        )
        self._journal.write(entry)
        return entry

    def _looked_up(self, entry: Entry, as_admin: bool) -> tuple[CloudBackup, Share]:
        """Both rows as they are now. Manila's API lets a restore name any share that its caller
        sees, other projects' public ones included.
        """
        backup, share = self._busy_backup(entry), self._cloud.share(entry.share_id)
        if share is None or share.status != BUSY_SHARE[entry.kind]:
            status = share.status if share else "gone"
            reason = f"{entry.share_id} is {status}, not {BUSY_SHARE[entry.kind]}"
            raise InvalidShare(reason=reason)
        if share.project_id != backup.project_id and not as_admin:
            raise InvalidShare(reason=f"{share.id} belongs to another project than the backup")
        if share.proto.upper() != "NFS":
            raise InvalidShare(reason=f"{share.id} is a {share.proto} share; only NFS is supported")
        if not self._addresses:
            raise PermanentError(reason="option data_node_access_ips has no address")
        return backup, share

    def _busy_backup(self, entry: Entry) -> CloudBackup:
        backup = self._cloud.backup(entry.backup_id)
        if backup is None or backup.status != BUSY_BACKUP[entry.kind]:
            status = backup.status if backup else "gone"
            reason = f"{entry.backup_id} is {status}, not {BUSY_BACKUP[entry.kind]}"
            raise InvalidBackup(reason=reason)
        return backup

    def _version(self, backup_id: str) -> str | None:
        try:
            backup = self._cloud.backup(backup_id)
        except Exception as error:  # noqa: BLE001 - it must not hide how the call ended
            LOG.warning("The row of backup %s cannot be read: %s", backup_id, error)
            return "unknown"
        return backup.version if backup else None

    def _granted(self, entry: Entry, share: Share) -> Entry:
        """Rules of ours for the node's addresses, each written down before it is made."""
        level = _LEVEL[entry.kind]
        for address in self._access.missing(share, self._addresses, level):
            rule_id = uuidutils.generate_uuid()
            entry = replace(entry, rules=(*entry.rules, rule_id))
            self._journal.write(entry)
            self._access.grant(share, rule_id, address, level)
        return entry

    def _run(self, entry: Entry, job: Job) -> None:
        self._journal.write(replace(entry, mounted=True))
        told = _Told(entry)
        outcome = run_job(self._settings.command, job, self._limits(), told.percent)
        if outcome.clean and (outcome.error is None or entry.kind is not CallKind.BACKUP):
            self._journal.write(entry)
        if outcome.error is not None:
            raise PermanentError(reason=outcome.error)
        LOG.info("%s: %s", _line(entry, "counted"), outcome.counters)

    def _clean(self, entry: Entry) -> Outcome:
        job = replace(self._job(entry), kind=JobKind.CLEAN, ref=entry.ref, discard=entry.discards)
        return run_job(self._settings.command, job, self._limits())

    def _limits(self) -> Limits:
        return Limits(
            total_s=self._settings.operation_timeout_s, silence_s=self._settings.silence_timeout_s
        )

    def _job(self, entry: Entry) -> Job:
        return Job(
            kind=_JOB[entry.kind],
            operation_id=entry.operation_id,
            directory=self._settings.work_directory,
            store=self._settings.store,
            ref=entry.ref,
            parallelism=self._settings.parallelism,
        )

    def _mount(self, share: Share) -> Mount:
        if not share.exports:
            raise InvalidShare(reason=f"{share.id} has no export location")
        export = share.exports[0]
        proto = self._settings.share_mount_proto
        if proto == "bind":
            export = export.partition(":")[2]
        return Mount(proto=proto, export=export, options=self._settings.share_mount_options)


class _Told:
    """Says in the log how far it is; Manila's row says 99 all the time."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._next = _TOLD_PERCENT

    def percent(self, percent: int) -> None:
        if percent >= self._next:
            self._next = percent - percent % _TOLD_PERCENT + _TOLD_PERCENT
            LOG.info("%s: %d%%", _line(self._entry, "goes on"), percent)


def _line(entry: Entry, what: str) -> str:
    return (
        f"{entry.kind} of backup {entry.backup_id}, share {entry.share_id} "
        f"(operation {entry.operation_id}) {what}"
    )


def _describe(backup: CloudBackup, share: Share, ref: BackupRef) -> BackupDescription:
    return BackupDescription(
        ref=ref,
        share_id=share.id,
        share_name=share.name,
        share_proto=share.proto,
        size_gib=backup.size_gib,
        user_id=backup.user_id,
        name=backup.name,
        description=backup.description,
        availability_zone=backup.availability_zone,
        created_at=backup.created_at,
    )
