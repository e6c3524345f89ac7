# SPDX-License-Identifier: Apache-2.0
"""A real SIGKILL exactly before the n-th change of the file system.

The interpreter's audit events name each call that makes, removes or changes something; a hook in a
forked child counts them and kills the child there. No code under test knows of it.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

Hook = Callable[[str, tuple[Any, ...]], None]

_CHANGES = frozenset(
    {
        "os.chmod",
        "os.chown",
        "os.link",
        "os.mkdir",
        "os.remove",
        "os.removexattr",
        "os.rename",
        "os.rmdir",
        "os.setxattr",
        "os.symlink",
        "os.truncate",
        "os.utime",
    }
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _is_change(event: str, args: tuple[Any, ...]) -> bool:
    return event in _CHANGES or (event == "open" and bool(args[2] & _WRITING))


def killed_before(change: int, act: Callable[[], object]) -> bool:
    """Run ``act`` in a child that dies before its n-th change (from 0); whether it came so far."""
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if _is_change(event, args):
            if seen == change:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    status = in_child(act, hook)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the child failed; see its traceback"
    return False


def every_kill(act: Callable[[], object]) -> Iterator[int]:
    """Runs ``act`` again and again, killed one change later each time; ends when it lives.

    Between two runs the caller looks at what is left, and restores what ``act`` starts from.
    """
    change = 0
    while killed_before(change, act):
        yield change
        change += 1
    assert change > 0


def in_child(act: Callable[[], object], hook: Hook) -> int:
    """Run ``act`` in a forked child with an audit hook, which could not be taken off again here.

    Answers the child's wait status.
    """
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    try:
        sys.addaudithook(hook)
        act()
        status = 0
    except BaseException:  # noqa: BLE001 - the boundary of the process
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)
