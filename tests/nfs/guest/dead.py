# SPDX-License-Identifier: Apache-2.0
"""The file server of several shares dies under a job of each, at moments that the test chooses."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from manila_backup.data.copy.rate import SharedRate
from manila_backup.data.hanging import HANGING
from manila_backup.data.manager import DataManager
from manila_backup.db.operations import Operation
from manila_backup.states import OperationStatus
from tests.data.node.faulty import wait_for
from tests.nfs.guest.site import mend, new_world, strike

LARGE_BYTES = 64 << 20
RATE = 4 << 20
"""Bytes per second: so most of the large file is still to be read when the server dies."""

LIMIT_S = 300.0
STEPS = {"walk": "backup", "unmount": "done"}
"""At which of its steps the worker waits until the fault is there."""

BEFORE = ["unmount", "walk", "copy"]
"""The moments that come before the fault, in the order in which jobs are brought to them: the one
that does not wait comes last."""


class Site:
    """A manager at work, a share on the server that dies and one on the other server."""

    def __init__(self, database_file: str, version: str) -> None:
        self.world = new_world("source", database_file, version)
        self.rate = SharedRate(0)
        node = self.world.nfs_node(max_attempts=1, max_operations=5, poll_interval_s=2.0)
        self.manager = DataManager(replace(node, rate=self.rate))
        # A job has its share for itself.
        self.shares = {moment: self.world.share() for moment in ("mount", "walk", "unmount")}
        self.shares["copy"] = self.world.share(filled=False)
        large = self.world.store.tree(self.shares["copy"]) / "large"
        large.write_bytes(bytes(range(256)) * (LARGE_BYTES // 256))
        self.other_id = self.world.share(filled=False)
        elsewhere = Path(tempfile.mkdtemp(prefix="other-", dir="/export/backup/ext4"))
        (elsewhere / "file").write_bytes(b"content")
        self.world.elsewhere[self.other_id] = elsewhere
        self._beats: list[float] = []
        self._ended = threading.Event()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        beating = threading.Thread(target=self._beat)
        self.manager.start()
        beating.start()
        try:
            yield
        finally:
            self._ended.set()
            beating.join()
            self.manager.stop()
            self.world.database.close()
            shutil.rmtree(self.world.backup_share)

    def _beat(self) -> None:
        while not self._ended.wait(1.0):
            self.manager.heartbeat()
            self._beats.append(time.monotonic())

    def longest_pause_s(self, since_s: float) -> float:
        beats = [since_s, *(beat for beat in self._beats if beat > since_s), time.monotonic()]
        return max(later - earlier for earlier, later in pairwise(beats))

    # --- one death --------------------------------------------------------------------------------

    def strike(self, fault: str, moments: list[str]) -> dict[str, Any]:
        """What comes of a job at each of the moments, of a job on the other server that begins
        meanwhile, and of the node's reports."""
        queued = {moment: self._bring_to(moment) for moment in BEFORE if moment in moments}
        strike("source", fault)
        began_s = time.monotonic()
        try:
            if "mount" in moments:
                queued["mount"] = self._queue(self.shares["mount"])
            other = self._queue(self.other_id)
            for moment in STEPS.keys() & queued.keys():
                self.world.workers.let_go(STEPS[moment])
            jobs = {moment: self._outcome(job, began_s) for moment, job in queued.items()}
            pause_s = self.longest_pause_s(began_s)
            others = self._until_over(other).status.value
        finally:
            self.rate.set(0)
            mend("source", fault)
        self.manager.reap()
        wait_for(lambda: HANGING.reap() == 0, "the end of what hangs", limit_s=LIMIT_S)
        for moment in moments:
            self.world.assert_nothing_is_left(self.shares[moment])
        return {"jobs": jobs, "other": others, "pause": pause_s}

    def _bring_to(self, moment: str) -> Operation:
        step = STEPS.get(moment)
        if step is not None:
            self.world.workers.lay(step, "pass")
            queued = self._queue(self.shares[moment])
            self.world.workers.meet(step, limit_s=LIMIT_S)
            return queued
        self.rate.set(RATE)
        queued = self._queue(self.shares[moment])
        wait_for(
            lambda: self._now(queued).counters.bytes > LARGE_BYTES / 8, "bytes", limit_s=LIMIT_S
        )
        return queued

    def _outcome(self, queued: Operation, began_s: float) -> dict[str, Any]:
        """Waits for it; ``seconds`` from the fault on, the wait for others before it included."""
        ended = self._until_over(queued)
        return {
            "status": ended.status.value,
            "reason": ended.fail_reason,
            "seconds": time.monotonic() - began_s,
        }

    def _queue(self, share_id: str) -> Operation:
        queued = self.world.queue_backup(share_id)
        self.manager.wake()
        return queued

    def _now(self, operation: Operation) -> Operation:
        return self.world.operation(operation)

    def _until_over(self, operation: Operation) -> Operation:
        going = (OperationStatus.QUEUED, OperationStatus.RUNNING)
        wait_for(lambda: self._now(operation).status not in going, "the end", limit_s=LIMIT_S)
        return self._now(operation)


def strikes(
    *, version: str, wanted: list[tuple[str, list[str]]], database_file: str
) -> dict[str, Any]:
    """What came of each fault at its moments, one fault after the other under one manager; and of a
    backup in the end, with all servers well."""
    site = Site(database_file, version)
    with site.at_work():
        found = {fault: site.strike(fault, moments) for fault, moments in wanted}
        done = site._until_over(site._queue(site.shares["walk"]))
    return {"faults": found, "afterwards": [done.status.value, done.fail_reason]}
