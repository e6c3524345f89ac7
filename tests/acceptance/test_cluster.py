# SPDX-License-Identifier: Apache-2.0
"""Several API processes and data nodes on MariaDB and RabbitMQ: they share the work, and it goes on
when any of them dies, or when the database or the bus is away for a while."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.cluster import Cluster, running
from tests.acceptance.rest import Rest
from tests.acceptance.waiting import until
from tests.support.databases import NAME, MariaDb
from tests.support.rabbitmq import RabbitMq

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDb]:
    with MariaDb() as found:
        assert isinstance(found, MariaDb)
        yield found


@pytest.fixture(scope="module")
def bus() -> Iterator[RabbitMq]:
    with RabbitMq() as found:
        yield found


@pytest.fixture
def database(server: MariaDb) -> str:
    """Empty."""
    server.execute(f"DROP DATABASE {NAME}", f"CREATE DATABASE {NAME} CHARACTER SET utf8mb4")
    return server.url


def share_with(rest: Rest, files: int, name: str = "some") -> str:
    share_id = rest.create_share(name)
    tree = Path(rest.tree(share_id))
    for number in range(files):
        (tree / f"file-{number}").write_bytes(random.randbytes(3000))
    return share_id


def queued_and_hosts(cluster: Cluster) -> tuple[int, set[str]]:
    """How many operations wait, and the nodes that work."""
    listed = cluster.manage("operation list", "--format", "json").json
    waiting = sum(row["Status"] == "queued" for row in listed)
    return waiting, {row["Host"] for row in listed if row["Status"] == "running"}


def assert_nothing_is_left(cluster: Cluster, rest: Rest) -> None:
    """No intent, rule or mark outlives its operation once the reapers have been there."""

    def clean() -> bool:
        return not cluster.manage("grants list", "--format", "json").json

    until(clean, "the end of all grants")
    assert cluster.manage("quota check").status == 0
    for share in rest.get("/shares/detail")["shares"]:
        assert share["status"] == "available"
        assert rest.access_rules(share["id"]) == []


# --- the bus --------------------------------------------------------------------------------------


def test_work_goes_on_while_the_bus_is_away(tmp_path: Path, database: str, bus: RabbitMq) -> None:
    """Nodes that would look into the queue in 20 s are woken at once; what the bus loses they find
    then; and they are woken again when it is back."""

    def seconds_for_a_backup(rest: Rest) -> float:
        share_id = share_with(rest, 1)
        begun_s = time.monotonic()
        backup_id = rest.create_backup(share_id)
        assert time.monotonic() - begun_s < 5
        rest.until_done(backup_id)
        return time.monotonic() - begun_s

    with running(tmp_path, database, bus.url, nodes=2, poll_interval_s=20) as cluster:
        rest = cluster.rest()
        assert min(seconds_for_a_backup(rest) for _ in range(3)) < 10
        bus.stop()
        assert seconds_for_a_backup(rest) < 60
        # A node that starts meanwhile works, too.
        cluster.nodes[0].kill()
        cluster.nodes[0].start()
        assert seconds_for_a_backup(rest) < 60
        bus.start()
        until(lambda: seconds_for_a_backup(rest) < 8, "a wake-up over the bus")
        assert_nothing_is_left(cluster, rest)
