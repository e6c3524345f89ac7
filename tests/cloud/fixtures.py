# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests everywhere: one cloud, and one Keystone alone (with pytest-xdist: per
process).

They run from the first test that wants them to the end of the last module in a row that does:
an idle Manila takes a tenth of a processor from all tests that follow.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.cloud.cloud import Cloud
from tests.cloud.cloud import cloud as running_cloud
from tests.cloud.keystone import Keystone
from tests.support.schedule import CLOUD, group_of

_STARTS: dict[str, Any] = {CLOUD: running_cloud, "keystone": Keystone}


class Running:
    """What is started when it is wanted, by name."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[ExitStack, Any]] = {}

    def get(self, name: str) -> Any:
        if name not in self._found:
            stack = ExitStack()
            self._found[name] = stack, stack.enter_context(_STARTS[name]())
        return self._found[name][1]

    def keep_only(self, names: list[str]) -> None:
        for name in set(self._found) - set(names):
            self._found.pop(name)[0].close()


_RUNNING = pytest.StashKey[Running]()


@pytest.fixture(scope="session")
def running_servers(request: pytest.FixtureRequest) -> Iterator[Running]:
    found = request.session.stash[_RUNNING] = Running()
    yield found
    found.keep_only([])


@pytest.fixture(scope="module")
def cloud(running_servers: Running) -> Cloud:
    """Keystone, RabbitMQ, MariaDB and Manila. Tests that stop a service start it again."""
    found: Cloud = running_servers.get(CLOUD)
    return found


@pytest.fixture(scope="module")
def keystone(running_servers: Running) -> Keystone:
    """Keystone alone, apart from the cloud's: up in a fraction of the time."""
    found: Keystone = running_servers.get("keystone")
    return found


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    result = yield
    found = item.session.stash.get(_RUNNING, None)
    # What a module's own fixtures have made of them is gone only when the module is.
    if found is not None and nextitem is not None and _module(item) is not _module(nextitem):
        wanted = list(getattr(nextitem, "fixturenames", []))
        if group_of(nextitem.nodeid) == CLOUD:
            wanted.append(CLOUD)
        found.keep_only(wanted)
    return result


def _module(item: pytest.Item) -> pytest.Module | None:
    return item.getparent(pytest.Module)
