# SPDX-License-Identifier: Apache-2.0
"""A dead file server hurts only the jobs that need it.

Its NFS service is stopped, or what is sent to it is lost, or it exports nothing any more, while one
job is about to mount, one to walk, one is copying and one about to unmount. They end in bounded
time with a reason; meanwhile the node reports in and works on a share of another server; nothing is
left, and the same node backs up a share when the server is well again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.nfs.vm import Agent, Vm

pytestmark = [pytest.mark.full, pytest.mark.root]

Strikes = list[tuple[str, list[str]]]

MOMENTS = ["mount", "walk", "copy", "unmount"]
ALL: dict[str, Strikes] = {
    "4.2": [(fault, MOMENTS) for fault in ("stopped", "dropped", "removed")],
    "4.1": [("dropped", ["mount", "walk"])],
    "3": [("removed", ["mount", "walk"])],
}
"""A fault takes the machine a minute and a half, most of it for bringing jobs to their moments."""

BOUND_S = 180
"""Seconds that a job may take to give up: mount(8) may take a minute, and the machine is slow,
beside other tests even more so."""


@pytest.fixture(scope="module")
def database_file(vm: Vm, migrated_file: Path) -> str:
    return vm.give(migrated_file)


@pytest.fixture(scope="module", params=ALL)
def struck(
    request: pytest.FixtureRequest, client: Agent, database_file: str
) -> tuple[Strikes, dict[str, Any]]:
    """What there was, and what came of it, with one version of NFS."""
    wanted = ALL[request.param]
    return wanted, client.call(
        "dead.strikes", version=request.param, wanted=wanted, database_file=database_file
    )


def test_jobs_give_up_and_others_go_on(struck: tuple[Strikes, dict[str, Any]]) -> None:
    wanted, found = struck
    for fault, moments in wanted:
        outcome = found["faults"][fault]
        assert outcome["jobs"].keys() == set(moments)
        for moment, job in outcome["jobs"].items():
            assert job["seconds"] < BOUND_S, (fault, moment)
            if moment == "unmount":
                # Everything was copied and is durable: the share is not needed any more.
                assert (job["status"], job["reason"]) == ("done", None), fault
            else:
                assert job["status"] == "failed", (fault, moment)
                assert job["reason"], (fault, moment)
        assert outcome["other"] == "done", fault
        assert outcome["pause"] < 30, fault


def test_the_node_recovers_without_a_restart(struck: tuple[Strikes, dict[str, Any]]) -> None:
    _, found = struck
    assert found["afterwards"] == ["done", None]
