# SPDX-License-Identifier: Apache-2.0
"""Damage x next operation: what is wrong is named, the target is not touched if that can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from manila_backup.data.drivers.tree import TreeDriver
from manila_backup.exception import BackupDamaged, BackupNotStored
from manila_backup.types import RestoreMode
from tests.data.drivers.damage import (
    CONTENT,
    DETECTABLE,
    HARMLESS,
    UNPUBLISHED,
    Damage,
    epoch_path,
)
from tests.data.drivers.operations import REF, Watch, back_up, other, restore
from tests.data.drivers.trees import clone, describe, fill, fingerprint

pytestmark = pytest.mark.slow

ELSEWHERE = other(project_id="elsewhere", backup_id="untouched", epoch=1)
EVERY = UNPUBLISHED | DETECTABLE | CONTENT | HARMLESS


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source, and a store with it twice: the backup to damage and one that must stay good."""
    top = tmp_path_factory.mktemp("pristine")
    source = fill(top / "source")
    (top / "store").mkdir()
    driver = TreeDriver(str(top / "store"))
    back_up(driver, source)
    (source / "big").write_bytes(b"another size")
    back_up(driver, source, ELSEWHERE)
    return top


class Damaged:
    """A fresh copy of the store with one damage done to it."""

    def __init__(self, pristine: Path, tmp_path: Path, damage: Damage) -> None:
        self.store = tmp_path / "damaged"
        clone(pristine / "store", self.store)
        damage.inflict(epoch_path(self.store, REF), epoch_path(self.store, ELSEWHERE))
        self.driver = TreeDriver(str(self.store))


def filled_target(tmp_path: Path) -> Path:
    target = tmp_path / "target"
    target.mkdir()
    (target / "tenant's").write_bytes(b"own")
    (target / "big").write_bytes(b"newer")
    return target


@pytest.mark.parametrize("name", UNPUBLISHED)
def test_an_unpublished_backup_is_not_stored(name: str, pristine: Path, tmp_path: Path) -> None:
    damaged = Damaged(pristine, tmp_path, UNPUBLISHED[name])
    with pytest.raises(BackupNotStored, match=UNPUBLISHED[name].named):
        damaged.driver.inspect(REF)
    assert [stored.description.ref for stored in damaged.driver.scan()] == [ELSEWHERE]
    ((path, why),) = damaged.driver.orphans()
    assert path.startswith(f"{REF.project_id}/{REF.backup_id}")
    assert why


@pytest.mark.parametrize("name", UNPUBLISHED)
@pytest.mark.parametrize("mode", RestoreMode)
def test_an_unpublished_backup_is_not_restored(
    name: str, mode: RestoreMode, pristine: Path, tmp_path: Path
) -> None:
    damaged = Damaged(pristine, tmp_path, UNPUBLISHED[name])
    target = filled_target(tmp_path)
    before = fingerprint(target)
    watch = Watch()
    with pytest.raises(BackupNotStored, match=UNPUBLISHED[name].named):
        restore(damaged.driver, target, mode=mode, watch=watch)
    assert fingerprint(target) == before
    assert watch.wrote == 0


@pytest.mark.parametrize("name", DETECTABLE)
@pytest.mark.parametrize("mode", RestoreMode)
def test_missing_parts_stop_a_restore_before_its_first_write(
    name: str, mode: RestoreMode, pristine: Path, tmp_path: Path
) -> None:
    damaged = Damaged(pristine, tmp_path, DETECTABLE[name])
    target = filled_target(tmp_path)
    before = fingerprint(target)
    watch = Watch()
    with pytest.raises(BackupDamaged, match=DETECTABLE[name].named) as caught:
        restore(damaged.driver, target, mode=mode, watch=watch)
    assert caught.value.backup_id == REF.backup_id
    assert fingerprint(target) == before
    assert watch.wrote == 0


@pytest.mark.parametrize("name", CONTENT)
def test_wrong_content_ends_a_restore_and_names_the_path(
    name: str, pristine: Path, tmp_path: Path
) -> None:
    damaged = Damaged(pristine, tmp_path, CONTENT[name])
    target = filled_target(tmp_path)
    with pytest.raises(BackupDamaged, match=CONTENT[name].named):
        restore(damaged.driver, target)
    # What could not be restored rightly is not there at all.
    assert not (target / CONTENT[name].named).exists()


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_not_belong_is_not_restored(name: str, pristine: Path, tmp_path: Path) -> None:
    damaged = Damaged(pristine, tmp_path, HARMLESS[name])
    good, target = tmp_path / "good", filled_target(tmp_path)
    good.mkdir()
    restore(TreeDriver(str(pristine / "store")), good)
    restore(damaged.driver, target)
    assert describe(target) == describe(good)


@pytest.mark.parametrize("name", [*DETECTABLE, *CONTENT, *HARMLESS])
def test_a_published_backup_is_found_whatever_else_is_damaged(
    name: str, pristine: Path, tmp_path: Path
) -> None:
    damaged = Damaged(pristine, tmp_path, EVERY[name])
    stored = damaged.driver.inspect(REF)
    assert stored in list(damaged.driver.scan())
    assert list(damaged.driver.orphans()) == []


@pytest.mark.parametrize("name", EVERY)
def test_verify_names_what_is_wrong_and_changes_nothing(
    name: str, pristine: Path, tmp_path: Path
) -> None:
    damaged = Damaged(pristine, tmp_path, EVERY[name])
    before = fingerprint(damaged.store)
    problems = damaged.driver.verify(REF, Watch().control).problems
    assert any(EVERY[name].named in problem for problem in problems), problems
    assert all(problem.isprintable() for problem in problems)
    assert fingerprint(damaged.store) == before


@pytest.mark.parametrize("name", [*UNPUBLISHED, *DETECTABLE, *HARMLESS])
def test_delete_removes_whatever_is_left_and_nothing_else(
    name: str, pristine: Path, tmp_path: Path
) -> None:
    damaged = Damaged(pristine, tmp_path, EVERY[name])
    untouched = damaged.store / ELSEWHERE.project_id
    before = fingerprint(untouched)
    damaged.driver.delete(REF, Watch().control)
    assert sorted(path.name for path in damaged.store.iterdir()) == [ELSEWHERE.project_id]
    assert fingerprint(untouched) == before


@pytest.mark.parametrize("name", [name for name in UNPUBLISHED if name != "backup a symlink"])
def test_discard_removes_whatever_is_left_and_nothing_else(
    name: str, pristine: Path, tmp_path: Path
) -> None:
    damaged = Damaged(pristine, tmp_path, UNPUBLISHED[name])
    untouched = damaged.store / ELSEWHERE.project_id
    before = fingerprint(untouched)
    damaged.driver.discard(REF, Watch().control)
    assert sorted(path.name for path in damaged.store.iterdir()) == [ELSEWHERE.project_id]
    assert fingerprint(untouched) == before


def test_damage_on_a_thousand_paths_is_reported_up_to_the_limit(
    store: Path, tmp_path: Path
) -> None:
    source = tmp_path / "many"
    source.mkdir()
    for number in range(1001):
        (source / f"{number:04}").touch()
    driver = TreeDriver(str(store))
    back_up(driver, source)
    data = epoch_path(store, REF) / "data"
    for number in range(1000):
        (data / f"{number:04}").unlink()
    problems = driver.verify(REF, Watch().control).problems
    assert len(problems) == 1000
    assert "0999" in problems[-1]
    (data / "1000").unlink()
    problems = driver.verify(REF, Watch().control).problems
    assert len(problems) == 1000
    assert "0998" in problems[-2]
    assert "more" in problems[-1]
