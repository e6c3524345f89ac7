# SPDX-License-Identifier: Apache-2.0
"""Catching a service at a certain moment of an operation.

The rows are read straight from the database, hundreds of times in the shortest phase; then the
service is stopped (SIGSTOP), which makes the moment stay, and looked at once more.
"""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from tests.acceptance.standalone import Standalone
from tests.acceptance.waiting import until

TRIES = 20


@dataclass(frozen=True, kw_only=True)
class Moment:
    """How far the newest operation of a backup is."""

    status: str
    phase: str | None
    progress: int
    epoch: int
    share_written: bool

    @property
    def is_over(self) -> bool:
        return self.status not in ("queued", "running")


def in_phase(name: str) -> Callable[[Moment], bool]:
    return lambda moment: moment.status == "running" and moment.phase == name


def copying(moment: Moment) -> bool:
    """Some of it is done, and not all."""
    return in_phase("copying")(moment) and 5 <= moment.progress <= 80


def catch(
    service: Standalone, begin: Callable[[], str], wanted: Callable[[Moment], bool]
) -> tuple[str, Moment]:
    """Begin operations until one is caught at a wanted moment. The service is left stopped.

    :param begin: returns the backup whose newest operation is meant.
    :returns: that backup and the moment.
    """
    seen: list[Moment] = []
    with _looking(service) as look:
        for _ in range(TRIES):
            backup_id = begin()
            while True:
                moment = look(backup_id)
                if wanted(moment):
                    _halt(service)
                    moment = look(backup_id)
                    if wanted(moment):
                        return backup_id, moment
                    service.process.send_signal(signal.SIGCONT)
                if not seen or seen[-1] != moment:
                    seen.append(moment)
                if moment.is_over:
                    break
    raise AssertionError(f"never caught at the moment; seen: {seen}")


@contextmanager
def _looking(service: Standalone) -> Iterator[Callable[[str], Moment]]:
    uri = f"file:{service.database}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:

        def look(backup_id: str) -> Moment:
            row = connection.execute(
                "SELECT status, phase, progress, epoch, share_written FROM operations"
                " WHERE backup_id = ? ORDER BY created_at_us DESC LIMIT 1",
                (backup_id,),
            ).fetchone()
            status, phase, progress, epoch, share_written = row
            return Moment(
                status=status,
                phase=phase,
                progress=progress,
                epoch=epoch,
                share_written=bool(share_written),
            )

        yield look


def _halt(service: Standalone) -> None:
    """SIGSTOP; returns when the whole process stands still."""
    service.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, service.process.pid, os.WSTOPPED)
    until(lambda: _states(service) <= {"T", "t"}, "all threads stopped")


def _states(service: Standalone) -> set[str]:
    found = set()
    for thread in os.listdir(f"/proc/{service.process.pid}/task"):
        with open(f"/proc/{service.process.pid}/task/{thread}/stat", encoding="utf-8") as stat:
            found.add(stat.read().rpartition(")")[2].split()[0])
    return found
