# SPDX-License-Identifier: Apache-2.0
"""One virtual machine for all tests that need kernel NFS, and agents in it. A pytest plugin."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.nfs.vm import CLIENT, Agent, Vm, agent, missing


@pytest.fixture(scope="session")
def vm() -> Iterator[Vm]:
    lacking = missing()
    if lacking:
        pytest.skip(lacking)
    with Vm() as found:
        yield found


@pytest.fixture(scope="session")
def client(vm: Vm) -> Iterator[Agent]:
    """On the host ``client``, a data node's."""
    with agent(vm, CLIENT, sys.executable) as found:
        yield found
