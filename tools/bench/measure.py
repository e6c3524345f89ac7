# SPDX-License-Identifier: Apache-2.0
"""Run one copy and measure it: wall time, and CPU time of all its processes."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_LIMIT_S = 3600.0
_STRAGGLERS_LIMIT_S = 30.0


class RunFailed(Exception):
    """A copy ended with an error; the text has the end of what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A copy to run: one program, or several in a pipeline.

    ``syncs`` says that it ends with a sync of the target that others leave to their caller, and
    prints how long that took, as ``manila-backup-copy --json`` does.
    """

    stages: tuple[tuple[str, ...], ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    syncs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """``wall_s`` is without ``sync_s``, the time of the command's own sync. ``cpu_s`` is user and
    system time of every process that it started, its own sync included."""

    wall_s: float
    sync_s: float
    cpu_s: float


def measured(command: Command, *, log: Path) -> Measured:
    """Run it to its end. Its words go to ``log``, its output to ``log`` with ``.out``. Nothing of
    it runs any more on return, whatever the way out. Needs :func:`bench.system.adopt_orphans`, else
    orphans' CPU time is missed.

    :raises RunFailed:
    """
    before = _children_cpu_s()
    start = time.perf_counter()
    running = _started(command, log)
    group = running[0].pid
    try:
        with _killed_after(group, _LIMIT_S):
            for process in running:
                process.wait()
        wall_s = time.perf_counter() - start
        with _killed_after(group, _STRAGGLERS_LIMIT_S):
            _reap_group(group)
    except BaseException:  # Ctrl-C first of all: the copies are not in the terminal's group
        _end_group(group)
        raise
    failed = [process.returncode for process in running if process.returncode != 0]
    if failed:
        raise RunFailed(f"exit status {failed[0]}: {_end_of(log)}")
    sync_s = _told_sync_s(log) if command.syncs else 0.0
    cpu_s = _children_cpu_s() - before
    return Measured(wall_s=wall_s - sync_s, sync_s=sync_s, cpu_s=cpu_s)


def _started(command: Command, log: Path) -> list[subprocess.Popen[bytes]]:
    """All stages in one process group, that of the first."""
    running: list[subprocess.Popen[bytes]] = []
    last = len(command.stages) - 1
    with log.open("wb") as words, _output_of(log).open("wb") as output:
        for number, argv in enumerate(command.stages):
            process = subprocess.Popen(
                argv,
                stdin=running[-1].stdout if running else subprocess.DEVNULL,
                stdout=output if number == last else subprocess.PIPE,
                stderr=words,
                env={**os.environ, **command.environment},
                process_group=running[0].pid if running else 0,
            )
            if running and running[-1].stdout is not None:
                # Ours too, else the first program never learns that the second has gone.
                running[-1].stdout.close()
            running.append(process)
    return running


def _reap_group(group: int) -> None:
    """Wait for what outlived its parent (helpers of a process pool)."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-group, 0)


@contextmanager
def _killed_after(group: int, limit_s: float) -> Iterator[None]:
    timer = threading.Timer(limit_s, _kill_group, [group])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_group(group: int) -> None:
    _kill_group(group)
    _reap_group(group)


def _kill_group(group: int) -> None:
    """Unless all of it was waited for: then the number may be somebody else's by now."""
    try:
        os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        os.killpg(group, signal.SIGKILL)
    except (ChildProcessError, ProcessLookupError):
        return


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _output_of(log: Path) -> Path:
    return log.with_suffix(".out")


def _told_sync_s(log: Path) -> float:
    return float(json.loads(_output_of(log).read_text())["phases"]["sync"])


def _end_of(log: Path) -> str:
    words = log.read_text(errors="replace") + _output_of(log).read_text(errors="replace")
    lines = words.strip().splitlines()
    return " / ".join(lines[-5:]) or "(it said nothing)"
