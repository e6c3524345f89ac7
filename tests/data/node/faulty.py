# SPDX-License-Identifier: Apache-2.0
"""Real parts that fail where a test says so: workers, the provider, the runner of mount(8). Each is
derived from the real one and does all of its work.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from manila_backup.context import RequestContext
from manila_backup.data.mounts import run_command
from manila_backup.share.local.provider import LocalShareProvider
from manila_backup.share.local.store import LocalShareStore
from manila_backup.types import AccessLevel, Grant, Mount, Share
from tests.support.waiting import looks

LIMIT_S = 20.0
"""How long a test waits for what must happen; only a failing test waits so long."""

Act = Callable[[], object]


class WorkerFaults:
    """Lays faults down for workers, and meets those that wait."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory

    def lay(self, step: str, what: str) -> None:
        """One at a time per step; after it was taken there may be another."""
        for left in ("here", "go"):
            (self._directory / f"{step}.{left}").unlink(missing_ok=True)
        if what in ("wait", "hang", "pass"):
            os.mkfifo(self._directory / f"{step}.here")
        (self._directory / step).write_text(what)

    def met(self, step: str) -> bool:
        """Whether a worker has taken the fault."""
        return not (self._directory / step).exists()

    def meet(self, step: str, *, limit_s: float = LIMIT_S) -> int:
        """Wait until a worker is at the step; its pid."""
        pipe = os.open(self._directory / f"{step}.here", os.O_RDONLY | os.O_NONBLOCK)
        with open(pipe, encoding="ascii") as stream:
            poll = select.poll()
            poll.register(pipe, select.POLLIN)
            assert poll.poll(limit_s * 1000), f"no worker came to {step}"
            return int(stream.read())

    def let_go(self, step: str) -> None:
        """Let a worker go on that was met and passes."""
        (self._directory / f"{step}.go").touch()

    def meet_and(self, step: str, act: Act, *, go: bool) -> threading.Thread:
        """Meet a worker in a thread of its own, act, and with ``go`` let it pass. To be joined."""

        def work() -> None:
            self.meet(step)
            act()
            if go:
                self.let_go(step)

        thread = threading.Thread(target=work)
        thread.start()
        return thread


class Steps:
    """What a test wants to happen before the n-th time that a step is reached, and what was."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._acts: dict[tuple[str, int], Act] = {}
        self._lock = threading.Lock()

    def before(self, step: str, act: Act, *, time: int = 1) -> None:
        """Let ``act`` happen (or raise) at the ``time``-th time from now."""
        self._acts[(step, self.seen.count(step) + time)] = act

    def fail(self, step: str, error: Exception, *, time: int = 1, times: int = 1) -> None:
        def raising() -> None:
            raise error

        for number in range(time, time + times):
            self.before(step, raising, time=number)

    def reach(self, step: str) -> None:
        with self._lock:
            self.seen.append(step)
            act = self._acts.pop((step, self.seen.count(step)), None)
        if act is not None:
            act()

    def all_met(self) -> bool:
        return not self._acts


class Provider(LocalShareProvider):
    """The local provider, with :class:`Steps` named like its methods."""

    def __init__(self, store: LocalShareStore, steps: Steps, *, bind_mounts: bool) -> None:
        super().__init__(store, bind_mounts=bind_mounts)
        self._steps = steps

    def get(self, context: RequestContext, share_id: str) -> Share:
        self._steps.reach("get")
        return super().get(context, share_id)

    def mark(self, share: Share, operation_id: str, status: str) -> None:
        self._steps.reach("mark")
        super().mark(share, operation_id, status)
        self._steps.reach("marked")

    def unmark(self, share_id: str, operation_id: str) -> None:
        self._steps.reach("unmark")
        super().unmark(share_id, operation_id)

    def grant(self, share: Share, address: str, level: AccessLevel) -> Grant:
        self._steps.reach("grant")
        found = super().grant(share, address, level)
        self._steps.reach("granted")
        return found

    def revoke(self, grant: Grant) -> None:
        self._steps.reach("revoke")
        super().revoke(grant)

    def mounts(self, share: Share) -> list[Mount]:
        self._steps.reach("mounts")
        return super().mounts(share)


class Runner:
    """The real mount(8) and umount(8), with steps ``mount`` and ``umount``."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def __call__(self, argv: list[str]) -> None:
        self._steps.reach(argv[0])
        run_command(argv)


def wait_for(condition: Callable[[], Any], what: str, *, limit_s: float = LIMIT_S) -> None:
    """Look again and again until it holds; fails after ``limit_s``."""
    assert any(condition() for _ in looks(limit_s)), f"did not happen: {what}"
