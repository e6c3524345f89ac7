# SPDX-License-Identifier: Apache-2.0
"""``/metrics``: what Prometheus reads, on each kind of database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from manila_backup.data.endings import Outcome
from manila_backup.db import intents, services
from manila_backup.db.engine import Database
from manila_backup.db.intents import IntentKind
from manila_backup.states import OperationEvent
from manila_backup.types import Counters
from tests.api.harness import Api

pytestmark = pytest.mark.every_database

Labels = tuple[tuple[str, str], ...]


def figures(api: Api) -> dict[tuple[str, Labels], float]:
    """What is shown, less the prefix of all names."""
    answer = api.client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name.removeprefix("manila_backup_"), tuple(sorted(sample.labels.items()))): (
            sample.value
        )
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def of(kind: str, status: str) -> Labels:
    return (("kind", kind), ("status", status))


def test_they_are_there_on_request_only(api: Api) -> None:
    assert api.client.get("/metrics").status_code == 404


def test_an_empty_service_has_figures(make_api: Callable[..., Api]) -> None:
    found = figures(make_api(enable_metrics=True))
    assert found[("up", ())] == 1
    assert found[("outlived_intents", (("kind", "grant"),))] == 0


def test_operations_and_backups_are_counted(make_api: Callable[..., Api]) -> None:
    api = make_api(enable_metrics=True)
    moved = Counters(files=3, bytes=5_000_000_000)
    for _ in range(2):
        backup_id = api.create(api.share())
        held = api.claim(backup_id)
        api.complete(backup_id, held, counters=moved)
    api.fail(api.create(api.share()))
    api.create(api.share())
    found = figures(api)
    assert found[("operations", of("create", "done"))] == 2
    assert found[("operations", of("create", "failed"))] == 1
    assert found[("operations", of("create", "queued"))] == 1
    assert found[("operations_files", of("create", "done"))] == 6
    assert found[("operations_bytes", of("create", "done"))] == 10_000_000_000
    assert 0 < found[("operations_seconds", of("create", "done"))] < 3600
    assert found[("operations_seconds", of("create", "queued"))] == 0
    assert found[("backups", (("status", "available"),))] == 2
    assert found[("backups", (("status", "creating"),))] == 1


def test_what_outlived_its_operation_is_shown(make_api: Callable[..., Api]) -> None:
    api = make_api(enable_metrics=True)
    backup_id = api.create(api.share())
    held = api.claim(backup_id)
    api.database.write(
        lambda session: intents.create(
            session,
            operation_id=held.id,
            epoch=held.epoch,
            host="node1",
            kind=IntentKind.GRANT,
            detail={"address": "10.0.0.1"},
        )
    )
    api.end(held, Outcome(event=OperationEvent.FAIL, reason="disk full"))
    assert figures(api)[("outlived_intents", (("kind", "grant"),))] == 1


def test_silent_services_are_shown(make_api: Callable[..., Api]) -> None:
    api = make_api(enable_metrics=True)
    api.database.write(
        lambda session: services.report(
            session,
            host="node1",
            binary="manila-backup-data",
            topic="topic",
            availability_zone="nova",
            address=None,
            starting=True,
        )
    )
    labels = (("binary", "manila-backup-data"), ("host", "node1"))
    assert 0 <= figures(api)[("service_silent_seconds", labels)] < 60


def test_the_database_is_not_asked_each_time(make_api: Callable[..., Api]) -> None:
    api = make_api(enable_metrics=True)
    before = figures(api)
    api.create(api.share())
    assert figures(api) == before


@pytest.mark.sqlite
def test_a_database_that_is_away_is_a_figure(make_api: Callable[..., Api], tmp_path: Path) -> None:
    api = make_api(enable_metrics=True)
    gone = Database(f"sqlite:///{tmp_path}/no/such/directory/db")
    api.database = gone
    api.build()
    assert figures(api) == {("up", ()): 0}
    gone.close()
