# SPDX-License-Identifier: Apache-2.0
"""Wake-ups: "there is work", said to the data nodes after a commit.

A wake-up carries an id only and may be lost: the row is the truth and every node polls.
"""

from __future__ import annotations

import importlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import manila_backup.oslo_threading  # noqa: F401  isort: skip - before what it prepares
import oslo_messaging
from oslo_config import cfg
from oslo_log import log

from manila_backup.data.node import TOPIC

LOG = log.getLogger(__name__)


_HIDDEN_OPTIONS = {
    "oslo_messaging_metrics": "oslo_messaging._metrics.client",
    "oslo_messaging_tracing": "oslo_messaging._tracing.client",
}
"""Option group, also the name of the list of its options -> module."""


def get_transport(conf: cfg.ConfigOpts) -> Any:
    """The RPC transport that ``conf`` names.

    oslo.messaging registers some options with oslo.config's global object only, but asks the
    transport's own for them at each message, sent or received (seen in 18.3): with a ``conf`` that
    lacks them no message gets through.
    """
    for group, module in _HIDDEN_OPTIONS.items():
        try:
            options = getattr(importlib.import_module(module), group)
        except (ImportError, AttributeError):
            LOG.debug("This oslo.messaging has no options %s.", group)
        else:
            conf.register_opts(options, group=group)
    return oslo_messaging.get_rpc_transport(conf)


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


_WAITING = 100
"""Wake-ups that may wait for the bus. One would do: a node that is woken looks at all that is
queued."""


class MessagingWaker:
    """Casts to all data nodes over oslo.messaging, from a thread of its own: a bus that is away, or
    that swallows packets, keeps no request waiting. The thread ends when all is sent.
    """

    def __init__(self, transport: Any) -> None:
        target = oslo_messaging.Target(topic=TOPIC, version="1.0", fanout=True)
        self._client = oslo_messaging.get_rpc_client(transport, target, retry=0)
        self._lock = threading.Lock()
        self._waiting: deque[str] = deque()
        self._is_sending = False

    def wake(self, operation_id: str) -> None:
        with self._lock:
            if len(self._waiting) >= _WAITING:
                LOG.warning("A wake-up for operation %s was not sent: too many wait.", operation_id)
                return
            self._waiting.append(operation_id)
            if not self._is_sending:
                threading.Thread(target=self._send, name="waker", daemon=True).start()
                self._is_sending = True

    def _send(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._is_sending = False
                    return
                operation_id = self._waiting.popleft()
            try:
                self._client.cast({}, "wake", operation_id=operation_id)
            except Exception as error:  # noqa: BLE001 - a bus fails in many ways
                # The operation is committed; the nodes' polls heal what the bus lost.
                LOG.warning("A wake-up for operation %s was not sent: %s", operation_id, error)


class WakeUpEndpoint:
    """What a data node answers wake-ups with."""

    target = oslo_messaging.Target(version="1.0")

    def __init__(self, listener: Callable[[], None]) -> None:
        self._listener = listener

    def wake(self, context: dict[str, Any], operation_id: str) -> None:
        LOG.debug("Woken for operation %s.", operation_id)
        self._listener()


class WakeUpServer:
    """A data node's end of the bus. Begins to listen in a thread of its own: while the bus is away
    that takes until it is back, and the node has its poll.
    """

    def __init__(self, transport: Any, host: str, listener: Callable[[], None]) -> None:
        target = oslo_messaging.Target(topic=TOPIC, server=host)
        self._server = oslo_messaging.get_rpc_server(transport, target, [WakeUpEndpoint(listener)])
        self._thread = threading.Thread(target=self._server.start, name="wake-ups", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """If it does not listen yet there is nothing to end: the thread dies with the process."""
        if not self._thread.is_alive():
            self._server.stop()
            self._server.wait()
