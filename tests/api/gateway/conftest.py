# SPDX-License-Identifier: Apache-2.0
"""The real application with a gateway, served as the services serve it, before a server that tests
command."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from manila_backup.api.gateway.options import GatewaySettings
from manila_backup.api.options import Settings
from manila_backup.share.local.store import LocalShareStore
from tests.api.gateway.front import Front
from tests.api.gateway.upstream_server import Server
from tests.api.harness import AdjustedProvider, Api, RecordingWaker

if TYPE_CHECKING:
    from manila_backup.db.engine import Database

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of these start two servers each: together as much as half of the other quick tests."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("slow")


def _api(database: Database, directory: Path, gateway: GatewaySettings, **more: Any) -> Api:
    store = LocalShareStore(directory / "shares")
    return Api(
        database=database,
        store=store,
        provider=AdjustedProvider(store),
        waker=RecordingWaker(database),
        settings=Settings(noauth_hosts=("*",)),
        gateway=gateway,
        **more,
    )


@pytest.fixture
def manila() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def make_front(
    database: Database, manila: Server, tmp_path: Path
) -> Iterator[Callable[..., Front]]:
    """Makes gateways with settings of the test's own."""
    with ExitStack() as stack:

        def make(conf: Any = None, port: int = 0, **settings: Any) -> Front:
            chosen = {"endpoint": manila.url, "read_timeout_s": 20.0, **settings}
            api = _api(database, tmp_path, GatewaySettings(**chosen), conf=conf)
            front = Front(api, port)
            stack.callback(front.stop)
            return front

        yield make


@pytest.fixture
def front(make_front: Callable[..., Front]) -> Front:
    return make_front()


@pytest.fixture(scope="module")
def standing_manila() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def standing_front(
    standing_manila: Server, migrated_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """One gateway for the many requests of a module."""
    from manila_backup.db.engine import Database

    directory = tmp_path_factory.mktemp("gateway")
    database = Database(f"sqlite:///{shutil.copy(migrated_file, directory)}")
    front = Front(_api(database, directory, GatewaySettings(endpoint=standing_manila.url)))
    yield front
    front.stop()
    database.close()
