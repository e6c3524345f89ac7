# SPDX-License-Identifier: Apache-2.0
"""One virtual machine for all tests that need kernel NFS, and agents in it. A pytest plugin."""

from __future__ import annotations

import sys

import pytest

from tests.nfs.vm import CLIENT, Agent, Vm, agent, missing
from tests.support.running import Running
from tests.support.schedule import NFS


@pytest.fixture(scope="module")
def vm(running: Running) -> Vm:
    lacking = missing()
    if lacking:
        pytest.skip(lacking)
    found: Vm = running.get("vm", Vm, NFS)
    return found


@pytest.fixture(scope="module")
def client(running: Running, vm: Vm) -> Agent:
    """On the host ``client``, a data node's."""
    found: Agent = running.get("client", lambda: agent(vm, CLIENT, sys.executable), NFS)
    return found
