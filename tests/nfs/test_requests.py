# SPDX-License-Identifier: Apache-2.0
"""What a copy costs the file servers: requests, counted by the client's kernel."""

from __future__ import annotations

import pytest

from tests.nfs.vm import Agent

pytestmark = [pytest.mark.full, pytest.mark.root]


def test_small_files_take_no_more_requests_than_with_cp(client: Agent) -> None:
    """Although cp neither asks for NFSv4 ACLs nor looks at what became of its files. (On v3 both
    take 7.4, give or take one for every ten files.)"""
    client.call("bench.prepare", files=200, delay_ms=0)
    cp, ours = (client.call("bench.copy", tool=tool, version="4.2") for tool in ("cp -a", "ours"))
    assert cp["files"] == ours["files"] == 200
    assert ours["requests"] <= cp["requests"]
