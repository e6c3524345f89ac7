# SPDX-License-Identifier: Apache-2.0
"""A dead file server hurts only the jobs that need it.

Its NFS service is stopped, or what is sent to it is lost, or it exports the share no more: before
the mount, during the walk, during the copy, during the unmount. The job ends in bounded time with a
reason; meanwhile the node reports in and works on a share of another server (during the copy);
nothing is left, and the same node backs the share up when the server is well again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.nfs.vm import Agent, Vm

pytestmark = [pytest.mark.full, pytest.mark.root]

FAULTS = ["stopped", "dropped", "removed"]
MOMENTS = ["mount", "walk", "copy", "unmount"]
CELLS = {
    "4.2": [(fault, moment) for fault in FAULTS for moment in MOMENTS],
    "4.1": [("stopped", "copy"), ("dropped", "walk")],
    "3": [("dropped", "copy"), ("removed", "walk")],
}
BOUND_S = 120
"""Seconds that a job may take to give up: mount(8) may take a minute, and the machine is slow."""


@pytest.fixture(scope="module")
def outcomes(vm: Vm, client: Agent, migrated_file: Path) -> dict[str, list[dict[str, Any]]]:
    """For each version what came of its cells, and of one more backup."""
    return {
        version: client.call(
            "dead.cells", version=version, wanted=cells, database_file=vm.give(migrated_file)
        )
        for version, cells in CELLS.items()
    }


@pytest.mark.parametrize(
    ("version", "fault", "moment"),
    [(version, *cell) for version, cells in CELLS.items() for cell in cells],
)
def test_the_job_gives_up_and_others_go_on(
    outcomes: dict[str, list[dict[str, Any]]], version: str, fault: str, moment: str
) -> None:
    found = outcomes[version][CELLS[version].index((fault, moment))]
    assert found["seconds"] < BOUND_S
    assert found["other"] == ("done" if moment == "copy" else None)
    assert found["pause"] < 10
    if moment == "unmount":
        # Everything was copied and is durable: the share is not needed any more.
        assert (found["status"], found["reason"]) == ("done", None)
    else:
        assert found["status"] == "failed"
        assert found["reason"]


@pytest.mark.parametrize("version", CELLS)
def test_the_node_recovers_without_a_restart(
    outcomes: dict[str, list[dict[str, Any]]], version: str
) -> None:
    assert outcomes[version][-1] == {"status": "done", "reason": None}
