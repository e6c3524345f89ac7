# SPDX-License-Identifier: Apache-2.0
"""Samples of every version of the format stay readable for ever."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pytest

from manila_backup.data.catalog.manifest import VERSION
from manila_backup.data.drivers.tree import TreeDriver
from manila_backup.types import StoredBackup
from tests.data.drivers.make_frozen import FROZEN_REF, build, expectation
from tests.data.drivers.operations import Watch, back_up, described, restore
from tests.data.drivers.trees import describe

FROZEN = Path(__file__).parents[2] / "frozen"
VERSIONS = [
    int(match[1])
    for path in sorted(FROZEN.iterdir())
    if (match := re.fullmatch(r"tree-v(\d+)\.tar", path.name))
]


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def driver(version: int, store: Path) -> TreeDriver:
    # Owners in the tar are numbers; an ordinary user extracts them as his own, which the catalog
    # does not mind.
    with tarfile.open(FROZEN / f"tree-v{version}.tar") as archive:
        # An attribute, since early releases of Python 3.11 do not know the argument.
        archive.extraction_filter = lambda member, _: member
        archive.extractall(store)  # noqa: S202 - our own file
    return TreeDriver(str(store))


def test_there_is_a_sample_of_every_version() -> None:
    assert sorted(VERSIONS) == list(range(1, VERSION + 1))


def test_a_frozen_backup_is_found_and_inspected(driver: TreeDriver, version: int) -> None:
    stored = driver.inspect(FROZEN_REF)
    assert isinstance(stored, StoredBackup)
    assert stored.description == described(FROZEN_REF)
    assert stored.format_version == version
    assert stored.counters.files == 6
    assert stored.counters.losses == 0
    assert list(driver.scan()) == [stored]
    assert list(driver.orphans()) == []


def test_a_frozen_backup_is_verified(driver: TreeDriver) -> None:
    assert driver.verify(FROZEN_REF, Watch().control).problems == ()


@pytest.mark.root
def test_a_frozen_backup_is_restored(driver: TreeDriver, version: int, target: Path) -> None:
    restore(driver, target, FROZEN_REF)
    expected = json.loads((FROZEN / f"tree-v{version}.json").read_text())
    assert expectation(describe(target)) == expected


@pytest.mark.root
def test_the_makers_tree_still_goes_in_and_comes_out(store: Path, tmp_path: Path) -> None:
    source, target = build(tmp_path / "source"), tmp_path / "target"
    target.mkdir()
    driver = TreeDriver(str(store))
    back_up(driver, source, FROZEN_REF)
    restore(driver, target, FROZEN_REF)
    assert expectation(describe(target)) == expectation(describe(source))
