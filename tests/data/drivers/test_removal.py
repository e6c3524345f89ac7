# SPDX-License-Identifier: Apache-2.0
"""What cannot be removed is named, and nothing is half there meanwhile."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from manila_backup.data.drivers.tree import TreeDriver
from manila_backup.exception import BackupNotStored, CopyFailed
from tests.data.drivers.damage import epoch_path
from tests.data.drivers.operations import REF, Watch, back_up, other
from tests.data.drivers.trees import fingerprint

pytestmark = pytest.mark.root


@contextmanager
def mounted_over(path: Path, source: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", str(source), str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("call", ["delete", "discard"])
def test_a_mount_in_the_store_is_named_and_not_entered(
    call: str, store: Path, source: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"x")
    before = fingerprint(outside)
    driver = TreeDriver(str(store))
    back_up(driver, source)
    remove = getattr(driver, call)
    point = epoch_path(store, REF) / "data" / "deep" / "deeper"
    with mounted_over(point, outside):
        with pytest.raises(CopyFailed) as caught:
            remove(REF, Watch().control)
        assert caught.value.errno == errno.EBUSY
        assert caught.value.path.startswith(str(point.parent.relative_to(store)))
        with pytest.raises(BackupNotStored):
            driver.inspect(REF)
    assert fingerprint(outside) == before
    remove(REF, Watch().control)
    assert list(store.iterdir()) == []


def test_discard_of_what_is_not_there_tidies_up_empty_directories_above_it(
    store: Path, source: Path
) -> None:
    driver = TreeDriver(str(store))
    (store / REF.project_id / REF.backup_id).mkdir(parents=True)
    driver.discard(REF, Watch().control)
    assert list(store.iterdir()) == []
    back_up(driver, source, other(backup_id="neighbour"))
    driver.discard(REF, Watch().control)
    assert [path.name for path in (store / REF.project_id).iterdir()] == ["neighbour"]


def test_all_manifests_are_gone_before_anything_else_is_removed(store: Path, source: Path) -> None:
    driver = TreeDriver(str(store))
    for epoch in (1, 2, 3):
        back_up(driver, source, other(epoch=epoch))
    data = {epoch: epoch_path(store, other(epoch=epoch)) for epoch in (1, 2, 3)}
    states: list[tuple[int, int]] = []

    def look() -> bool:
        manifests = sum((path / "manifest.json").exists() for path in data.values())
        whole = sum((path / "data" / "a" / "x.txt").exists() for path in data.values())
        states.append((manifests, whole))
        return False

    driver.delete(other(epoch=2), replace(Watch().control, cancelled=look))
    assert states[:4] == [(3, 3), (2, 3), (1, 3), (0, 3)]
    assert all(manifests == 0 for manifests, _ in states[3:])
