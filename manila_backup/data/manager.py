# SPDX-License-Identifier: Apache-2.0
"""The data node's manager: claims operations, keeps their leases, cleans up after the dead.

Threads: one loop that claims (woken or polling), one per job, and the service's timers that call
:meth:`DataManager.heartbeat` and :meth:`DataManager.reap`. The database is the only truth; what
this process remembers are its own jobs.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from oslo_db import exception as db_exc
from oslo_log import log
from sqlalchemy.orm import Session

from manila_backup import exception
from manila_backup.data import endings, jobs
from manila_backup.data.endings import Outcome
from manila_backup.data.fence import recorded_worker
from manila_backup.data.hanging import HANGING
from manila_backup.data.holder import Holder, Stop
from manila_backup.data.jobs import JobRunner
from manila_backup.data.node import BINARY, TOPIC, Node
from manila_backup.data.remark import mark_again
from manila_backup.data.undo import forget_gone_shares, undo
from manila_backup.data.worker_process import kill_group
from manila_backup.db import backups, intents, messages, operations, services
from manila_backup.db.intents import IntentKind
from manila_backup.db.operations import Operation
from manila_backup.states import OperationEvent, OperationKind

LOG = log.getLogger(__name__)

GONE_SHARES_EVERY_S = 600.0
"""How often the provider is asked for shares whose restore has failed."""

SAFETY = 0.6
"""A node that could not renew for this share of the lease stops its own work: before the lease
ends for others, with time for the workers to die."""


@dataclass(slots=True, kw_only=True)
class _Running:
    """A job of this process."""

    held: Operation
    stop: Stop
    thread: threading.Thread
    renewed_s: float


class DataManager:
    """One per data node.

    :param run_job: runs one attempt; in a thread of its own.
    :param clock: monotonic seconds.
    """

    def __init__(
        self,
        node: Node,
        *,
        run_job: JobRunner = jobs.run_job,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._run_job = run_job
        self._clock = clock
        self._gone_shares_from_s = clock()
        self._running: dict[str, _Running] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._loop = threading.Thread(target=self._run, name="claims", daemon=True)

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Clean up what a former process of this node left, then begin to claim."""
        self._report(starting=True)
        self._remove_mounts()
        self._loop.start()

    def stop(self) -> None:
        """Claim nothing more; running operations go back to the queue, their workers end."""
        self._stopping.set()
        self._wake.set()
        if self._loop.is_alive():
            self._loop.join()
        for running in self._jobs():
            running.stop.shut_down()
        for running in self._jobs():
            running.thread.join()

    def wake(self) -> None:
        """Look into the queue now."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.poll()
            except db_exc.DBConnectionError:
                LOG.warning("The database is away; looking again in a while.")
            except Exception:  # the boundary of the loop
                LOG.exception("Claiming failed.")
            self._wake.wait(self._node.settings.poll_interval_s)
            self._wake.clear()

    def _jobs(self) -> list[_Running]:
        with self._lock:
            return list(self._running.values())

    # --- claiming -----------------------------------------------------------------------------

    def poll(self) -> None:
        """One look: own leftovers first, then cancel requests; then, while there is capacity and
        the node may take work, what silent nodes have left, and the queue.
        """
        self._recover()
        self._pass_on_cancels()
        if not self._may_take_work():
            return
        self._take_over_from_silent_nodes()
        while not self._stopping.is_set() and self._claim_one():
            pass

    def _may_take_work(self) -> bool:
        settings = self._node.settings
        with self._node.database.reader() as session:
            disabled = services.is_disabled(session, settings.host, BINARY)
            rival = services.rival_of(session, settings.host, BINARY, silent_s=settings.lease_s)
        if rival is not None:
            LOG.error(
                "Node %s has this node's address %s, too: no work is taken. See option "
                "data_node_address.",
                rival,
                settings.address,
            )
        return rival is None and not disabled

    def _free_kinds(self) -> list[OperationKind]:
        """What there is capacity for."""
        settings = self._node.settings
        kinds = Counter(running.held.kind for running in self._jobs())
        if kinds.total() >= settings.max_operations:
            return []
        return [
            kind
            for kind in OperationKind
            if (limit := settings.max_by_kind.get(kind)) is None or kinds[kind] < limit
        ]

    def _claim_one(self) -> bool:
        """True when the queue may hold more."""
        kinds = self._free_kinds()
        if not kinds:
            return False
        settings = self._node.settings
        zone = settings.availability_zone if settings.own_zone_only else None
        with self._node.database.reader() as session:
            candidates = operations.claimable(session, kinds=kinds, zone=zone)
        for seen in candidates:
            held = self._take(seen, OperationEvent.CLAIM)
            if held is not None:
                self._begin(held)
                break
        # Other nodes were quicker with all of them: then there may be others.
        return bool(candidates)

    def _take(self, seen: Operation, event: OperationEvent) -> Operation | None:
        settings = self._node.settings

        def take(session: Session) -> Operation:
            held = operations.take(
                session, seen, event, host=settings.host, lease_s=settings.lease_s
            )
            backups.set_host(session, held.backup_id, settings.host)
            return held

        try:
            held = self._node.database.write(take)
        except exception.StaleRow:
            return None
        LOG.info(
            "Operation %(id)s (%(kind)s): %(before)s -> %(after)s by %(event)s, epoch %(epoch)d",
            {
                "id": held.id,
                "kind": held.kind,
                "before": seen.status,
                "after": held.status,
                "event": event,
                "epoch": held.epoch,
            },
        )
        return held

    def _begin(self, held: Operation) -> None:
        stop = Stop()
        if held.cancel_requested:
            stop.cancel()
        thread = threading.Thread(
            target=self._work, args=(held, stop), name=f"job-{held.id}", daemon=True
        )
        with self._lock:
            self._running[held.id] = _Running(
                held=held, stop=stop, thread=thread, renewed_s=self._clock()
            )
        thread.start()

    def _work(self, held: Operation, stop: Stop) -> None:
        try:
            self._run_job(self._node, held, stop)
        except Exception:  # the boundary of the thread
            LOG.exception("The job of operation %s broke.", held.id)
        finally:
            with self._lock:
                self._running.pop(held.id, None)
            self._wake.set()

    # --- leases -------------------------------------------------------------------------------

    def heartbeat(self) -> None:
        """Report in, renew the leases, pass on cancel requests. To be called several times per
        lease.
        """
        try:
            self._report(starting=False)
        except db_exc.DBError:
            LOG.warning("This node could not report in.")
        for running in self._jobs():
            self._renew(running)
        self._pass_on_cancels()

    def _renew(self, running: _Running) -> None:
        lease_s = self._node.settings.lease_s
        began_s = self._clock()
        try:
            self._node.database.write(
                lambda session: operations.renew(session, running.held, lease_s=lease_s)
            )
        except exception.LeaseLost:
            with self._lock:
                still_ours = running.held.id in self._running
            if still_ours:
                running.stop.lose()
        except db_exc.DBError:
            if self._clock() - running.renewed_s > lease_s * SAFETY:
                LOG.warning("Operation %s: the lease could not be renewed.", running.held.id)
                running.stop.lose()
        else:
            # Counted from before the statement: the database may have read its clock at once.
            running.renewed_s = began_s

    def _pass_on_cancels(self) -> None:
        for running in self._jobs():
            try:
                with self._node.database.reader() as session:
                    wanted = operations.get(session, running.held.id).cancel_requested
            except db_exc.DBError:
                return
            if wanted and not running.stop.cancelled:
                LOG.info("Operation %s is to be cancelled.", running.held.id)
                running.stop.cancel()

    def _report(self, *, starting: bool) -> None:
        settings = self._node.settings

        def report(session: Session) -> None:
            services.report(
                session,
                host=settings.host,
                binary=BINARY,
                topic=TOPIC,
                availability_zone=settings.availability_zone,
                address=settings.address,
                starting=starting,
            )

        try:
            self._node.database.write(report)
        except db_exc.DBDuplicateEntry:  # another process of this name made the row right now
            self._node.database.write(report)

    # --- after the dead -----------------------------------------------------------------------

    def _recover(self) -> None:
        """Take over what this node's rows say is running but no job of this process works on:
        left by a former process, or by a job that lost the database.
        """
        mine = [running.held.id for running in self._jobs()]
        with self._node.database.reader() as session:
            left = operations.leftovers(session, self._node.settings.host, except_ids=mine)
        for seen in left:
            self._try_to_recover(seen)

    def _take_over_from_silent_nodes(self) -> None:
        """What other nodes hold whose lease has ended."""
        with self._node.database.reader() as session:
            abandoned = operations.expired(session, self._node.settings.host)
        for seen in abandoned:
            if seen.kind in self._free_kinds() and not self._stopping.is_set():
                self._try_to_recover(seen)

    def _try_to_recover(self, seen: Operation) -> None:
        try:
            self._recover_one(seen)
        except exception.ManilaBackupError:
            # One row that does not fit must not keep the node from all others.
            LOG.exception("Operation %s could not be recovered.", seen.id)

    def _recover_one(self, seen: Operation) -> None:
        """Another node's worker is the job's to deal with, when its lease cannot be renewed any
        more: until the row is taken it may be alive and well.
        """
        with self._lock:
            if seen.id in self._running:
                return
        if seen.host == self._node.settings.host and not self._former_worker_is_gone(seen):
            return
        held = self._take(seen, OperationEvent.TAKE_OVER)
        if held is None:
            return
        if held.attempts > self._node.settings.max_attempts:
            self._give_up(held)
        else:
            self._begin(held)

    def _former_worker_is_gone(self, seen: Operation) -> bool:
        """This node's own: what is of a former boot, or of a former container, has gone with it."""
        worker = recorded_worker(seen)
        if worker is None or kill_group(worker):
            return True
        LOG.warning(
            "Worker %d of operation %s hangs in the kernel; it is not taken over yet.",
            worker.pid,
            seen.id,
        )
        return False

    def _give_up(self, held: Operation) -> None:
        outcome = Outcome(
            event=OperationEvent.FAIL,
            reason=f"given up after {held.attempts - 1} attempts that did not come to an end",
            counters=held.counters,
        )
        self._node.database.write(lambda session: endings.end(session, held, outcome))
        self.reap()

    def _remove_mounts(self) -> None:
        """Whatever is mounted in this node's private directory at start is a leftover."""
        for point in self._node.mounts.leftovers():
            try:
                self._node.mounts.unmount(point)
            except exception.MountFailed as error:
                LOG.warning("A leftover mount stays: %s", error)

    def reap(self) -> None:
        """Undo what ended operations left behind, and mark the shares of running ones again where
        somebody took the mark off. Idempotent; failures are tried again for ever.
        """
        hanging = HANGING.reap()
        if hanging:
            LOG.warning("%d processes of this node hang in the kernel.", hanging)
        try:
            with self._node.database.reader() as session:
                left = intents.outlived(session)
            for intent in left:
                if intent.kind is IntentKind.MOUNT and intent.host != self._node.settings.host:
                    continue
                undo(self._node, intent)
            for running in self._jobs():
                mark_again(Holder(self._node, running.held, running.stop))
            self._node.database.write(messages.purge)
            if self._clock() >= self._gone_shares_from_s:
                forget_gone_shares(self._node)
                self._gone_shares_from_s = self._clock() + GONE_SHARES_EVERY_S
        except db_exc.DBError:
            LOG.warning("The database is away; cleaning up later.")
