# SPDX-License-Identifier: Apache-2.0
"""Kill a process at each of its steps on the file system, and look at what it leaves."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

STEPS = frozenset(
    {
        "open",
        "os.chmod",
        "os.chown",
        "os.link",
        "os.listdir",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.scandir",
        "os.symlink",
        "os.truncate",
        "os.utime",
        "fcntl.flock",
    }
)
"""Audit events that CPython raises right before the system call of that name."""


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Run ``work`` in a child that is killed (SIGKILL) right before its ``step``-th step.

    False if it has come to its end before that. An error in the child fails the test.
    """
    child = os.fork()
    if child == 0:
        _work_until(step, work)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed; its traceback is on stderr"
    return False


def each_kill(work: Callable[[int], Callable[[], object]]) -> Iterator[int]:
    """Yield 1, 2, ... after ``work(step)`` was killed before that step, until one comes through.

    ``work`` is called in the parent, to prepare a place of its own for each step.
    """
    step = 1
    while killed_at(step, work(step)):
        yield step
        step += 1
    # Otherwise the events are not what this module believes.
    assert step > 1


def _work_until(step: int, work: Callable[[], object]) -> None:
    seen = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in STEPS:
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    status = 1
    try:
        work()
        status = 0
    finally:
        if status:
            traceback.print_exc()
        # Not sys.exit: this is a copy of the test's process.
        os._exit(status)
