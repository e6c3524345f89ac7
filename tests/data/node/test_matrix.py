# SPDX-License-Identifier: Apache-2.0
"""Whatever befalls a data node at whatever step, and whoever goes on: rows, share, access rules,
mounts, data and ledger end as they should, and no content is lost. See :mod:`matrix`."""

from __future__ import annotations

import os
from typing import Any

import pytest

from manila_backup import exception
from manila_backup.data.manager import DataManager
from manila_backup.db.operations import Operation
from manila_backup.states import BackupStatus, OperationKind, OperationStatus, ShareStatus
from tests.conftest import MATRIX_SEED
from tests.data.node.faulty import wait_for
from tests.data.node.killing import continued, killed_at, suspended_at
from tests.data.node.matrix import ALL, Cell, Fault, Successor, Where, cells, chosen
from tests.data.node.processes import is_alive
from tests.data.node.test_takeover import comes_back, silence, taken_over
from tests.data.node.world import World
from tests.db.builders import Contents, committed
from tests.db.rivals import execute

pytestmark = pytest.mark.slow

DONE, FAILED = OperationStatus.DONE, OperationStatus.FAILED


def parameters() -> list[Any]:
    some, more = chosen(int(os.environ[MATRIX_SEED]))
    if os.environ.get(ALL):
        some, more = cells(), []
    return [
        *(pytest.param(cell, id=str(cell)) for cell in some),
        *(pytest.param(cell, id=str(cell), marks=pytest.mark.by_hand) for cell in more),
    ]


