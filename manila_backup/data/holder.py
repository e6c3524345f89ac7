# SPDX-License-Identifier: Apache-2.0
"""The holder of an operation: what a node may write down for it, and no longer than it holds it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from oslo_db import exception as db_exc
from oslo_log import log
from sqlalchemy.orm import Session

from manila_backup import exception
from manila_backup.data.drivers.base import Progress
from manila_backup.data.node import Node
from manila_backup.data.undo import undo
from manila_backup.data.worker_process import STOP_GRACE_S, Hooks, ProcessId
from manila_backup.db import backups, intents, operations
from manila_backup.db.intents import Intent, IntentKind
from manila_backup.db.operations import Operation
from manila_backup.states import OperationKind, Phase
from manila_backup.types import Counters

LOG = log.getLogger(__name__)

T = TypeVar("T")


class Stop:
    """Why a job must stop before it is done. The first reason wins, but LOST beats all."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.cancelled = False
        self.shutdown = False
        self.lost = False

    @property
    def grace_s(self) -> float:
        """How long a worker may take to end in order: no time when the lease is about to go."""
        return 0.0 if self.lost else STOP_GRACE_S

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


_TELL_PERCENT = 10
"""How far an operation comes between two notifications."""


class Holder:
    """One epoch of one operation, as its node holds it. Every write is fenced by the epoch, and
    who learns from one that the operation is another's stops touching anything.

    ``counters`` are the newest that the worker has told.
    """

    def __init__(self, node: Node, operation: Operation, stop: Stop) -> None:
        self.node = node
        self.operation = operation
        self.stop = stop
        self.counters = Counters()
        self._percent = operation.progress
        self._told_percent = operation.progress

    def hooks(self) -> Hooks:
        """For a worker that works for the operation."""
        return Hooks(started=self._worker_started, progress=self._progress, consent=self._consent)

    def intend(self, kind: IntentKind, detail: Mapping[str, str]) -> Intent:
        """Write down what is about to be made.

        :raises Cancelled: the job is to stop; make nothing more.
        :raises LeaseLost:
        """
        if self.stop.event.is_set():
            raise exception.Cancelled()

        def write(session: Session) -> Intent:
            # The fence: who is overtaken makes nothing more.
            operations.note(session, self.operation)
            return self._write_down(session, kind, detail)

        return self._write_held(write)

    def made(self, intent: Intent, detail: Mapping[str, str]) -> None:
        """What was intended is there now. Written down anew if the intent is not: whoever took
        over while this node was suspended has undone it too early, and the reaper must find it.
        """

        def write(session: Session) -> None:
            left = {found.id for found in intents.of_operation(session, self.operation.id)}
            if intent.id in left:
                intents.set_detail(session, intent.id, detail)
            else:
                self._write_down(session, intent.kind, detail)

        self.node.database.write(write)

    def _write_down(self, session: Session, kind: IntentKind, detail: Mapping[str, str]) -> Intent:
        return intents.create(
            session,
            operation_id=self.operation.id,
            epoch=self.operation.epoch,
            host=self.node.settings.host,
            kind=kind,
            detail=detail,
        )

    def reread(self, intent: Intent) -> Intent:
        """The intent as it stands now."""
        with self.node.database.reader() as session:
            found = [
                i for i in intents.of_operation(session, self.operation.id) if i.id == intent.id
            ]
        return found[0] if found else intent

    def give_back(self, phase: Phase, intent: Intent, *, even_if_lost: bool = False) -> None:
        """Undo on the way out. After a lost lease only what lives on this very node."""
        if not self.stop.lost:
            self._note_quietly(phase)
        if self.stop.lost and not even_if_lost:
            return
        undo(self.node, intent)

    def _note_quietly(self, phase: Phase) -> None:
        try:
            self.phase(phase)
        except (exception.LeaseLost, db_exc.DBError):
            LOG.warning("Operation %s: could not note phase %s.", self.operation.id, phase)

    def phase(self, phase: Phase) -> None:
        """:raises LeaseLost:"""
        self.note(phase=phase)

    def note(self, **values: Any) -> None:
        """:raises LeaseLost:"""
        self._write_held(lambda session: operations.note(session, self.operation, **values))

    def _write_held(self, change: Callable[[Session], T]) -> T:
        """Write as the holder; who learns here that he is not stops touching anything."""
        try:
            return self.node.database.write(change)
        except exception.LeaseLost:
            self.stop.lose()
            raise

    def _worker_started(self, process: ProcessId) -> None:
        self.note(worker_pid=process.pid, worker_started=process.started)

    def _consent(self, question: str) -> None:
        """The fence before the two points of no return; a lost lease answers with an error."""
        if self.stop.event.is_set():
            raise exception.Cancelled()
        if question == "about_to_publish":
            self.phase(Phase.PUBLISHING)
        else:
            self.note(share_written=True)

    def _progress(self, progress: Progress) -> None:
        """Never backwards, and 100 only when the operation is done."""
        self.counters = progress.counters
        if progress.total > 0:
            share = progress.done * 100 // progress.total
            self._percent = max(self._percent, min(99, share))
        percent = self._percent
        column = "restore_progress" if self.operation.kind is OperationKind.RESTORE else "progress"

        def write(session: Session) -> None:
            operations.note(
                session,
                self.operation,
                progress=percent,
                progress_source=progress.unit,
                counters=operations.dump_counters(progress.counters),
            )
            if self.operation.kind is not OperationKind.DELETE:
                backups.set_progress(
                    session, self.operation.backup_id, column=column, percent=percent
                )

        self._write_held(write)
        if percent // _TELL_PERCENT > self._told_percent // _TELL_PERCENT:
            self._told_percent = percent
            self.node.notifications.emit(
                self.operation, "progress", percent=percent, counters=progress.counters
            )
