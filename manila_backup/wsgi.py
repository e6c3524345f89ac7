# SPDX-License-Identifier: Apache-2.0
"""The API for any WSGI server: ``manila_backup.wsgi:application``.

Nothing is read or connected at import. The first request reads the configuration from the files
that the environment variable ``MANILA_BACKUP_CONFIG`` names (separated by ``:``), or else from
where oslo.config looks for the project ``manila-backup``; so it happens in the process that serves,
after the server has forked.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from oslo_config import cfg

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from manila_backup.api.route import RouteTable
    from manila_backup.db.engine import Database
    from manila_backup.share.base import ShareProvider

CONFIG_VARIABLE = "MANILA_BACKUP_CONFIG"


def build_from_conf(conf: cfg.ConfigOpts) -> WSGIApplication:
    """The API as the configuration says.

    :raises ValueError: option [database] connection is missing, or one of [gateway] is wrong.
    """
    from manila_backup import service
    from manila_backup.api.app import build_app
    from manila_backup.api.gateway.options import gateway_from_conf
    from manila_backup.api.options import settings_from_conf

    database = service.build_database(conf)
    provider = service.build_provider(conf)
    return build_app(
        settings_from_conf(conf, driver=conf.backup_driver),
        database,
        provider,
        service.build_waker(conf),
        _local_routes(provider, database),
        conf=conf,
        gateway=gateway_from_conf(conf),
    )


def _local_routes(provider: ShareProvider, database: Database) -> RouteTable:
    """For shares that have no API of their own elsewhere."""
    from manila_backup.share.stores import KeepsShares

    if not isinstance(provider, KeepsShares):
        return ()
    from manila_backup.api.local.routes import local_routes

    return local_routes(provider, database)


class _Lazy:
    """Builds the application at the first request, once for all threads of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._app: WSGIApplication | None = None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        app = self._app
        if app is None:
            with self._lock:
                app = self._app = self._app or _build()
        return app(environ, start_response)


def _build() -> WSGIApplication:
    from manila_backup import config

    named = os.environ.get(CONFIG_VARIABLE)
    conf = config.load([], files=named.split(":") if named else None)
    config.set_up_logging(conf)
    return build_from_conf(conf)


application = _Lazy()
