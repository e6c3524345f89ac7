# SPDX-License-Identifier: Apache-2.0
"""What all tests of the data node have: workers that find the faulty driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from manila_backup.db.engine import Database
from tests.data.node.faulty import WorkerFaults
from tests.data.node.faulty_driver import FAULTS, plugin_path
from tests.data.node.world import World


@pytest.fixture(scope="session")
def worker_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One for all tests: plugins are looked up in a cache whose key is the path."""
    directory = tmp_path_factory.mktemp("workers")
    return {
        "PYTHONPATH": plugin_path(directory / "plugins"),
        "XDG_CACHE_HOME": str(directory / "cache"),
    }


@pytest.fixture
def worker_faults(
    tmp_path: Path, worker_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> WorkerFaults:
    """Faults for workers that the test, or a process that it starts, will start."""
    directory = tmp_path / "faults"
    for name, value in worker_environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(FAULTS, str(directory))
    return WorkerFaults(directory)


@pytest.fixture
def world(tmp_path: Path, database: Database, worker_faults: WorkerFaults) -> Iterator[World]:
    """A site with one database and no nodes yet."""
    # While one connection lives, the end of others does not fold the log into the file.
    with database.reader_engine.connect():
        yield World(directory=tmp_path, database=database, workers=worker_faults)