class Site:
    """A share whose content is known, a backup of it unless that is to be made, and an operation
    that waits for a node."""

    def __init__(self, world: World, kind: OperationKind) -> None:
        self.world = world
        self.kind = kind
        # The node was there before any other.
        comes_back(world)
        self.share_id = world.small_share()
        self.before = world.tree(self.share_id)
        if kind is OperationKind.CREATE:
            self.queued = world.queue_backup(self.share_id)
            return
        backup_id = world.backed_up(self.share_id)
        if kind is OperationKind.RESTORE:
            (world.store.tree(self.share_id) / "extra").touch()
            self.queued = world.queue_restore(backup_id, self.share_id)
        else:
            self.queued = world.queue_delete(backup_id)

    @property
    def operation(self) -> Operation:
        return self.world.operation(self.queued)

    @property
    def is_over(self) -> bool:
        return self.operation.finished_at_us is not None

    def rows(self) -> Contents:
        """But for the intents: a node writes down for the reaper what it finds that it has made."""
        found = committed(self.world.database)
        return {name: rows for name, rows in found.items() if name != "intents"}

    # --- the fault --------------------------------------------------------------------------------

    def befall(self, cell: Cell) -> None:
        """To a node that works on the operation, which must come to the step."""
        world, step = self.world, cell.step
        if cell.fault is Fault.NODE_KILLED:
            killed_at(world, step.name, self.queued)
        elif step.where is Where.WORKER:
            what = {
                Fault.WORKER_KILLED: "die",
                Fault.EXCEPTION: "transient",
                Fault.MISTAKE: "crash",
            }[cell.fault]
            world.workers.lay(step.name, what)
            world.work(self.queued)
            assert world.workers.met(step.name)
        else:
            name, _, turn = step.name.partition(" ")
            passing = cell.fault is Fault.EXCEPTION
            error = exception.TransientError(reason="away") if passing else RuntimeError("a bug")
            world.steps.fail(name, error, time=int(turn))
            world.work(self.queued)
            assert world.steps.all_met()

    # --- who goes on ------------------------------------------------------------------------------

    def go_on(self, successor: Successor) -> None:
        """Until the operation is over."""
        if self.is_over:
            return
        act = {
            Successor.SAME: self._started_again,
            Successor.OTHER: self._another,
            Successor.RIVAL: self._rival,
        }[successor]
        act()

    def _started_again(self) -> None:
        manager = DataManager(self.world.node())
        manager.start()
        wait_for(lambda: self.is_over, "the end")
        manager.stop()

    def _another(self) -> None:
        silence(self.world, self.queued)
        assert taken_over(self.world, self.queued).host == "node-b"

    def _rival(self) -> None:
        world = self.world
        silence(world, self.queued)
        before = self.operation
        manager = DataManager(world.node("node-c"))
        manager.start()
        manager.poll()
        assert self.operation == before, "the first one has just reported in"
        execute(world.database, "UPDATE services SET reported_at_us = 1 WHERE host = 'node-a'")
        manager.poll()
        wait_for(lambda: self.is_over, "the end")
        manager.reap()
        manager.stop()
        assert self.operation.host == "node-c"
        # It gives the address up again.
        execute(world.database, "DELETE FROM services WHERE host = 'node-c'")

    # --- how it must end --------------------------------------------------------------------------

    def assert_settled(self) -> None:
        world, ended = self.world, self.operation
        assert ended.status in (DONE, FAILED)
        assert bool(ended.fail_reason) == (ended.status is FAILED)
        assert ended.worker_pid is None or not is_alive(ended.worker_pid)
        world.assert_nothing_is_left(self.share_id)
        check = {
            OperationKind.CREATE: self._assert_created,
            OperationKind.RESTORE: self._assert_restored,
            OperationKind.DELETE: self._assert_deleted,
        }[self.kind]
        check(ended)

    def _assert_created(self, ended: Operation) -> None:
        world, backup_id = self.world, self.queued.backup_id
        backup = world.backup(backup_id)
        assert backup is not None
        assert world.share_status(self.share_id) is ShareStatus.AVAILABLE
        if ended.status is FAILED:
            assert (backup.status, backup.fail_reason) == (BackupStatus.ERROR, ended.fail_reason)
            assert world.epochs(backup_id) == {}
            return
        assert backup.status is BackupStatus.AVAILABLE
        assert world.epochs(backup_id) == {backup.published_epoch: True}
        assert world.tree(self.share_id) == self.before
        self._assert_it_restores()

    def _assert_restored(self, ended: Operation) -> None:
        world, backup_id = self.world, self.queued.backup_id
        assert world.backup_status(backup_id) is BackupStatus.AVAILABLE
        status = world.share_status(self.share_id)
        if ended.status is DONE:
            assert status is ShareStatus.AVAILABLE
            assert world.tree(self.share_id) == self.before
        elif status is not ShareStatus.AVAILABLE:
            assert status is ShareStatus.BACKUP_RESTORING_ERROR
        self._assert_it_restores()

    def _assert_it_restores(self) -> None:
        world = self.world
        (world.store.tree(self.share_id) / "another").touch()
        again = world.work(world.queue_restore(self.queued.backup_id, self.share_id))
        assert again.status is DONE, again.fail_reason
        assert world.share_status(self.share_id) is ShareStatus.AVAILABLE
        assert world.tree(self.share_id) == self.before
        world.assert_nothing_is_left(self.share_id)

    def _assert_deleted(self, ended: Operation) -> None:
        world, backup_id = self.world, self.queued.backup_id
        if ended.status is FAILED:
            assert world.backup_status(backup_id) is BackupStatus.ERROR_DELETING
            return
        assert world.backup(backup_id) is None
        assert world.epochs(backup_id) == {}


@pytest.mark.parametrize("cell", parameters())
def test_whatever_befalls_a_node(world: World, cell: Cell) -> None:
    site = Site(world, cell.step.kind)
    if cell.fault is Fault.SUSPENDED:
        child = suspended_at(world, cell.step.name, site.queued)
        site.go_on(cell.successor)
        before = site.rows()
        continued(world, child)
        assert site.rows() == before, "who was overtaken changes nothing"
    else:
        site.befall(cell)
        site.go_on(cell.successor)
    comes_back(world)
    site.assert_settled()


def test_some_cells_have_each_fault_at_each_step_and_all_have_each_successor() -> None:
    every = cells()
    for seed in range(3):
        some, more = chosen(seed)
        assert {(cell.step, cell.fault) for cell in some} == {
            (cell.step, cell.fault) for cell in every
        }
        assert {(cell.step, cell.successor) for cell in some + more} == {
            (cell.step, cell.successor) for cell in every
        }
        assert len(set(some + more)) == len(some + more) < len(every)
