# SPDX-License-Identifier: Apache-2.0
"""The file server of a share dies under a job, at a moment that the test chooses."""

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

LIMIT_S = 200.0
STEPS = {"walk": "backup", "unmount": "done"}
"""At which of its steps the worker waits until the fault is there."""

OTHERS_AT = "copy"
"""The moment at which another job is begun: each costs twenty seconds in this machine."""


class Site:
    """A manager at work, a share on the server that dies and one on the other server."""

    def __init__(self, database_file: str, version: str) -> None:
        self.world = new_world("source", database_file, version)
        self.rate = SharedRate(0)
        node = self.world.nfs_node(max_attempts=1, max_operations=3, poll_interval_s=2.0)
        self.manager = DataManager(replace(node, rate=self.rate))
        self.share_id = self.world.share()
        self.large_id = self.world.share(filled=False)
        large = self.world.store.tree(self.large_id) / "large"
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
        while not self._ended.wait(0.5):
            self.manager.heartbeat()
            self._beats.append(time.monotonic())

    def longest_pause_s(self, since_s: float) -> float:
        beats = [since_s, *(beat for beat in self._beats if beat > since_s), time.monotonic()]
        return max(later - earlier for earlier, later in pairwise(beats))

    # --- one death --------------------------------------------------------------------------------

    def cell(self, fault: str, moment: str) -> dict[str, Any]:
        step = STEPS.get(moment)
        if step is not None:
            self.world.workers.lay(step, "pass")
        if moment == "copy":
            self.rate.set(RATE)
        if moment == "mount":
            strike("source", fault)
        share_id = self.large_id if moment == "copy" else self.share_id
        queued = self._queue(share_id)
        if step is not None:
            self.world.workers.meet(step, limit_s=LIMIT_S)
        elif moment == "copy":
            wait_for(
                lambda: self._now(queued).counters.bytes > LARGE_BYTES / 8, "bytes", limit_s=LIMIT_S
            )
        if moment != "mount":
            strike("source", fault)
        if step is not None:
            self.world.workers.let_go(step)
        began_s = time.monotonic()
        try:
            other = self._queue(self.other_id) if moment == OTHERS_AT else None
            ended = self._until_over(queued)
            took_s = time.monotonic() - began_s
            pause_s = self.longest_pause_s(began_s)
            others = None if other is None else self._until_over(other).status.value
        finally:
            self.rate.set(0)
            mend("source", fault)
        self.manager.reap()
        wait_for(lambda: HANGING.reap() == 0, "the end of what hangs", limit_s=LIMIT_S)
        self.world.assert_nothing_is_left(share_id)
        return {
            "status": ended.status.value,
            "reason": ended.fail_reason,
            "seconds": took_s,
            "other": others,
            "pause": pause_s,
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


def cells(*, version: str, wanted: list[list[str]], database_file: str) -> list[dict[str, Any]]:
    """What came of each (fault, moment), one after the other under one manager; in the end of a
    backup with all servers well."""
    site = Site(database_file, version)
    found = []
    with site.at_work():
        for fault, moment in wanted:
            found.append(site.cell(fault, moment))
        done = site._until_over(site._queue(site.share_id))
        found.append({"status": done.status.value, "reason": done.fail_reason})
    return found
