# SPDX-License-Identifier: Apache-2.0
"""Jobs: one attempt of one operation, under one epoch.

A job takes in order and gives back in reverse: mark the share, grant access, mount, copy; unmount,
revoke, unmark. Before each of these an intent row is committed, so that whoever comes after a
killed job knows what may be left. Only when everything is given back does the operation end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from oslo_db import exception as db_exc
from oslo_log import log
from sqlalchemy.orm import Session

from manila_backup import exception
from manila_backup.context import service_context
from manila_backup.data import endings, worker_process
from manila_backup.data.drivers.base import Progress, RestoreResult
from manila_backup.data.endings import Outcome
from manila_backup.data.node import Node
from manila_backup.data.task import Task
from manila_backup.data.undo import undo
from manila_backup.data.worker_process import Hooks, ProcessId
from manila_backup.db import backups, intents, operations
from manila_backup.db.backups import Backup
from manila_backup.db.clock import US_PER_S, iso, now_us
from manila_backup.db.intents import Intent, IntentKind
from manila_backup.db.operations import Operation
from manila_backup.states import OperationEvent, OperationKind, Phase, ShareStatus
from manila_backup.types import (
    AccessLevel,
    BackupDescription,
    BackupRef,
    Counters,
    MountedTree,
    RestoreMode,
    Share,
    StoredBackup,
)

LOG = log.getLogger(__name__)

T = TypeVar("T")


class Stop:
    """Why a job must stop before it is done. The first reason wins, but LOST beats all."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.cancelled = False
        self.shutdown = False
        self.lost = False

    def cancel(self) -> None:
        """The tenant or an administrator cancelled; what was made is undone."""
        self.cancelled = True
        self.event.set()

    def shut_down(self) -> None:
        """The node stops; the operation goes back to the queue."""
        self.shutdown = True
        self.event.set()

    def lose(self) -> None:
        """The lease is gone or about to go; nothing more may be changed for the operation."""
        self.lost = True
        self.event.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    counters: Counters
    stored: StoredBackup | None = None
    notice: str | None = None


