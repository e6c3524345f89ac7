# SPDX-License-Identifier: Apache-2.0
"""EIO at every single call of the engine: an error, or a result that is right."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from manila_backup.data.drivers.tree import TreeDriver
from manila_backup.exception import BackupDamaged, BackupNotStored, CopyFailed
from tests.data.drivers.faulty import Faulty
from tests.data.drivers.operations import REF, Watch, back_up, restore
from tests.data.drivers.trees import describe, fingerprint

pytestmark = pytest.mark.slow

CALLS_AT_MOST = 2000


@pytest.fixture
def small(tmp_path: Path) -> Path:
    source = tmp_path / "small"
    (source / "d").mkdir(parents=True)
    (source / "d" / "f").write_bytes(b"content")
    os.link(source / "d" / "f", source / "link")
    (source / "s").symlink_to("d")
    os.setxattr(source / "d" / "f", "user.x", b"1")
    return source


def test_a_backup_fails_or_is_complete_or_says_what_it_lacks(
    small: Path, store: Path, tmp_path: Path
) -> None:
    good, target = TreeDriver(str(store)), tmp_path / "back"
    failures = 0
    for fail_at in range(CALLS_AT_MOST):
        faulty = Faulty(fail_at)
        target.mkdir()
        try:
            stored = back_up(TreeDriver(str(store), files=faulty), small)
        except CopyFailed:
            failures += 1
            with pytest.raises(BackupNotStored):
                good.inspect(REF)
        else:
            counters = stored.counters
            told = counters.skipped + counters.changed + counters.losses + counters.warnings
            restore(good, target)
            assert told or describe(target) == describe(small), faulty.failed
        good.delete(REF, Watch().control)
        shutil.rmtree(target)
        if faulty.failed is None:
            break
    assert faulty.failed is None
    assert failures > 20


def test_a_restore_fails_or_is_complete(small: Path, store: Path, tmp_path: Path) -> None:
    good, target = TreeDriver(str(store)), tmp_path / "back"
    back_up(good, small)
    before = fingerprint(store)
    failures = 0
    for fail_at in range(CALLS_AT_MOST):
        faulty = Faulty(fail_at)
        (target / "d" / "extra").mkdir(parents=True)
        (target / "link").write_bytes(b"other")
        try:
            result = restore(TreeDriver(str(store), files=faulty), target)
        except (CopyFailed, BackupDamaged):
            failures += 1
            restore(good, target)
            assert describe(target) == describe(small), faulty.failed
        else:
            told = result.counters.losses + result.counters.warnings + result.counters.changed
            assert told or describe(target) == describe(small), faulty.failed
        shutil.rmtree(target)
        if faulty.failed is None:
            break
    assert faulty.failed is None
    assert failures > 20
    assert fingerprint(store) == before


def test_a_delete_fails_or_is_complete(small: Path, store: Path) -> None:
    failures = 0
    paths: list[str] = []
    for fail_at in range(CALLS_AT_MOST):
        back_up(TreeDriver(str(store)), small)
        faulty = Faulty(fail_at)
        try:
            TreeDriver(str(store), files=faulty).delete(REF, Watch().control)
        except CopyFailed as error:
            failures += 1
            paths.append(error.path)
            with pytest.raises(BackupNotStored):
                TreeDriver(str(store)).inspect(REF)
            TreeDriver(str(store)).delete(REF, Watch().control)
        assert list(store.iterdir()) == [], faulty.failed
        if faulty.failed is None:
            break
    assert faulty.failed is None
    assert failures > 10
    assert all(path.startswith(f"{REF.project_id}/{REF.backup_id}") for path in paths)


def test_a_verify_never_overlooks_what_it_could_not_read(small: Path, store: Path) -> None:
    back_up(TreeDriver(str(store)), small)
    data = store / REF.project_id / REF.backup_id / str(REF.epoch) / "data"
    (data / "s").unlink()
    faults = 0
    for fail_at in range(CALLS_AT_MOST):
        faulty = Faulty(fail_at)
        problems = TreeDriver(str(store), files=faulty).verify(REF, Watch().control).problems
        assert problems
        faults += len(problems) > 1
        if faulty.failed is None:
            break
    assert faulty.failed is None
    assert faults > 5
