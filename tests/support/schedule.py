# SPDX-License-Identifier: Apache-2.0
"""Which tests belong together, and which come first, when several processes run them.

A module is run by one process, as with ``--dist loadfile``. All tests that need Manila are run by
one process in a row: a Manila takes minutes to start and a tenth of a processor while it is idle.
They come first, since they take longest and mostly wait. So it is with those that need the virtual
machine with kernel NFS; they come second.
"""

from __future__ import annotations

from typing import Any

import pytest

CLOUD = "cloud"
NFS = "nfs"
FIRST = [CLOUD, NFS, "tests/devstack/test_plugin.py"]
"""Groups. The last is a quarter of an hour, which one process would run alone in the end."""


def group_of(nodeid: str) -> str:
    """One of :data:`FIRST`, or the path of the module."""
    path, _, name = nodeid.partition("::")
    if path.startswith("tests/cloud/") or path == "tests/share/test_manila_provider.py":
        return CLOUD
    if path == "tests/share/test_provider_contract.py" and "[manila" in name:
        return CLOUD
    if path.startswith("tests/nfs/"):
        return NFS
    if path == "tests/share/test_provider_contract.py" and "[vm" in name:
        return NFS
    return path


def _place(item: pytest.Item) -> int:
    group = group_of(item.nodeid)
    return FIRST.index(group) if group in FIRST else len(FIRST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order within the groups stays."""
    items.sort(key=_place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Scheduler(config, log)
