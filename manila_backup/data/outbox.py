# SPDX-License-Identifier: Apache-2.0
"""Messages that nobody waits for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from oslo_log import log

LOG = log.getLogger(__name__)

T = TypeVar("T")


class Outbox(Generic[T]):
    """Sends from a thread of its own, in order: a bus that is away, or that swallows packets, keeps
    nobody waiting. The thread ends when all is sent. What cannot be sent is lost and logged.
    """

    def __init__(self, what: str, send: Callable[[T], None], *, most: int = 100) -> None:
        """``what`` is sent, for the log; ``most`` may wait."""
        self._what = what
        self._send = send
        self._most = most
        self._lock = threading.Lock()
        self._waiting: deque[T] = deque()
        self._is_sending = False

    def put(self, message: T) -> None:
        """Never raises and does not wait."""
        with self._lock:
            if len(self._waiting) >= self._most:
                LOG.warning("%s was not sent, too many wait: %s", self._what, message)
                return
            self._waiting.append(message)
            if not self._is_sending:
                threading.Thread(target=self._run, name="outbox", daemon=True).start()
                self._is_sending = True

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._is_sending = False
                    return
                message = self._waiting.popleft()
            try:
                self._send(message)
            except Exception as error:  # noqa: BLE001 - a bus fails in many ways
                LOG.warning("%s was not sent (%s): %s", self._what, error, message)
