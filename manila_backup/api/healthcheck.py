# SPDX-License-Identifier: Apache-2.0
"""``/healthcheck``: oslo.middleware's, and one look at the database."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from oslo_config import cfg
from oslo_db import exception as db_exc
from oslo_log import log as logging
from oslo_middleware import healthcheck
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from werkzeug import Response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from manila_backup.db.engine import Database

LOG = logging.getLogger(__name__)


class DatabaseHealth:
    """503 while the database does not answer; otherwise what the wrapped healthcheck says.

    Costs one round trip. Load balancers ask every few seconds, not more.
    """

    def __init__(self, health: WSGIApplication, database: Database) -> None:
        self._health = health
        self._database = database

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            with self._database.reader() as session:
                session.execute(text("SELECT 1"))
        except (db_exc.DBError, SQLAlchemyError):
            LOG.warning("Healthcheck: the database does not answer")
            response = Response("DATABASE DOES NOT ANSWER\n", status=503, mimetype="text/plain")
            return response(environ, start_response)
        return self._health(environ, start_response)


def build(conf: cfg.ConfigOpts, database: Database) -> WSGIApplication:
    """The [healthcheck] options say which further checks there are."""
    return DatabaseHealth(healthcheck.Healthcheck(None, conf), database)
