# SPDX-License-Identifier: Apache-2.0
"""``/metrics``: figures for Prometheus, read from the database when they are asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from oslo_db import exception as db_exc
from oslo_log import log as logging
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from manila_backup.db import figures
from manila_backup.db.figures import Figures
from manila_backup.db.intents import IntentKind

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from manila_backup.db.engine import Database

LOG = logging.getLogger(__name__)

KEPT_S = 15.0
"""How long figures are answered again, however often somebody asks."""

_Labels = Sequence[str]


class Figure(Collector):
    """Gauges, not counters: they are about the rows there are, and purging takes rows away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._kept: Figures | None = None
        self._kept_until_s = 0.0

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing, so that registering does not ask the database."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        found = self._figures()
        yield _gauge("up", "1: the database answers.", (), [((), float(found is not None))])
        if found is None:
            return
        kinds = ("kind", "status")
        for name, text in (
            ("count", "Operations."),
            ("seconds", "Sum of the times that operations took."),
            ("bytes", "Sum of the bytes that operations have copied."),
            ("files", "Sum of the files that operations have copied."),
        ):
            values = [((item.kind, item.status), getattr(item, name)) for item in found.operations]
            shown = "operations" if name == "count" else f"operations_{name}"
            yield _gauge(shown, text, kinds, values)
        statuses = found.backups.items()
        counts = [([status], float(count)) for status, (count, _) in statuses]
        yield _gauge("backups", "Backups.", ("status",), counts)
        stored = [([status], float(total)) for status, (_, total) in statuses]
        yield _gauge("backups_stored_bytes", "Bytes that backups keep.", ("status",), stored)
        outlived = [([str(kind)], float(found.outlived.get(kind, 0))) for kind in IntentKind]
        text = "Marks, grants, mounts and data whose operation is over and that are still there."
        yield _gauge("outlived_intents", text, ("kind",), outlived)
        text = "Seconds since a service last reported."
        yield _gauge("service_silent_seconds", text, ("binary", "host"), found.silent_s.items())

    def _figures(self) -> Figures | None:
        with self._lock:
            if time.monotonic() < self._kept_until_s:
                return self._kept
            try:
                with self._database.reader() as session:
                    self._kept = figures.collect(session)
            except (db_exc.DBError, SQLAlchemyError):
                LOG.warning("Metrics: the database does not answer")
                return None
            self._kept_until_s = time.monotonic() + KEPT_S
            return self._kept


def _gauge(
    name: str, text: str, labels: _Labels, values: Iterable[tuple[_Labels, float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"manila_backup_{name}", text, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def build(database: Database) -> WSGIApplication:
    registry = CollectorRegistry()
    registry.register(Figure(database))
    return make_wsgi_app(registry)
