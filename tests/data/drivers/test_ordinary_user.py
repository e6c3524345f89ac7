# SPDX-License-Identifier: Apache-2.0
"""Without root: a user's own tree, as the standalone mode backs it up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from manila_backup.data.drivers.tree import TreeDriver
from tests.data.drivers.killing import in_child
from tests.data.drivers.operations import REF, Watch, back_up, restore
from tests.data.drivers.trees import describe, fill

NOBODY = 65534


def unobserved(event: str, args: tuple[Any, ...]) -> None:
    """No hook."""


@pytest.mark.root
def test_an_ordinary_user_backs_up_and_restores_what_is_his(tmp_path: Path) -> None:
    top = tmp_path / "home"
    top.mkdir()
    os.chown(top, NOBODY, NOBODY)

    def act() -> None:
        # The directories above belong to root, as pytest makes them: paths are relative then.
        os.chdir(top)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        source, store, target = fill(Path("source")), Path("store"), Path("target")
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

    status = in_child(act, unobserved)
    assert os.WIFEXITED(status)
    assert os.WEXITSTATUS(status) == 0
