# SPDX-License-Identifier: Apache-2.0
"""The process that works for manila-data as root: ``python -m manila_backup.adapter.runner``.

It reads one job from standard input, mounts what the job needs, has a worker process do it,
unmounts, and says how it ended. The end of standard input, which comes with the end of manila-data
however that dies, and SIGTERM make it stop and unmount at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from oslo_log import log

from manila_backup.adapter.messages import ALIVE, Job, JobKind, Outcome, progress_line
from manila_backup.adapter.record import Record, check_id, held
from manila_backup.data import worker_process
from manila_backup.data.drivers import listing
from manila_backup.data.drivers.base import BackupResult, Progress, RestoreResult
from manila_backup.data.drivers.layout import checked
from manila_backup.data.drivers.mounted import opened_root
from manila_backup.data.mounts import MountManager
from manila_backup.data.notice import notice
from manila_backup.data.task import Task
from manila_backup.data.worker_process import Hooks
from manila_backup.exception import (
    BackupNotStored,
    InvalidBackup,
    ManilaBackupError,
    TransientError,
)
from manila_backup.states import OperationKind
from manila_backup.types import BackupRef, Counters, Mount, MountedTree, Remarks, RestoreMode

LOG = log.getLogger(__name__)

DRIVER = "nfs"
ALIVE_INTERVAL_S = 10.0
_LINE_LIMIT_BYTES = 4 << 20


class Parent:
    """manila-data at the other ends of standard input and output."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self.stop = threading.Event()
        self._source = source
        self._sink = sink
        self._lock = threading.Lock()
        self._percent = -1

    def job(self) -> Job:
        """:raises ValueError: what it said first is no job."""
        return Job.load(self._source.readline(_LINE_LIMIT_BYTES))

    def attend(self) -> None:
        """From now on notice its end, and tell it that we live."""
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._live, daemon=True).start()

    def say(self, line: bytes) -> None:
        try:
            with self._lock:
                self._sink.write(line)
                self._sink.flush()
        except (OSError, ValueError):
            self.stop.set()

    def progress(self, progress: Progress) -> None:
        percent = progress.done * 100 // progress.total if progress.total else 0
        if percent != self._percent:
            self._percent = percent
            self.say(progress_line(percent))

    def _listen(self) -> None:
        # Not through the buffer: at the interpreter's end nobody may wait for its lock.
        while os.read(self._source.fileno(), 4096):
            pass
        self.stop.set()

    def _live(self) -> None:
        while not self.stop.wait(ALIVE_INTERVAL_S):
            self.say(ALIVE)


