# SPDX-License-Identifier: Apache-2.0
"""Wake-ups: "there is work", said to the data nodes after a commit.

A wake-up carries an id only and may be lost: the row is the truth and every node polls.
"""

from __future__ import annotations

import importlib
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
