# SPDX-License-Identifier: Apache-2.0
"""Wake-ups: "there is work", said to the data nodes after a commit.

A wake-up carries an id only and may be lost: the row is the truth and every node polls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import manila_backup.oslo_threading  # noqa: F401  isort: skip - before what it prepares
import oslo_messaging
from oslo_log import log

from manila_backup.data.node import TOPIC

LOG = log.getLogger(__name__)


class Waker(Protocol):
    """Says that an operation was queued or is to be cancelled."""

    def wake(self, operation_id: str) -> None:
        """Never raises and does not wait: whoever calls has committed already."""
        ...


class InProcessWaker:
    """For API and data node in one process."""

    def __init__(self, listener: Callable[[], None]) -> None:
        self._listener = listener

    def wake(self, operation_id: str) -> None:
        self._listener()


class NullWaker:
    """Nobody listens; the nodes' polls find the work."""

    def wake(self, operation_id: str) -> None:
        return


class MessagingWaker:
    """Casts to all data nodes over oslo.messaging."""

    def __init__(self, transport: Any) -> None:
        target = oslo_messaging.Target(topic=TOPIC, version="1.0", fanout=True)
        self._client = oslo_messaging.get_rpc_client(transport, target)

    def wake(self, operation_id: str) -> None:
        try:
            self._client.cast({}, "wake", operation_id=operation_id)
        except Exception:
            # The operation is committed; the nodes' polls heal what the bus lost.
            LOG.warning("A wake-up for operation %s was not sent.", operation_id, exc_info=True)


class WakeUpEndpoint:
    """The data node's end of the bus."""

    target = oslo_messaging.Target(version="1.0")

    def __init__(self, listener: Callable[[], None]) -> None:
        self._listener = listener

    def wake(self, context: dict[str, Any], operation_id: str) -> None:
        LOG.debug("Woken for operation %s.", operation_id)
        self._listener()
