# SPDX-License-Identifier: Apache-2.0
"""A data node that is killed (SIGKILL) in the middle of a job: what it leaves is real."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from sqlalchemy import event

from manila_backup.db.engine import Database
from manila_backup.db.operations import Operation
from tests.data.node.faulty import wait_for
from tests.data.node.processes import is_alive
from tests.data.node.world import World

END = "end"
"""The step right before the transaction that ends the operation."""


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at(world: World, at: str, queued: Operation) -> None:
    """Work on the operation in a child that dies at the step (``STEP TURN``, or one of workers), or
    before a statement is executed (how it begins, and at which time).
    """
    child = os.fork()
    if child == 0:
        _work_until(world, at, queued)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the job did not come to {at}"
    assert os.WTERMSIG(status) == signal.SIGKILL
    worker = world.operation(queued).worker_pid
    if worker is not None:
        wait_for(lambda: not is_alive(worker), "the end of the worker")


def _work_until(world: World, at: str, queued: Operation) -> None:
    try:
        # Connections are not inherited.
        world.database = Database(world.database.connection)
        step, _, turn = at.rpartition(" ") if " " in at else (at, "", "")
        if at == END:
            event.listen(world.database.writer_engine, "before_cursor_execute", _kill_at_end)
        elif " " in step:
            _kill_at_statement(world.database, step, int(turn))
        elif turn:
            world.steps.before(step, kill_self, time=int(turn))
        else:
            world.workers.lay(step, "hang")
            world.workers.meet_and(step, kill_self, go=False)
        world.work(queued)
    except BaseException:  # noqa: BLE001 - the boundary of the process
        traceback.print_exc(file=sys.__stderr__)
    finally:
        # Not sys.exit: this is a copy of the test's process.
        os._exit(1)


def _kill_at_end(connection: Any, cursor: Any, sql: str, *_: Any) -> None:
    if sql.startswith("UPDATE operations") and "finished_at_us=" in sql:
        kill_self()


def _kill_at_statement(database: Database, beginning: str, turn: int) -> None:
    left = turn

    def look(connection: Any, cursor: Any, sql: str, *_: Any) -> None:
        nonlocal left
        left -= sql.startswith(beginning)
        if not left:
            kill_self()

    event.listen(database.writer_engine, "before_cursor_execute", look)


def suspended_at(world: World, at: str, queued: Operation) -> int:
    """Work on the operation in a child that is suspended at the step; its pid. Its worker, if there
    is one by then, waits until it is continued. Not in a transaction: SQLite's locks all others
    out."""
    child = os.fork()
    if child == 0:
        _work_suspended(world, at, queued)
    while True:
        _, status = os.waitpid(child, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"the job did not come to {at}"
        if _is_unlocked(world.database):
            return child
        os.kill(child, signal.SIGCONT)


def _is_unlocked(database: Database) -> bool:
    connection = sqlite3.connect(database.connection.partition("///")[2], timeout=0.05)
    with contextlib.closing(connection):
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
    return True


def _go_on(world: World) -> Path:
    """There when the suspended child is to continue for good."""
    return world.directory / "go on"


def continued(world: World, child: int) -> None:
    """Let it go on to its end, which must be one without an error."""
    _go_on(world).touch()
    os.kill(child, signal.SIGCONT)
    _, status = os.waitpid(child, 0)
    assert os.WIFEXITED(status)
    assert os.WEXITSTATUS(status) == 0


def _work_suspended(world: World, at: str, queued: Operation) -> None:
    status = 1
    try:
        world.database = Database(world.database.connection)

        def suspend_self() -> None:
            while not _go_on(world).exists():
                os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(0.05)  # for whoever is in a transaction to end it

        step, _, turn = at.partition(" ")
        if turn:
            world.steps.before(step, suspend_self, time=int(turn))
        else:
            world.workers.lay(step, "pass")
            world.workers.meet_and(step, suspend_self, go=True)
        world.work(queued)
        status = 0
    except BaseException:  # noqa: BLE001 - the boundary of the process
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)
