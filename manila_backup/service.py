# SPDX-License-Identifier: Apache-2.0
"""The services as oslo.service runs them, on its threading back end.

Everything that holds a thread, a socket or a connection is made in ``start``, which runs in the
process that works: a launcher may fork before it.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import manila_backup.oslo_threading  # noqa: F401  isort: skip - before what it prepares
from cheroot import wsgi
from oslo_config import cfg
from oslo_log import log
from oslo_service import service
from stevedore.driver import DriverManager
from stevedore.exception import NoMatches

from manila_backup.data.copy.rate import SharedRate
from manila_backup.data.manager import DataManager
from manila_backup.data.mounts import MountManager
from manila_backup.data.node import Node, NodeSettings
from manila_backup.data.rpcapi import (
    MessagingWaker,
    NullWaker,
    Waker,
    WakeUpServer,
    get_notifications,
    get_transport,
)
from manila_backup.db.engine import Database
from manila_backup.share.base import ShareProvider

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

LOG = log.getLogger(__name__)

HEARTBEATS_PER_LEASE = 4

BACKLOG = 256
"""Connections that may wait to be accepted. Of more at the same time the kernel lets some wait for
a second and resets others; the HTTP server's own default is 5."""


def build_database(conf: cfg.ConfigOpts) -> Database:
    """:raises ValueError: option [database] connection is missing."""
    if not conf.database.connection:
        raise ValueError("option connection in group [database] is required")
    return Database(conf.database.connection)


def build_provider(conf: cfg.ConfigOpts) -> ShareProvider:
    """The share provider that the configuration names. Nothing is asked of anybody yet.

    :raises ValueError: there is none of this name, or an option of its own is missing; the message
        names it.
    """
    try:
        plugin = DriverManager("manila_backup.share_providers", conf.share_provider)
    except NoMatches as error:
        raise ValueError(f"option share_provider: there is no {conf.share_provider}") from error
    provider: ShareProvider = plugin.driver.from_conf(conf)
    return provider


def build_node(conf: cfg.ConfigOpts) -> Node:
    """The parts of a data node."""
    return Node(
        settings=NodeSettings.from_conf(conf),
        database=build_database(conf),
        provider=build_provider(conf),
        mounts=MountManager(conf.mount_directory),
        rate=SharedRate(conf.max_bytes_per_s),
        notifications=get_notifications(conf, conf.host),
    )


def build_waker(conf: cfg.ConfigOpts) -> Waker:
    """How an API process of its own wakes the data nodes: over the bus, if one is configured."""
    return MessagingWaker(get_transport(conf)) if conf.use_bus else NullWaker()


class DataService(service.Service):  # type: ignore[misc]
    """A data node: the manager, its timers and its end of the bus.

    :param make_node: called in ``start``.
    """

    def __init__(self, conf: cfg.ConfigOpts, make_node: Callable[[], Node]) -> None:
        super().__init__()
        self._conf = conf
        self._make_node = make_node
        self._server: WakeUpServer | None = None
        self._rate: SharedRate | None = None
        self.manager: DataManager | None = None

    def start(self) -> None:
        node = self._make_node()
        self._rate = node.rate
        self.manager = DataManager(node)
        self.manager.start()
        settings = node.settings
        self.tg.add_timer(settings.lease_s / HEARTBEATS_PER_LEASE, self.manager.heartbeat)
        self.tg.add_timer(settings.reaper_interval_s, self.manager.reap)
        if self._conf.use_bus:
            transport = get_transport(self._conf)
            self._server = WakeUpServer(transport, settings.host, self.manager.wake)
            self._server.start()

    def reset(self) -> None:
        """Mutable options have been read again."""
        if self._rate is not None:
            self._rate.set(self._conf.max_bytes_per_s)

    def wake(self) -> None:
        """Look into the queue now; for an API in the same process."""
        if self.manager is not None:
            self.manager.wake()

    def stop(self, graceful: bool = True) -> None:
        if self._server is not None:
            self._server.stop()
        if self.manager is not None:
            self.manager.stop()
        super().stop()


class ApiService(service.Service):  # type: ignore[misc]
    """The API in a threaded HTTP server.

    :param make_app: called in ``start``.
    :param port: 0 takes a free one; :attr:`port` tells which.
    """

    def __init__(
        self, make_app: Callable[[], WSGIApplication], host: str, port: int, *, threads: int = 16
    ) -> None:
        super().__init__()
        self._make_app = make_app
        self._host = host
        self._threads = threads
        self.port = port
        self._server: Any = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """:raises OSError: the address is taken or not ours; nothing runs then."""
        self._server = wsgi.Server(
            (self._host, self.port),
            self._make_app(),
            numthreads=self._threads,
            request_queue_size=BACKLOG,
            shutdown_timeout=5,
        )
        self._server.server_name = "manila-backup-api"
        self._server.prepare()
        self.port = self._server.bind_addr[1]
        self._thread = threading.Thread(target=self._server.serve, name="api", daemon=True)
        self._thread.start()

    def stop(self, graceful: bool = True) -> None:
        if self._server is not None:
            self._server.stop()
        super().stop()

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
        super().wait()


def launch(conf: cfg.ConfigOpts, runs: service.Service) -> int:
    """Run one service under oslo.service's launcher until a signal ends it; the exit status.

    The launcher watches a child in which the service runs. SIGHUP reads mutable options again,
    in both.
    """
    _reset_at_sighup(conf)
    launcher = service.launch(conf, runs, restart_method="mutate")
    return int(launcher.wait() or 0)


def _reset_at_sighup(conf: cfg.ConfigOpts) -> None:
    """Let the child go on at SIGHUP, too.

    Cotyledon asks its service's ``reload`` then, and oslo.service's wrapper (4.8) has none: the
    child would end, hand its operations over, and be started again.
    """

    def reload(wrapper: Any) -> None:
        conf.mutate_config_files()
        wrapper.service_instance.reset()
        LOG.info("Mutable options have been read again.")

    try:
        module = importlib.import_module("oslo_service.backend._threading.service")
        module.ServiceWrapper.reload = reload
    except (ImportError, AttributeError):
        LOG.warning("This oslo.service is built in another way: SIGHUP restarts the service.")
