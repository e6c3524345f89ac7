# SPDX-License-Identifier: Apache-2.0
"""The real file system, of which one call fails."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from typing import Any

from manila_backup.data.copy.sysio import Files


class Faulty(Files):
    """The call number ``fail_at`` (from 0) fails with EIO; ``failed`` names it, once it has."""

    def __init__(self, fail_at: int) -> None:
        self.fail_at = fail_at
        self.calls = 0
        self.failed: str | None = None

    def note(self, name: str) -> None:
        self.calls += 1
        if self.calls == self.fail_at + 1:
            self.failed = name
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def _failing(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def method(self: Faulty, *args: Any, **kwargs: Any) -> Any:
        if name == "close":
            # As the kernel does: the fd is gone whatever close answers.
            real(self, *args, **kwargs)
            return self.note(name)
        self.note(name)
        return real(self, *args, **kwargs)

    return method


for _name in vars(Files):
    if not _name.startswith("_"):
        setattr(Faulty, _name, _failing(_name, getattr(Files, _name)))
