# SPDX-License-Identifier: Apache-2.0
"""Large files over NFS: several processes write to one, whatever it is called by then."""

from __future__ import annotations

import pytest

from tests.nfs.guest.large import PARTS
from tests.nfs.vm import Agent

pytestmark = [pytest.mark.full, pytest.mark.root]


@pytest.mark.parametrize("version", ["4.2", pytest.param("3", marks=pytest.mark.by_hand)])
def test_a_large_file_that_is_renamed_at_the_server_is_completed(
    client: Agent, version: str
) -> None:
    found = client.call("large.round_trip", version=version)
    assert found["tasks"] == [PARTS, PARTS], "of the backup and of the restore"
    assert found["is whole"]
    assert found["mtime_ns"] == 10**18 + 7
    assert found["names"] == ["away"]
    if version != "3":  # whose client knows the old name for some seconds more
        assert found["changed"] == ["big"]