class Job:
    """One attempt. :meth:`run` is called once, in a thread of its own."""

    def __init__(self, node: Node, held: Operation, stop: Stop) -> None:
        self.node = node
        self.held = held
        self.stop = stop
        self._counters = Counters()
        self._percent = held.progress

    def run(self) -> None:
        """Work until the operation has ended, is back in the queue, or is another node's.

        Raises nothing: this is the boundary at which errors become outcomes.
        """
        try:
            outcome = self._attempt()
            if outcome is not None and not self.stop.lost:
                self._end(outcome)
        except (exception.StaleRow, exception.LeaseLost):
            LOG.warning(
                "Operation %s is no longer this node's (epoch %d).", self.held.id, self.held.epoch
            )
        except db_exc.DBError:
            # The row still says running; it is found there and taken over.
            LOG.exception("The end of operation %s could not be written.", self.held.id)

    def _attempt(self) -> Outcome | None:
        """None when the operation went back to the queue (or must be left alone)."""
        try:
            self._clear_what_was_left()
            with ExitStack() as stack:
                result = self._work(stack)
        except exception.LeaseLost:
            raise
        except exception.Cancelled:
            return self._stopped()
        except exception.TransientError as error:
            return self._failed(error, transient=True)
        except exception.ManilaBackupError as error:
            return self._failed(error, transient=False)
        except db_exc.DBConnectionError:
            LOG.exception("The database went away during operation %s.", self.held.id)
            return None
        except Exception:  # the boundary of the job
            LOG.exception("Operation %s failed unexpectedly.", self.held.id)
            unexpected = exception.PermanentError(
                reason="an internal error; the log of the data node tells more"
            )
            return self._failed(unexpected, transient=False)
        return Outcome(
            event=OperationEvent.FINISH,
            counters=result.counters,
            stored=result.stored,
            notice=result.notice,
        )

    def _stopped(self) -> Outcome | None:
        if self.stop.lost:
            return None
        if self.stop.cancelled:
            return Outcome(
                event=OperationEvent.CANCEL, reason="Cancelled.", counters=self._counters
            )
        # Not the operation's fault: the attempt does not count.
        self._requeue(
            delay_s=0.0, reason="the data node was stopped", attempts=self.held.attempts - 1
        )
        return None

    def _failed(self, error: exception.ManilaBackupError, *, transient: bool) -> Outcome | None:
        LOG.warning(
            "Operation %(id)s, request %(request)s, epoch %(epoch)d: %(error)s",
            {
                "id": self.held.id,
                "request": self.held.request_id,
                "epoch": self.held.epoch,
                "error": error,
            },
        )
        settings = self.node.settings
        if self.stop.lost:
            return None
        if transient and self.stop.event.is_set():
            # What passes is no reason to go on with what is to stop.
            return self._stopped()
        if transient and self.held.attempts < settings.max_attempts:
            delay_s = settings.retry_delay_s * 2 ** max(0, self.held.attempts - 1)
            self._requeue(delay_s=delay_s, reason=str(error), attempts=self.held.attempts)
            return None
        return Outcome(event=OperationEvent.FAIL, reason=str(error), counters=self._counters)

    def _requeue(self, *, delay_s: float, reason: str, attempts: int) -> None:
        LOG.info("Operation %s goes back to the queue: %s", self.held.id, reason)
        self.node.database.write(
            lambda session: operations.transition(
                session,
                self.held,
                OperationEvent.RETRY,
                not_before_us=now_us() + int(delay_s * US_PER_S),
                fail_reason=reason,
                attempts=attempts,
                phase=None,
            )
        )

    def _end(self, outcome: Outcome) -> None:
        try:
            self.node.database.write(lambda session: self._end_in(session, outcome))
        except exception.IllegalTransition as error:
            # An administrator reset the backup's status under us: the success has no place to go.
            failed = Outcome(
                event=OperationEvent.FAIL, reason=str(error), counters=outcome.counters
            )
            self.node.database.write(lambda session: endings.end(session, self.held, failed))

    def _end_in(self, session: Session, outcome: Outcome) -> None:
        endings.end(session, self.held, outcome)
        if outcome.stored is not None:
            for intent in intents.of_operation(session, self.held.id):
                if intent.kind is IntentKind.DATA_DIRECTORY and intent.epoch == self.held.epoch:
                    intents.undone(session, intent.id)

    # --- what was before ----------------------------------------------------------------------

    def _clear_what_was_left(self) -> None:
        """Undo what earlier epochs of this operation left on the way, newest first, and what ended
        operations could not give back of this share: a rule found again would be revoked under us.

        The operation's own mark stays, whatever the epoch.
        """
        with self.node.database.reader() as session:
            own = intents.of_operation(session, self.held.id)
            outlived = intents.outlived(session)
        for intent in own:
            if intent.epoch < self.held.epoch and intent.kind is not IntentKind.MARK:
                undo(self.node, intent)
        for intent in outlived:
            if intent.kind in (IntentKind.MARK, IntentKind.GRANT) and self._is_in_our_way(intent):
                undo(self.node, intent)

    def _is_in_our_way(self, intent: Intent) -> bool:
        return (
            self.held.kind is not OperationKind.DELETE
            and intent.detail["share_id"] == self.held.share_id
        )

    # --- the three kinds of work --------------------------------------------------------------

    def _work(self, stack: ExitStack) -> _Result:
        with self.node.database.reader() as session:
            backup = backups.get(session, self.held.backup_id)
        if self.held.kind is OperationKind.CREATE:
            return self._create(stack, backup)
        if self.held.kind is OperationKind.RESTORE:
            return self._restore(stack, backup)
        return self._delete(stack, backup)

    def _create(self, stack: ExitStack, backup: Backup) -> _Result:
        ref = BackupRef(project_id=backup.project_id, backup_id=backup.id, epoch=self.held.epoch)
        share = self._enter_share(stack, ShareStatus.BACKUP_CREATING, AccessLevel.RO, backup)
        source = self._mount_share(stack, share, read_only=True)
        root = self._mount_backup_share(stack, read_only=False)
        self._phase(Phase.COPYING)
        stack.enter_context(self._data_directory(ref))
        description = _describe(backup, ref, share)
        stored: StoredBackup = self._drive(root, "backup", description, source, None)
        self._check_owner(share.id)
        notice = _notice(stored.counters, "the backup is complete but for these")
        return _Result(counters=stored.counters, stored=stored, notice=notice)

    def _restore(self, stack: ExitStack, backup: Backup) -> _Result:
        ref = backup.published_ref
        if ref is None:
            raise exception.BackupNotStored(backup_id=backup.id, what="nothing was published")
        share = self._enter_share(stack, ShareStatus.BACKUP_RESTORING, AccessLevel.RW, backup)
        if share.size_gib < backup.size_gib:
            raise exception.PermanentError(
                reason=f"Share size {share.size_gib} is too small to restore backup of size "
                f"{backup.size_gib}."
            )
        root = self._mount_backup_share(stack, read_only=True)
        target = self._mount_share(stack, share, read_only=False)
        self._phase(Phase.COPYING)
        mode = self.held.mode or RestoreMode.EXACT
        result: RestoreResult = self._drive(root, "restore", ref, target, mode)
        self._check_owner(share.id)
        notice = _notice(result.counters, "the share equals the backup but for these")
        return _Result(counters=result.counters, notice=notice)

    def _delete(self, stack: ExitStack, backup: Backup) -> _Result:
        root = self._mount_backup_share(stack, read_only=False)
        self._phase(Phase.DELETING)
        ref = BackupRef(project_id=backup.project_id, backup_id=backup.id, epoch=0)
        self._drive(root, "delete", ref)
        return _Result(counters=self._counters)

    # --- steps --------------------------------------------------------------------------------

    def _enter_share(
        self, stack: ExitStack, status: ShareStatus, level: AccessLevel, backup: Backup
    ) -> Share:
        context = service_context(self.held.request_id)
        share = self.node.provider.get(context, self.held.share_id)
        self._phase(Phase.MARKING)
        stack.enter_context(self._marked(share, status))
        # Looked at again under the mark: until then its owner could still change it.
        share = self._check_owner(self.held.share_id)
        self._check_share(share, backup)
        self._phase(Phase.GRANTING)
        stack.enter_context(self._granted(share, level))
        return share

    def _check_owner(self, share_id: str) -> Share:
        share = self.node.provider.get(service_context(self.held.request_id), share_id)
        if share.project_id != self.held.project_id:
            raise exception.ShareChangedHands(share_id=share_id)
        return share

    def _check_share(self, share: Share, backup: Backup) -> None:
        settings = self.node.settings
        if share.is_soft_deleted:
            raise exception.PermanentError(reason=f"Share {share.id} has been soft deleted.")
        if self.held.kind is not OperationKind.CREATE:
            return
        if share.has_snapshots and settings.refuse_shares_with_snapshots:
            raise exception.PermanentError(reason=f"Share {share.id} has snapshots.")
        if share.has_replicas:
            raise exception.PermanentError(reason=f"Share {share.id} has replicas.")
        if share.size_gib > backup.charged_gib:
            raise exception.PermanentError(
                reason=f"Share {share.id} has grown beyond the {backup.charged_gib} GiB that "
                "were charged."
            )

    @contextmanager
    def _marked(self, share: Share, status: ShareStatus) -> Iterator[None]:
        intent = self._intend(IntentKind.MARK, {"share_id": share.id})
        try:
            self.node.provider.mark(share, self.held.id, status)
            self._made(intent, intent.detail)
            yield
        finally:
            self._give_back(Phase.UNMARKING, intent)

    @contextmanager
    def _granted(self, share: Share, level: AccessLevel) -> Iterator[None]:
        detail = {
            "share_id": share.id,
            "address": self.node.settings.address,
            "level": str(level),
        }
        intent = self._intend(IntentKind.GRANT, detail)
        try:
            grant = self.node.provider.grant(share, self.node.settings.address, level)
            detail["ours"] = "yes" if grant.ours else "no"
            if grant.reference is not None:
                detail["reference"] = grant.reference
            self._made(intent, detail)
            yield
        finally:
            self._give_back(Phase.REVOKING, self._reread(intent))

    def _mount_share(self, stack: ExitStack, share: Share, *, read_only: bool) -> MountedTree:
        self._phase(Phase.MOUNTING)
        mount = self.node.provider.mounts(share)[0]
        name = f"{self.held.id}-{self.held.epoch}-share"
        if mount.proto != "path":
            stack.enter_context(self._mount_point(name))
        return stack.enter_context(self.node.mounts.mounted(mount, name, read_only=read_only))

    def _mount_backup_share(self, stack: ExitStack, *, read_only: bool) -> MountedTree:
        self._phase(Phase.MOUNTING)
        mount = self.node.settings.backup_mount
        name = f"{self.held.id}-{self.held.epoch}-backup"
        if mount.proto != "path":
            stack.enter_context(self._mount_point(name))
        return stack.enter_context(self.node.mounts.mounted(mount, name, read_only=read_only))

    @contextmanager
    def _mount_point(self, name: str) -> Iterator[None]:
        intent = self._intend(IntentKind.MOUNT, {"path": self.node.mounts.point(name)})
        try:
            yield
        finally:
            self._give_back(Phase.UNMOUNTING, intent, even_if_lost=True)

    @contextmanager
    def _data_directory(self, ref: BackupRef) -> Iterator[None]:
        """Keep the data when the block succeeds (its intent ends with the operation); on an error
        throw it away, unless the node is in a hurry: then the next attempt does.
        """
        intent = self._intend(
            IntentKind.DATA_DIRECTORY,
            {"project_id": ref.project_id, "backup_id": ref.backup_id},
        )
        try:
            yield
        except BaseException:
            if not self.stop.lost and not self.stop.shutdown:
                undo(self.node, intent)
            raise

    def _drive(self, root: MountedTree, method: str, *arguments: Any) -> Any:
        task = Task(driver=self.node.settings.driver, root=root, method=method, arguments=arguments)
        hooks = Hooks(started=self._worker_started, progress=self._progress, consent=self._consent)
        return worker_process.run(task, self.stop.event, hooks)

    # --- what is written down ------------------------------------------------------------------

    def _intend(self, kind: IntentKind, detail: Mapping[str, str]) -> Intent:
        if self.stop.event.is_set():
            raise exception.Cancelled()

        def write(session: Session) -> Intent:
            # The fence: who is overtaken makes nothing more.
            operations.note(session, self.held)
            return self._write_down(session, kind, detail)

        return self._write_held(write)

    def _made(self, intent: Intent, detail: Mapping[str, str]) -> None:
        """What was intended is there now. Written down anew if the intent is not: whoever took
        over while this node was suspended has undone it too early, and the reaper must find it.
        """

        def write(session: Session) -> None:
            left = {found.id for found in intents.of_operation(session, self.held.id)}
            if intent.id in left:
                intents.set_detail(session, intent.id, detail)
            else:
                self._write_down(session, intent.kind, detail)

        self.node.database.write(write)

    def _write_down(self, session: Session, kind: IntentKind, detail: Mapping[str, str]) -> Intent:
        return intents.create(
            session,
            operation_id=self.held.id,
            epoch=self.held.epoch,
            host=self.node.settings.host,
            kind=kind,
            detail=detail,
        )

    def _reread(self, intent: Intent) -> Intent:
        with self.node.database.reader() as session:
            found = [i for i in intents.of_operation(session, self.held.id) if i.id == intent.id]
        return found[0] if found else intent

    def _give_back(self, phase: Phase, intent: Intent, *, even_if_lost: bool = False) -> None:
        """Undo on the way out. After a lost lease only what lives on this very node."""
        if not self.stop.lost:
            self._note_quietly(phase)
        if self.stop.lost and not even_if_lost:
            return
        undo(self.node, intent)

    def _note_quietly(self, phase: Phase) -> None:
        try:
            self._phase(phase)
        except (exception.LeaseLost, db_exc.DBError):
            LOG.warning("Operation %s: could not note phase %s.", self.held.id, phase)

    def _phase(self, phase: Phase) -> None:
        self._note(phase=phase)

    def _note(self, **values: Any) -> None:
        self._write_held(lambda session: operations.note(session, self.held, **values))

    def _write_held(self, change: Callable[[Session], T]) -> T:
        """Write as the holder; who learns here that he is not stops touching anything."""
        try:
            return self.node.database.write(change)
        except exception.LeaseLost:
            self.stop.lose()
            raise

    def _worker_started(self, process: ProcessId) -> None:
        self._note(worker_pid=process.pid, worker_started=process.started)

    def _consent(self, question: str) -> None:
        """The fence before the two points of no return; a lost lease answers with an error."""
        if self.stop.event.is_set():
            raise exception.Cancelled()
        if question == "about_to_publish":
            self._phase(Phase.PUBLISHING)
        else:
            self._note(share_written=True)

    def _progress(self, progress: Progress) -> None:
        """Never backwards, and 100 only when the operation is done."""
        self._counters = progress.counters
        if progress.total > 0:
            share = progress.done * 100 // progress.total
            self._percent = max(self._percent, min(99, share))
        percent = self._percent
        column = "restore_progress" if self.held.kind is OperationKind.RESTORE else "progress"

        def write(session: Session) -> None:
            operations.note(
                session,
                self.held,
                progress=percent,
                progress_source=progress.unit,
                counters=operations.dump_counters(progress.counters),
            )
            if self.held.kind is not OperationKind.DELETE:
                backups.set_progress(session, self.held.backup_id, column=column, percent=percent)

        self._write_held(write)


