# SPDX-License-Identifier: Apache-2.0
"""What takes minutes to start runs once (with pytest-xdist: once per process), and no longer than
it is wanted. A pytest plugin.

It runs from the first test that wants it to the end of the last module in a row that does, or that
is of the same group (tests/support/schedule.py): an idle Manila takes a tenth of a processor from
all tests that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.schedule import group_of


@dataclass(frozen=True, slots=True, kw_only=True)
class _Started:
    stack: ExitStack
    value: Any
    group: str | None


class Running:
    """What is started when it is wanted, by the name of its fixture."""

    def __init__(self) -> None:
        self._found: dict[str, _Started] = {}

    def get(
        self, name: str, start: Callable[[], AbstractContextManager[Any]], group: str | None = None
    ) -> Any:
        if name not in self._found:
            stack = ExitStack()
            value = stack.enter_context(start())
            self._found[name] = _Started(stack=stack, value=value, group=group)
        return self._found[name].value

    def keep_for(self, item: pytest.Item | None) -> None:
        """End what neither ``item`` nor its group wants, the last to be started first."""
        names = [] if item is None else getattr(item, "fixturenames", [])
        group = None if item is None else group_of(item.nodeid)
        for name, started in reversed(list(self._found.items())):
            if name not in names and (started.group is None or started.group != group):
                del self._found[name]
                started.stack.close()


_RUNNING = pytest.StashKey[Running]()


@pytest.fixture(scope="session")
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    found = request.session.stash[_RUNNING] = Running()
    yield found
    found.keep_for(None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    result = yield
    found = item.session.stash.get(_RUNNING, None)
    # What a module's own fixtures have made of them is gone only when the module is.
    if found is not None and nextitem is not None and _module(item) is not _module(nextitem):
        found.keep_for(nextitem)
    return result


def _module(item: pytest.Item) -> pytest.Module | None:
    return item.getparent(pytest.Module)
