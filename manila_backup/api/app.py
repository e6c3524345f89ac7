# SPDX-License-Identifier: Apache-2.0
"""Puts the API together: our application, and the middlewares of OpenStack around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from oslo_config import cfg
from oslo_middleware import http_proxy_to_wsgi, request_id

from manila_backup import policies
from manila_backup.api import healthcheck, metrics, openapi
from manila_backup.api.context import Authenticator, KeystoneAuth, NoAuth
from manila_backup.api.gateway.app import Gateway
from manila_backup.api.gateway.options import GatewaySettings
from manila_backup.api.keystone import KeystoneFront
from manila_backup.api.options import Settings
from manila_backup.api.request import Services, no_manifest_check
from manila_backup.api.route import RouteTable
from manila_backup.api.routes import ROUTES
from manila_backup.api.wsgi import Application
from manila_backup.share.base import ShareProvider

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from manila_backup.data.rpcapi import Waker
    from manila_backup.db.backups import Backup
    from manila_backup.db.engine import Database


def build_app(
    settings: Settings,
    database: Database,
    provider: ShareProvider,
    waker: Waker,
    extra_routes: RouteTable = (),
    *,
    conf: cfg.ConfigOpts | None = None,
    manifest_exists: Callable[[Backup], bool] = no_manifest_check,
    gateway: GatewaySettings | None = None,
) -> WSGIApplication:
    """The WSGI callable.

    :param extra_routes: a table of more routes, the local shares API's for example; their policies
        must be among :func:`manila_backup.policies.list_rules`.
    :param conf: for what OpenStack's libraries read by themselves: [oslo_policy],
        [keystone_authtoken], [oslo_middleware], [healthcheck]. Without one their defaults hold.
    :param manifest_exists: see :class:`~manila_backup.api.request.Services`.
    :param gateway: the Manila that the API stands in front of, see
        :mod:`manila_backup.api.gateway`.
    """
    if conf is None:
        conf = cfg.ConfigOpts()
        conf([], project="manila-backup", default_config_files=[], default_config_dirs=[])
    services = Services(
        settings=settings,
        database=database,
        provider=provider,
        waker=waker,
        enforcer=policies.build_enforcer(conf),
        manifest_exists=manifest_exists,
    )
    authenticator: Authenticator = (
        KeystoneAuth() if settings.auth_strategy == "keystone" else NoAuth(settings.noauth_hosts)
    )
    table = (*ROUTES, *extra_routes)
    app: Any = Application((*table, *openapi.routes(table)), services, authenticator)
    if settings.auth_strategy == "keystone":
        app = KeystoneFront(app, conf)
    aside = {"/healthcheck": healthcheck.build(conf, database)}
    if settings.enable_metrics:
        aside["/metrics"] = metrics.build(database)
    app = _Aside(app, aside)
    app = http_proxy_to_wsgi.HTTPProxyToWSGI(app, conf)
    app = request_id.RequestId(app, conf)
    if gateway is None:
        return app  # type: ignore[no-any-return]
    # Outside of all that: what is passed on must not be touched by any of it.
    return Gateway(
        gateway,
        app,
        database,
        body_limit_bytes=settings.max_request_body_size_bytes,
        trust_forwarded=conf.oslo_middleware.enable_proxy_headers_parsing,
    )


class _Aside:
    """Sends some paths past identity and routing."""

    def __init__(self, app: WSGIApplication, aside: Mapping[str, WSGIApplication]) -> None:
        self._app = app
        self._aside = aside

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        chosen = self._aside.get(environ.get("PATH_INFO", ""), self._app)
        return chosen(environ, start_response)
