# SPDX-License-Identifier: Apache-2.0
"""Without root: a user's own tree, as the standalone mode backs it up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from manila_backup.data.drivers.tree import TreeDriver
from tests.data.drivers.operations import REF, Watch, back_up, restore
from tests.data.drivers.trees import describe, fill
from tests.support.as_user import NOBODY, as_user

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.root
@pytest.mark.slow
def test_an_ordinary_user_backs_up_and_restores_what_is_his(tmp_path: Path) -> None:
    top = tmp_path / "home"
    top.mkdir()
    os.chown(top, NOBODY, NOBODY)
    subprocess.run(
        [*as_user(NOBODY, top), sys.executable, "-m", __name__, top],
        check=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def back_up_and_restore(top: Path) -> None:
    assert os.geteuid() == NOBODY
    source, store, target = fill(top / "source"), top / "store", top / "target"
    store.mkdir()
    target.mkdir()
    driver = TreeDriver(str(store))
    stored = back_up(driver, source)
    assert stored.counters.losses == 0
    assert driver.verify(REF, Watch().control).problems == ()
    (target / "extra").mkdir()
    restore(driver, target)
    assert describe(target) == describe(source)
    driver.delete(REF, Watch().control)
    assert list(store.iterdir()) == []


if __name__ == "__main__":
    back_up_and_restore(Path(sys.argv[1]))