class Work:
    """One job. What it mounts has names that the operation's id gives, so that they are found
    again.
    """

    def __init__(self, job: Job, parent: Parent) -> None:
        self._job = job
        self._parent = parent
        self._mounts = MountManager(str(Path(job.directory) / "mounts"))
        self._names = [f"{job.operation_id}-{what}" for what in ("share", "store", "cleaning")]

    def do(self) -> Outcome:
        """Does not raise what the job can end with; see the outcome."""
        clean, error, counters = False, None, None
        records = str(Path(self._job.directory) / "workers")
        try:
            with held(
                records, self._job.operation_id, cancelled=self._parent.stop.is_set
            ) as record:
                try:
                    counters = self._run(record)
                finally:
                    clean = self._is_clean()
                    if clean:
                        record.remove()
        except ManilaBackupError as caught:
            error = str(caught)
        except Exception:
            LOG.exception("The job failed.")
            error = "an internal error, see the log of manila-data"
        return Outcome(clean=clean, error=error, counters=counters)

    def _run(self, record: Record) -> Counters | None:
        with ExitStack() as stack:
            if self._job.kind is JobKind.CLEAN:
                self._clean(record, stack)
                return None
            if self._job.kind is JobKind.BACKUP:
                source = self._mount_share(stack, read_only=True)
                root = self._mount_store(stack, read_only=False)
                arguments: tuple[Any, ...] = (self._job.description, source, None)
                backup: BackupResult = self._drive(record, root, "backup", *arguments)
                return self._told(OperationKind.CREATE, backup.stored.counters, backup.remarks)
            root = self._mount_store(stack, read_only=self._job.kind is JobKind.RESTORE)
            self._refuse_upstreams(root)
            if self._job.kind is JobKind.DELETE:
                self._drive(record, root, "delete", self._job.ref)
                return None
            ref = self._newest(root)
            target = self._mount_share(stack, read_only=False)
            restore: RestoreResult = self._drive(
                record, root, "restore", ref, target, RestoreMode.EXACT
            )
            return self._told(OperationKind.RESTORE, restore.counters, restore.remarks)

    def _told(self, kind: OperationKind, counters: Counters, remarks: Remarks) -> Counters:
        """In the log only: to Manila a backup is there or it is not."""
        notice(kind, f"Operation {self._job.operation_id}", counters, remarks)
        return counters

    def _clean(self, record: Record, stack: ExitStack) -> None:
        worker = record.worker()
        if worker is not None and not worker_process.kill_group(worker):
            raise TransientError(reason=f"its worker {worker.pid} hangs in the kernel")
        for name in self._names:
            self._mounts.unmount(self._mounts.point(name))
        if self._job.discard:
            root = self._mount(stack, self._job.store, "cleaning", read_only=False)
            self._drive(record, root, "discard", self._job.ref)

    def _newest(self, root: MountedTree) -> BackupRef:
        ref = self._job.ref
        with opened_root(root.path, root.mount_id) as root_fd:
            stored = listing.newest(root_fd, ref.project_id, ref.backup_id)
        if stored is None:
            what = "there is none that is valid"
            raise BackupNotStored(backup_id=ref.backup_id, what=what)
        return stored.description.ref

    def _refuse_upstreams(self, root: MountedTree) -> None:
        """Manila's own driver keeps a backup in ``<root>/<backup id>``: we cannot read it, and a
        delete that passes it over would say that it is gone.
        """
        with opened_root(root.path, root.mount_id) as root_fd:
            try:
                os.stat(self._job.ref.backup_id, dir_fd=root_fd, follow_symlinks=False)
            except FileNotFoundError:
                return
        raise InvalidBackup(
            reason="it was made by Manila's own backup driver, on the same backup share."
        )

    def _mount_share(self, stack: ExitStack, *, read_only: bool) -> MountedTree:
        if self._job.share is None:
            raise InvalidBackup(reason="the job names no share.")
        return self._mount(stack, self._job.share, "share", read_only=read_only)

    def _mount_store(self, stack: ExitStack, *, read_only: bool) -> MountedTree:
        return self._mount(stack, self._job.store, "store", read_only=read_only)

    def _mount(self, stack: ExitStack, mount: Mount, what: str, *, read_only: bool) -> MountedTree:
        name = f"{self._job.operation_id}-{what}"
        return stack.enter_context(self._mounts.mounted(mount, name, read_only=read_only))

    def _drive(self, record: Record, root: MountedTree, method: str, *arguments: Any) -> Any:
        task = Task(
            driver=DRIVER,
            root=root,
            parallelism=self._job.parallelism,
            method=method,
            arguments=arguments,
        )
        hooks = Hooks(started=record.write_worker, progress=self._parent.progress)
        return worker_process.run(task, self._parent.stop, hooks)

    def _is_clean(self) -> bool:
        return not any(os.path.lexists(self._mounts.point(name)) for name in self._names)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format=f"{os.getpid()} %(levelname)s %(message)s")
    parent = Parent(sys.stdin.buffer, sys.stdout.buffer)
    signal.signal(signal.SIGTERM, lambda *_: parent.stop.set())
    try:
        job = parent.job()
        check_id(job.operation_id)
        checked(job.ref)
    except (ValueError, ManilaBackupError) as error:
        print(error, file=sys.stderr)
        return 2
    parent.attend()
    parent.say(Work(job, parent).do().dump())
    return 0


if __name__ == "__main__":
    sys.exit(main())
