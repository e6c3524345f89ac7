# SPDX-License-Identifier: Apache-2.0
"""Notifications of what becomes of operations, as other services of OpenStack send them.

``share.backup.<create|restore|delete>.<start|progress|end|error>``: the beginning of an attempt,
each further tenth, success, and failure or cancellation. At most once each: a node that dies takes
with it what it has not said yet, and what the rows say counts.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol

from manila_backup.data.outbox import Outbox
from manila_backup.db.operations import Operation
from manila_backup.types import Counters


class Notifications(Protocol):
    def emit(self, operation: Operation, what: str, **more: Any) -> None:
        """``what`` is start, progress, end or error; ``more`` goes into the payload. Never raises
        and does not wait."""


class NoNotifications:
    """Nobody listens."""

    def emit(self, operation: Operation, what: str, **more: Any) -> None:
        return


class Notifier(Protocol):
    """What is used of oslo.messaging's."""

    def info(self, context: dict[str, Any], event_type: str, payload: dict[str, Any]) -> None: ...

    def error(self, context: dict[str, Any], event_type: str, payload: dict[str, Any]) -> None: ...


class BusNotifications:
    """Errors have the priority ERROR, all else INFO."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._outbox = Outbox[tuple[str, dict[str, Any]]]("A notification", self._send)

    def emit(self, operation: Operation, what: str, **more: Any) -> None:
        payload = {
            "backup_id": operation.backup_id,
            "share_id": operation.share_id,
            "project_id": operation.project_id,
            "user_id": operation.user_id,
            "operation_id": operation.id,
            "request_id": operation.request_id,
            "host": operation.host,
            "attempt": operation.attempts,
            **{key: _plain(value) for key, value in more.items()},
        }
        self._outbox.put((f"share.backup.{operation.kind}.{what}", payload))

    def _send(self, message: tuple[str, dict[str, Any]]) -> None:
        event_type, payload = message
        say = self._notifier.error if event_type.endswith(".error") else self._notifier.info
        say({"request_id": payload["request_id"]}, event_type, payload)


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, Counters) else value
