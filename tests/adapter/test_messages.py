# SPDX-License-Identifier: Apache-2.0
"""What manila-data and the process that works for it say to each other."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from manila_backup.adapter.messages import Job, JobKind, Outcome
from manila_backup.types import BackupDescription, BackupRef, Counters, Mount, Parallelism

REF = BackupRef(project_id="p", backup_id="b", epoch=7)
JOB = Job(
    kind=JobKind.CLEAN,
    operation_id="0a-1",
    directory="/var/lib/x",
    store=Mount(proto="nfs", export="host:/a b", options=("vers=4.2", "hard")),
    ref=REF,
    parallelism=Parallelism(processes=2, threads=3),
    discard=True,
)
DESCRIPTION = BackupDescription(
    ref=REF,
    share_id="s",
    share_name="näme\n",
    share_proto="NFS",
    size_gib=1,
    user_id=None,
    name=None,
    description=None,
    availability_zone="nova",
    created_at="2026-11-22T00:00:00.000000Z",
)


def test_a_job_is_one_line_and_comes_back_as_it_was() -> None:
    backup = replace(
        JOB,
        kind=JobKind.BACKUP,
        share=Mount(proto="nfs", export="host:/s\n"),
        description=DESCRIPTION,
    )
    for job in (JOB, backup):
        assert job.dump().count(b"\n") == 1
        assert Job.load(job.dump()) == job


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "JSONDecodeError"),
        (b"[]\n", "TypeError"),
        (b"{}\n", "'kind'"),
        (JOB.dump().replace(b'"clean"', b'"reboot"'), "reboot"),
        (JOB.dump().replace(b'"epoch"', b'"epoque"'), "epoque"),
    ],
)
def test_what_is_no_job_is_refused_with_the_reason(line: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=f"not a job: .*{why}"):
        Job.load(line)


def test_an_outcome_comes_back_as_it_was() -> None:
    for outcome in (
        Outcome(clean=True, counters=Counters(files=3, bytes=1 << 40)),
        Outcome(clean=False, error="it\nfailed"),
    ):
        line = outcome.dump()
        assert line.count(b"\n") == 1
        assert Outcome.load(json.loads(line)["outcome"]) == outcome
