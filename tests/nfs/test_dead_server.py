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

Cells = dict[str, list[tuple[str, str]]]
Outcomes = dict[str, list[dict[str, Any]]]

FAULTS = ["stopped", "dropped", "removed"]
MOMENTS = ["mount", "walk", "copy", "unmount"]
SOME: Cells = {"4.2": [("stopped", "copy"), ("dropped", "walk"), ("removed", "mount")]}
"""Each takes the machine half a minute."""

ALL: Cells = {
    "4.2": [(fault, moment) for fault in FAULTS for moment in MOMENTS],
    "4.1": [("stopped", "copy"), ("dropped", "walk")],
    "3": [("dropped", "copy"), ("removed", "walk")],
}
BOUND_S = 120
"""Seconds that a job may take to give up: mount(8) may take a minute, and the machine is slow."""


def outcomes_of(vm: Vm, client: Agent, migrated_file: Path, cells: Cells) -> Outcomes:
    """For each version what came of its cells, and of one more backup."""
    database_file = vm.give(migrated_file)
    return {
        version: client.call(
            "dead.cells", version=version, wanted=wanted, database_file=database_file
        )
        for version, wanted in cells.items()
    }


@pytest.fixture(scope="module")
def some(vm: Vm, client: Agent, migrated_file: Path) -> Outcomes:
    return outcomes_of(vm, client, migrated_file, SOME)


@pytest.fixture(scope="module")
def every(vm: Vm, client: Agent, migrated_file: Path) -> Outcomes:
    return outcomes_of(vm, client, migrated_file, ALL)


def flat(cells: Cells) -> list[tuple[str, str, str]]:
    return [(version, *cell) for version, wanted in cells.items() for cell in wanted]


def judge(found: dict[str, Any], moment: str) -> None:
    assert found["seconds"] < BOUND_S
    assert found["other"] == ("done" if moment == "copy" else None)
    assert found["pause"] < 10
    if moment == "unmount":
        # Everything was copied and is durable: the share is not needed any more.
        assert (found["status"], found["reason"]) == ("done", None)
    else:
        assert found["status"] == "failed"
        assert found["reason"]


@pytest.mark.parametrize(("version", "fault", "moment"), flat(SOME))
def test_the_job_gives_up_and_others_go_on(
    some: Outcomes, version: str, fault: str, moment: str
) -> None:
    judge(some[version][SOME[version].index((fault, moment))], moment)


@pytest.mark.parametrize("version", SOME)
def test_the_node_recovers_without_a_restart(some: Outcomes, version: str) -> None:
    assert some[version][-1] == {"status": "done", "reason": None}


@pytest.mark.by_hand
@pytest.mark.parametrize(("version", "fault", "moment"), flat(ALL))
def test_at_every_moment(every: Outcomes, version: str, fault: str, moment: str) -> None:
    judge(every[version][ALL[version].index((fault, moment))], moment)


@pytest.mark.by_hand
@pytest.mark.parametrize("version", ALL)
def test_the_node_recovers_from_all_of_them(every: Outcomes, version: str) -> None:
    assert every[version][-1] == {"status": "done", "reason": None}
