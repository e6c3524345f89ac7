# SPDX-License-Identifier: Apache-2.0
"""A process of a parallel copy: ``python -m manila_backup.data.copy.child SOCKET BOARD PARENT``.

It talks pickles over the socket, with nobody but its parent: first the :class:`Setup`, then
bundles of numbered tasks; back come, for each, the numbers with what became of them. It dies with
its parent: by PDEATHSIG when the parent's thread goes, and by end of file on the socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import resource
import signal
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.board import Board
from manila_backup.data.copy.crew import Done, ThreadTeam, Worker
from manila_backup.data.copy.errors import copy_failed
from manila_backup.data.copy.heap import collect_seldom, keep_large_blocks_apart
from manila_backup.data.copy.notes import Pulse
from manila_backup.data.copy.sysio import SYSTEM

PR_SET_PDEATHSIG = 1

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Whoever stops the parent and its group with one of these lets the parent stop its children in
order. The parent blocks them while it starts a child, and blocked they stay."""

WINDOW = 8
"""Directories kept open per tree and thread: there may be many threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the workers of a process are to work on; the fds are inherited. ``kind`` is ``copy`` or
    ``restore``; ``first_slot`` and ``slots`` are of the :class:`Board`."""

    kind: str
    source_fd: int
    target_fd: int
    options: CopyOptions
    hashing: bool
    first_slot: int = 0
    slots: int = 0

    def worker(self, pulse: Pulse, *, window: int = WINDOW) -> Worker[Any]:
        """:raises CopyFailed: the roots cannot be looked at."""
        try:
            return self._worker(pulse, window)
        except OSError as error:
            raise copy_failed(b"", error) from error

    def _worker(self, pulse: Pulse, window: int) -> Worker[Any]:
        if self.kind == "copy":
            from manila_backup.data.copy.copier import Copier

            return Copier(
                self.source_fd,
                self.target_fd,
                self.options,
                pulse,
                hashing=self.hashing,
                share=True,
                files=SYSTEM,
                window=window,
            )
        from manila_backup.data.copy.layer import Layer

        return Layer(
            self.source_fd, self.target_fd, self.options, pulse, files=SYSTEM, window=window
        )


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the parent's thread ends; at once if it is gone."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def allow_many_fds() -> None:
    """The usual 1,024 are too few for some 30 in each of many threads, deep in a tree."""
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def packed(done: list[Done]) -> bytes:
    """What cannot be handed over must not be waited for: it is told by name."""
    try:
        return pickle.dumps(done, pickle.HIGHEST_PROTOCOL)
    except Exception:  # noqa: BLE001 - whatever a result's own methods raise
        told = [(number, _presentable(result)) for number, result in done]
        return pickle.dumps(told, pickle.HIGHEST_PROTOCOL)


def _presentable(result: object) -> object:
    try:
        pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # noqa: BLE001 - as above
        return RuntimeError(f"a {type(result).__name__} cannot be handed over: {error!r}")
    return result


def main(argv: list[str]) -> None:
    connection, board_fd = Connection(int(argv[0])), int(argv[1])
    die_with_parent(int(argv[2]))
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    keep_large_blocks_apart()
    collect_seldom()
    os.umask(0)
    os.chdir("/")
    allow_many_fds()
    try:
        setup: Setup = connection.recv()
        board = Board(board_fd, setup.slots)
        _serve(connection, setup, board)
    except (EOFError, OSError):
        # The parent is gone, or has given us up: nothing may be written any more.
        os._exit(1)


def _serve(connection: Connection, setup: Setup, board: Board) -> None:
    lock = threading.Lock()

    def done(results: list[Done]) -> None:
        answer = packed(results)
        with lock, contextlib.suppress(BrokenPipeError):
            connection.send_bytes(answer)

    team = ThreadTeam(
        setup.worker,
        setup.options.threads,
        cancelled=board.is_stopped,
        live=lambda index, figure: board.put(setup.first_slot + index, figure),
        done=done,
        rate_path=setup.options.rate_path,
        is_asked_to_share=board.is_asked_to_share,
    )
    # What there is by now stays: no need to look at it again at each collection.
    gc.freeze()
    while (bundle := connection.recv()) is not None:
        team.submit(bundle)
    team.close()


if __name__ == "__main__":
    main(sys.argv[1:])
