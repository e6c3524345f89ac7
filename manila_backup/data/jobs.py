# SPDX-License-Identifier: Apache-2.0
"""Jobs: one attempt of one operation, under one epoch, and how it ends.

What a job does is in ``work``; before each thing that outlives the process, ``holder`` commits an
intent row, so that whoever comes after a killed job knows what may be left. Only when everything is
given back does the operation end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from oslo_db import exception as db_exc
from oslo_log import log
from sqlalchemy.orm import Session

from manila_backup import exception
from manila_backup.data import endings
from manila_backup.data.endings import Outcome
from manila_backup.data.fence import fence_off
from manila_backup.data.holder import Holder, Stop
from manila_backup.data.node import Node
from manila_backup.data.undo import undo
from manila_backup.data.work import Work
from manila_backup.db import intents, operations
from manila_backup.db.clock import US_PER_S, now_us
from manila_backup.db.intents import Intent, IntentKind
from manila_backup.db.operations import Operation
from manila_backup.states import OperationEvent, OperationKind

LOG = log.getLogger(__name__)


class Job:
    """One attempt. :meth:`run` is called once, in a thread of its own."""

    def __init__(self, node: Node, held: Operation, stop: Stop) -> None:
        self.node = node
        self.held = held
        self.stop = stop
        self._holder = Holder(node, held, stop)

    def run(self) -> None:
        """Work until the operation has ended, is back in the queue, or is another node's.

        Raises nothing: this is the boundary at which errors become outcomes.
        """
        try:
            self.node.notifications.emit(self.held, "start")
            outcome = self._attempt()
            if outcome is not None and not self.stop.lost:
                self._tell(self._end(outcome))
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
                result = Work(self._holder, stack).do()
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
                event=OperationEvent.CANCEL, reason="Cancelled.", counters=self._holder.counters
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
        return Outcome(event=OperationEvent.FAIL, reason=str(error), counters=self._holder.counters)

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

    def _tell(self, outcome: Outcome) -> None:
        what = "end" if outcome.succeeded else "error"
        self.node.notifications.emit(
            self.held, what, counters=outcome.counters, fail_reason=outcome.reason
        )

    def _end(self, outcome: Outcome) -> Outcome:
        """As what it has ended."""
        try:
            self.node.database.write(lambda session: self._end_in(session, outcome))
        except exception.IllegalTransition as error:
            # An administrator reset the backup's status under us: the success has no place to go.
            failed = Outcome(
                event=OperationEvent.FAIL, reason=str(error), counters=outcome.counters
            )
            self.node.database.write(lambda session: endings.end(session, self.held, failed))
            return failed
        return outcome

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

        The operation's own mark stays, whatever the epoch; mounts on other nodes are theirs.
        """
        with self.node.database.reader() as session:
            own = intents.of_operation(session, self.held.id)
            outlived = intents.outlived(session)
        fence_off(self.node, self.held, own, self.stop)
        for intent in own:
            if intent.epoch < self.held.epoch and self._can_be_undone(intent):
                undo(self.node, intent)
        for intent in outlived:
            if intent.kind in (IntentKind.MARK, IntentKind.GRANT) and self._is_in_our_way(intent):
                undo(self.node, intent)

    def _can_be_undone(self, intent: Intent) -> bool:
        if intent.kind is IntentKind.MOUNT:
            return intent.host == self.node.settings.host
        return intent.kind is not IntentKind.MARK

    def _is_in_our_way(self, intent: Intent) -> bool:
        return (
            self.held.kind is not OperationKind.DELETE
            and intent.detail["share_id"] == self.held.share_id
        )


JobRunner = Callable[[Node, Operation, Stop], None]


def run_job(node: Node, held: Operation, stop: Stop) -> None:
    """Run one attempt to its end and say how long it took."""
    began_s = time.monotonic()
    Job(node, held, stop).run()
    LOG.info(
        "Attempt %(attempt)d of operation %(id)s took %(seconds).1f s.",
        {"attempt": held.attempts, "id": held.id, "seconds": time.monotonic() - began_s},
    )
