# SPDX-License-Identifier: Apache-2.0
"""What mount(8) and the kernel make of the mounts that a data node asks for."""

from __future__ import annotations

import pytest

from tests.nfs.vm import ADDRESSES, SOURCE, Agent

pytestmark = [pytest.mark.full, pytest.mark.root]

ADDRESS = ADDRESSES[SOURCE]


@pytest.mark.parametrize(
    "export",
    [
        f"{ADDRESS}:/ext4/plain",
        "[fd99::11]:/ext4/plain",
        "source:/ext4/plain",
        f"{ADDRESS}:/ext4/with space",
        f"{ADDRESS}:/ext4/with,comma",
    ],
)
def test_addresses_names_and_spaces(client: Agent, export: str) -> None:
    found = client.call("mounting.look", export=export, options=[], read_only=True)
    assert found["content"] == "content"
    assert found["source"] == export
    assert found["mounts"] == 1
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(found["own"])
    # Nobody said which version.
    assert {"vers=4.2", "softerr", "timeo=100", "retrans=2"} <= set(found["of the file system"])


@pytest.mark.parametrize("version", ["3", "4.1", "4.2"])
def test_a_version_can_be_pinned_and_times_and_connections_set(client: Agent, version: str) -> None:
    options = [f"nfsvers={version}", "timeo=50", "hard", "nconnect=2", "rsize=65536"]
    found = client.call(
        "mounting.look", export=f"{ADDRESS}:/ext4/pinned", options=options, read_only=False
    )
    assert {"rw", "nosuid", "nodev", "noexec"} <= set(found["own"])
    wanted = {f"vers={version}", "softerr", "timeo=50", "retrans=2", "rsize=65536", "nconnect=2"}
    assert wanted <= set(found["of the file system"])
    assert "hard" not in found["of the file system"]
