# SPDX-License-Identifier: Apache-2.0
"""``manila-backup-standalone`` in a process of its own, and what must be left when it has ended."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from manila_backup.data.mountinfo import mounted_below
from tests.acceptance.programs import BIN, Ended, Manage, OpenStack, run
from tests.acceptance.rest import ADMIN, Rest
from tests.acceptance.waiting import DEADLINE_S, Watched

_READY = re.compile(r"is ready: OS_AUTH_TYPE=none OS_ENDPOINT=(http://\S+/v2)$")
_STOP_S = 30.0
WORKER_DIES_WITHIN_S = 10.0


def arguments(state: Path, *more: str) -> list[str | Path]:
    """The command line of a service on a free port."""
    return [BIN / "manila-backup-standalone", "--state-dir", state, "--port", "0", *more]


def refused(state: Path, *more: str, user: int | None = None) -> Ended:
    """A start that must end by itself."""
    ended = run(arguments(state, *more), user=user)
    assert "is ready" not in ended.out
    assert "Traceback" not in ended.err
    return ended


class Standalone:
    """One running service. Made by :func:`running`, which ends it.

    :param prefix: words before the command line, of a program that executes the rest.
    """

    def __init__(
        self,
        state: Path,
        log: Path,
        more: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.state = state
        self.log = log
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [*prefix, *arguments(state, *more)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=sink,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        self.endpoint = self._ready()

    def _ready(self) -> str:
        """The endpoint, from what the service prints when it takes requests."""
        out = self.process.stdout
        assert out is not None
        os.set_blocking(out.fileno(), False)
        poll = select.poll()
        poll.register(out, select.POLLIN)
        said = b""
        end_s = time.monotonic() + DEADLINE_S
        while not said.endswith(b"/v2\n"):
            assert time.monotonic() < end_s, "the service did not become ready"
            poll.poll(1000)
            piece = out.read()
            assert piece != b"", f"the service ended: {self.log.read_text()}"
            said += piece or b""
        found = _READY.search(said.decode().strip())
        assert found is not None, said
        return found[1]

    # --- who talks to it --------------------------------------------------------------------------

    def rest(self, token: str = ADMIN) -> Rest:
        return Rest(self.endpoint, token)

    def client(self, token: str = ADMIN) -> OpenStack:
        return OpenStack(self.endpoint, token)

    @property
    def manage(self) -> Manage:
        return Manage(self.state)

    # --- what is in its state directory -----------------------------------------------------------

    @property
    def store(self) -> Path:
        return self.state / "backup_share"

    @property
    def database(self) -> Path:
        return self.state / "manila-backup.sqlite"

    def epochs(self, backup_id: str, project_id: str = "default") -> list[int]:
        """What the store has of a backup."""
        try:
            return sorted(int(name) for name in os.listdir(self.store / project_id / backup_id))
        except FileNotFoundError:
            return []

    def mounts(self) -> list[str]:
        return mounted_below(str(self.state))

    # --- its end ----------------------------------------------------------------------------------

    def children(self) -> list[int]:
        """All processes below it."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [child.pid for child in found]

    def stop(self, number: signal.Signals = signal.SIGTERM, *, within_s: float = _STOP_S) -> None:
        """Ask it to end, and see that it ends well and takes everything with it."""
        below = Watched(self.children())
        self.process.send_signal(number)
        status = self.process.wait(within_s)
        assert status == 0, f"it ended with {status}: {self.log.read_text()}"
        self._nothing_is_left(below, deadline_s=0)
        assert self.mounts() == []

    def kill(self) -> None:
        """SIGKILL it, alone. Its workers must end by themselves."""
        below = Watched(self.children())
        self.process.kill()
        assert self.process.wait(_STOP_S) == -signal.SIGKILL
        self._nothing_is_left(below, deadline_s=WORKER_DIES_WITHIN_S)

    def _nothing_is_left(self, below: Watched, *, deadline_s: float) -> None:
        assert below.living(deadline_s=deadline_s) == []
        assert self.process.stdout is not None
        with self.process.stdout as out:
            assert not out.read(), "standard output is for the line that says it is ready"

    def give_up(self) -> None:
        """Whatever became of the test, nothing stays behind."""
        if self.process.poll() is None:
            below = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            self.process.wait(_STOP_S)
            for child in below:
                if child.is_running():
                    child.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()
        for point in self.mounts():
            subprocess.run(["umount", "--lazy", "--", point], check=False)


@contextmanager
def running(
    state: Path,
    *more: str,
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    log: Path | None = None,
) -> Iterator[Standalone]:
    """A service that is stopped when the block ends, unless the block has ended it already.

    :param log: what it says on standard error; by default a file beside ``state``.
    """
    found = Standalone(
        state, log or state.with_name(f"{state.name}.log"), more, env=env, prefix=prefix
    )
    try:
        yield found
        if found.process.poll() is None:
            found.stop()
    finally:
        found.give_up()
