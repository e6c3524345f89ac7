# SPDX-License-Identifier: Apache-2.0
"""A service per test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from manila_backup.api.options import Settings
from manila_backup.quota.ledger import UNLIMITED, Limits
from manila_backup.share.local.store import LocalShareStore
from tests.api.harness import AdjustedProvider, Api, RecordingWaker

if TYPE_CHECKING:
    from manila_backup.db.engine import Database


def _make(database: Database, directory: Path, **settings: Any) -> Api:
    store = LocalShareStore(directory / "shares")
    conf = settings.pop("conf", None)
    return Api(
        database=database,
        store=store,
        provider=AdjustedProvider(store),
        waker=RecordingWaker(database),
        settings=Settings(**settings),
        conf=conf,
    )


@pytest.fixture
def make_api(database: Database, tmp_path: Path) -> Callable[..., Api]:
    """Makes the service with settings of the test's own."""

    def make(**settings: Any) -> Api:
        return _make(database, tmp_path, **settings)

    return make


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api()


@pytest.fixture(scope="module")
def standing(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One service for the many tests of a module that change nothing, or care for nothing else.

    Quotas are unlimited.
    """
    from manila_backup.db.engine import Database

    directory = tmp_path_factory.mktemp("standing")
    database = Database(f"sqlite:///{shutil.copy(migrated_file, directory)}")
    unlimited = Limits(backups=UNLIMITED, backup_gigabytes=UNLIMITED)
    yield _make(database, directory, quota_defaults=unlimited)
    database.close()
