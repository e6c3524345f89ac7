# SPDX-License-Identifier: Apache-2.0
"""Several API processes and data nodes on MariaDB and RabbitMQ: they share the work, and it goes on
when any of them dies, or when the database or the bus is away for a while."""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, text

from tests.acceptance.cluster import Cluster, running
from tests.acceptance.rest import Answer, Rest
from tests.acceptance.waiting import until
from tests.support.databases import NAME, MariaDb, PostgreSql
from tests.support.rabbitmq import RabbitMq

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]

KILLS_S = float(os.environ.get("MANILA_BACKUP_KILLS_S", "120"))
"""How long nodes are killed; for longer runs by hand."""


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


def rows_of_operations(database: str) -> list[Any]:
    """In the order in which they were begun. Read at once: a command takes seconds to start, and
    what is to be seen may be over by then."""
    engine = create_engine(database, poolclass=NullPool)
    with engine.connect() as connection:
        query = (
            "SELECT host, status, started_at_us, finished_at_us"
            " FROM operations ORDER BY started_at_us"
        )
        return list(connection.execute(text(query)))


def working_nodes(database: str) -> set[str]:
    return {row.host for row in rows_of_operations(database) if row.status == "running"}


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


# --- crowds ---------------------------------------------------------------------------------------


@pytest.fixture(params=["mariadb", "postgresql"])
def any_database(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "mariadb":
        yield request.getfixturevalue("database")
    else:
        with PostgreSql() as found:
            yield found.url


def all_at_once(asks: list[Callable[[], Answer]]) -> Counter[int]:
    """How often which status was answered."""
    with ThreadPoolExecutor(len(asks)) as pool:
        return Counter(answer.status for answer in pool.map(lambda ask: ask(), asks))


def test_of_a_crowd_as_many_come_in_as_may(tmp_path: Path, any_database: str) -> None:
    """Through two API processes; nobody works meanwhile."""
    with running(tmp_path, any_database, nodes=0, apis=2) as cluster:
        rests = [cluster.rest(0), cluster.rest(1)]
        rests[0].set_quota(backups=-1, backup_gigabytes=-1)
        share_id = share_with(rests[0], 1)
        one = [partial(rests[number % 2].ask_backup, share_id) for number in range(50)]
        assert all_at_once(one) == {202: 1, 400: 49}
        assert rests[0].usage() == (1, 1)
        rests[0].set_quota(backups=7)
        share_ids = [share_with(rests[0], 0, f"share {number}") for number in range(200)]
        many = [
            partial(rests[number % 2].ask_backup, found) for number, found in enumerate(share_ids)
        ]
        assert all_at_once(many) == {202: 6, 413: 194}
        assert rests[0].usage() == (7, 7)
        assert cluster.manage("quota check").status == 0


# --- the database ---------------------------------------------------------------------------------


@pytest.mark.parametrize("away_s", [2, 14], ids=["less than a lease", "more than a lease"])
def test_work_goes_on_after_the_database_was_away(
    tmp_path: Path, database: str, server: MariaDb, away_s: float
) -> None:
    """Meanwhile the API says so; a node that cannot renew its lease stops its workers in time, and
    whoever comes first goes on."""
    with running(tmp_path, database, nodes=2, max_bytes_per_s=200_000) as cluster:
        rest = cluster.rest()
        share_ids = [share_with(rest, 300, f"share {number}") for number in range(3)]
        backup_ids = [rest.create_backup(share_id) for share_id in share_ids]
        until(lambda: working_nodes(database) == {"node1", "node2"}, "work on both nodes")
        server.stop()
        begun_s = time.monotonic()
        while time.monotonic() - begun_s < away_s:
            answer = rest.call("GET", "/share-backups")
            assert answer.status == 503
            assert "database" in answer.message
            assert rest.ask_backup(share_ids[0]).status == 503
        server.start()
        for backup_id in backup_ids:
            rest.until_done(backup_id)
        # None was made of what was refused.
        assert {backup["id"] for backup in rest.backups()} == set(backup_ids)
        for share_id, backup_id in zip(share_ids, backup_ids, strict=True):
            assert_restores(rest, share_id, backup_id, tmp_path)
        assert_nothing_is_left(cluster, rest)


def assert_restores(rest: Rest, share_id: str, backup_id: str, scratch: Path) -> None:
    """A share comes back as it is now after it has been emptied."""
    tree = Path(rest.tree(share_id))
    kept = scratch / f"kept-{backup_id}"
    shutil.copytree(tree, kept)
    for path in tree.iterdir():
        path.unlink()
    rest.restored(backup_id)
    assert contents(tree) == contents(kept)


def contents(tree: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in tree.iterdir()}


# --- the nodes ------------------------------------------------------------------------------------


def test_who_has_room_takes_the_next(tmp_path: Path, database: str, bus: RabbitMq) -> None:
    """The least busy node comes first, since a busy one has no room and a free one pulls."""
    with running(
        tmp_path, database, bus.url, nodes=3, max_operations=1, max_bytes_per_s=60_000
    ) as cluster:
        rest = cluster.rest()
        for number in range(4):
            rest.create_backup(share_with(rest, 100, f"share {number}"))
        for backup in rest.backups():
            rest.until_done(backup["id"])
        assert_nothing_is_left(cluster, rest)
    *first, last = rows_of_operations(database)
    assert {row.host for row in first} == {"node1", "node2", "node3"}
    assert max(row.started_at_us for row in first) < min(row.finished_at_us for row in first)
    # It waited for the first node that had room again.
    assert last.host in {row.host for row in first if row.finished_at_us <= last.started_at_us}


@pytest.mark.parametrize(
    ("shares", "kills_s"), [(6, 15), pytest.param(60, KILLS_S, marks=pytest.mark.full)]
)
def test_all_ends_well_while_nodes_are_killed(
    tmp_path: Path, database: str, bus: RabbitMq, shares: int, kills_s: float
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with running(tmp_path, database, bus.url, nodes=3, apis=2) as cluster:
        rests = [cluster.rest(0), cluster.rest(1)]
        rests[0].set_quota(backups=-1, backup_gigabytes=-1)
        share_ids = [
            share_with(rests[number % 2], 100, f"share {number}") for number in range(shares)
        ]
        trees = {share_id: Path(rests[0].tree(share_id)) for share_id in share_ids}
        before = {share_id: contents(tree) for share_id, tree in trees.items()}
        made: dict[str, str] = {}
        for number, share_id in enumerate(share_ids):
            made[share_id] = rests[number % 2].create_backup(share_id)
        busy = dict(made)
        kills = restores = 0
        begun_s = time.monotonic()
        while busy or time.monotonic() - begun_s < kills_s:
            if time.monotonic() - begun_s < kills_s:
                victim = chance.choice(cluster.nodes)
                threading.Event().wait(chance.uniform(0.5, 4))
                victim.kill()
                victim.start()
                kills += 1
            now = {backup["id"]: backup["status"] for backup in rests[kills % 2].backups()}
            assert set(now.values()) <= {"creating", "available", "restoring"}, now
            for share_id, backup_id in list(busy.items()):
                if now[backup_id] == "available" and rests[0].share_status(share_id) == "available":
                    assert contents(trees[share_id]) == before[share_id]
                    del busy[share_id]
            if time.monotonic() - begun_s < kills_s:
                for share_id in set(share_ids) - set(busy):
                    for path in list(trees[share_id].iterdir())[::2]:
                        path.unlink()
                    (trees[share_id] / "stranger").write_bytes(b"of nobody")
                    rests[kills % 2].restore(made[share_id])
                    busy[share_id] = made[share_id]
                    restores += 1
        print(f"{kills} nodes were killed, {restores} restores done")
        assert kills > kills_s / 8
        assert restores > 0
        assert_nothing_is_left(cluster, rests[0])
