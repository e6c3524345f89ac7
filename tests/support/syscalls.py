# SPDX-License-Identifier: Apache-2.0
"""Ways to sit between the copy engine and the file system: fail the n-th call, or act right before
or after a call as a rival would.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from manila_backup.data.copy.sysio import SYSTEM, Files


class Watched(Files):
    """The real thing, with ``before(call, args)`` and ``after(call, args)`` around each call.

    What is raised by ``before`` happens instead of the call (a close takes place all the same, as
    the kernel does it).
    """

    def __init__(
        self,
        before: Callable[[str, tuple[Any, ...]], None] = lambda call, args: None,
        after: Callable[[str, tuple[Any, ...]], None] = lambda call, args: None,
    ) -> None:
        self._before = before
        self._after = after

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(Files, name):
            return object.__getattribute__(self, name)
        real = getattr(SYSTEM, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                self._before(name, args)
            except OSError:
                if name == "close":
                    real(*args)
                raise
            result = real(*args, **kwargs)
            self._after(name, args)
            return result

        return call


class Faulty(Watched):
    """Fails the call number ``fail_at`` (from 1) with ``error``; ``hit`` says which it was."""

    def __init__(self, fail_at: int, error: int) -> None:
        super().__init__(before=self._count)
        self.calls = 0
        self.fail_at = fail_at
        self.error = error
        self.hit: tuple[str, tuple[Any, ...]] | None = None

    def _count(self, name: str, args: tuple[Any, ...]) -> None:
        self.calls += 1
        if self.calls == self.fail_at:
            self.hit = name, args
            raise OSError(self.error, os.strerror(self.error))


class Rival(Watched):
    """Acts once, at the first call that ``when`` says yes to: before it, or after it."""

    def __init__(
        self,
        when: Callable[[str, tuple[Any, ...]], bool],
        act: Callable[[], None],
        *,
        after: bool = False,
        times: int = 1,
    ) -> None:
        super().__init__(**{"after" if after else "before": self._act_once})
        self._when = when
        self._what = act
        self._left = times
        self.acted = 0

    def _act_once(self, name: str, args: tuple[Any, ...]) -> None:
        if self._left and self._when(name, args):
            self._left -= 1
            self.acted += 1
            self._what()


def call(name: str, *first: Any) -> Callable[[str, tuple[Any, ...]], bool]:
    """A condition for :class:`Rival`: this call, with these first arguments."""
    return lambda called, args: called == name and args[: len(first)] == first


def opening(name: bytes) -> Callable[[str, tuple[Any, ...]], bool]:
    """A condition for :class:`Rival`: an entry of this name is opened, one way or another."""
    return lambda called, args: called in ("open", "open_here") and args[0] == name


def open_fds() -> set[int]:
    """The fds of this process."""
    return {int(name) for name in os.listdir("/proc/self/fd")}


class CountingFds(Watched):
    """Remembers the most fds that were open at once."""

    def __init__(self) -> None:
        super().__init__(after=self._look)
        self.most = 0

    def _look(self, name: str, args: tuple[Any, ...]) -> None:
        if name in ("open", "open_here"):
            self.most = max(self.most, len(os.listdir("/proc/self/fd")))
