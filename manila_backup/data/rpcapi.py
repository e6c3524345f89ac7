# SPDX-License-Identifier: Apache-2.0
"""Wake-ups: "there is work", said to the data nodes after a commit.

A wake-up carries an id only and may be lost: the row is the truth and every node polls.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any, Protocol

import manila_backup.oslo_threading  # noqa: F401  isort: skip - before what it prepares
import oslo_messaging
from oslo_config import cfg
from oslo_log import log
from oslo_messaging import opts

from manila_backup.data.node import TOPIC
from manila_backup.data.notifications import BusNotifications, NoNotifications, Notifications
from manila_backup.data.outbox import Outbox

LOG = log.getLogger(__name__)

_NOTIFICATIONS = "oslo_messaging_notifications"

_HIDDEN_OPTIONS = {
    "oslo_messaging_metrics": "oslo_messaging._metrics.client",
    "oslo_messaging_tracing": "oslo_messaging._tracing.client",
}
"""Option group, also the name of the list of its options -> module."""


def get_transport(conf: cfg.ConfigOpts) -> Any:
    """The RPC transport that ``conf`` names."""
    _register_hidden(conf)
    return oslo_messaging.get_rpc_transport(conf)


def get_notifications(conf: cfg.ConfigOpts, host: str) -> Notifications:
    """As [oslo_messaging_notifications] says; without a driver there nobody is told anything and no
    bus need be named.
    """
    _register_hidden(conf)
    conf.register_opts(_options_of_notifications(), group=_NOTIFICATIONS)
    if not conf[_NOTIFICATIONS].driver:
        return NoNotifications()
    transport = oslo_messaging.get_notification_transport(conf)
    publisher = f"manila-backup-data.{host}"
    return BusNotifications(oslo_messaging.Notifier(transport, publisher_id=publisher, retry=0))


def _options_of_notifications() -> list[cfg.Opt]:
    return next(options for group, options in opts.list_opts() if group == _NOTIFICATIONS)


def _register_hidden(conf: cfg.ConfigOpts) -> None:
    """oslo.messaging registers some options with oslo.config's global object only, but asks the
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
        self._client = oslo_messaging.get_rpc_client(transport, target, retry=0)
        self._outbox = Outbox[str]("A wake-up for an operation", self._cast)

    def wake(self, operation_id: str) -> None:
        self._outbox.put(operation_id)

    def _cast(self, operation_id: str) -> None:
        # The operation is committed; the nodes' polls heal what the bus loses.
        self._client.cast({}, "wake", operation_id=operation_id)


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