def _describe(backup: Backup, ref: BackupRef, share: Share) -> BackupDescription:
    return BackupDescription(
        ref=ref,
        share_id=share.id,
        share_name=share.name,
        share_proto=share.share_proto,
        size_gib=backup.size_gib,
        user_id=backup.user_id,
        name=backup.name,
        description=backup.description,
        availability_zone=backup.availability_zone,
        created_at=f"{iso(backup.created_at_us)}Z",
        options=dict(backup.options),
    )


def _notice(counters: Counters, what: str) -> str | None:
    """Words for the tenant when something is not as it should be, else None."""
    parts = [
        f"{count} {name}"
        for name, count in (
            ("skipped because they vanished", counters.skipped),
            ("changed while they were copied", counters.changed),
            ("with metadata that could not be kept", counters.losses),
            ("with warnings", counters.warnings),
        )
        if count
    ]
    return f"{what}: {', '.join(parts)}." if parts else None


JobRunner = Callable[[Node, Operation, Stop], None]


def run_job(node: Node, held: Operation, stop: Stop) -> None:
    """Run one attempt to its end and say how long it took."""
    began_s = time.monotonic()
    Job(node, held, stop).run()
    LOG.info(
        "Attempt %(attempt)d of operation %(id)s took %(seconds).1f s.",
        {"attempt": held.attempts, "id": held.id, "seconds": time.monotonic() - began_s},
    )
