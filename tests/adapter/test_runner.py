# SPDX-License-Identifier: Apache-2.0
"""The process that works as root for manila-data: real mounts, real workers, real deaths."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from manila_backup.adapter.messages import Job, JobKind, Outcome
from manila_backup.adapter.process import Limits, run_job
from manila_backup.data.mountinfo import mounted_below
from manila_backup.types import BackupDescription, BackupRef, Mount, Parallelism
from tests.acceptance.waiting import until
from tests.data.copy.file_systems import SMALL_INODES, FileSystems
from tests.support.forests import forest, one_of_each
from tests.support.trees import build, differences, snapshot

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.slow,
]

COMMAND = [sys.executable, "-P", "-m", "manila_backup.adapter.runner"]
LIMITS = Limits(total_s=120, silence_s=60)
REF = BackupRef(project_id="project", backup_id="backup", epoch=5)


@dataclass(frozen=True, kw_only=True)
class Places:
    root: Path

    @property
    def share(self) -> Path:
        return self.root / "share"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def work(self) -> Path:
        return self.root / "work"

    def job(self, kind: JobKind, operation_id: str = "0a-1", **changes: object) -> Job:
        job = Job(
            kind=kind,
            operation_id=operation_id,
            directory=str(self.work),
            store=Mount(proto="bind", export=str(self.store)),
            ref=REF,
            parallelism=Parallelism(processes=2, threads=4),
            share=Mount(proto="bind", export=str(self.share)),
            description=describe(REF) if kind is JobKind.BACKUP else None,
        )
        return replace(job, **changes)  # type: ignore[arg-type]

    def run(self, kind: JobKind, operation_id: str = "0a-1", **changes: object) -> Outcome:
        return run_job(COMMAND, self.job(kind, operation_id, **changes), LIMITS)

    def left(self) -> list[str]:
        """Mounts, mount points and records."""
        entries = [str(path) for path in self.work.glob("*/*")]
        return entries + mounted_below(str(self.work))

    def worker(self) -> int | None:
        for record in (self.work / "workers").glob("*"):
            with suppress(OSError, ValueError):
                return int(json.loads(record.read_text())["pid"])
        return None


def describe(ref: BackupRef) -> BackupDescription:
    return BackupDescription(
        ref=ref,
        share_id="share",
        share_name=None,
        share_proto="NFS",
        size_gib=1,
        user_id=None,
        name=None,
        description=None,
        availability_zone=None,
        created_at="2026-11-22T00:00:00.000000Z",
    )


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    places = Places(root=tmp_path)
    places.share.mkdir()
    places.store.mkdir()
    one_of_each(places.share)
    yield places
    for point in mounted_below(str(places.work)):
        subprocess.run(["umount", "--lazy", point], check=True)


def test_backup_restore_and_delete_leave_what_they_should(places: Places) -> None:
    before = snapshot(places.share)
    outcome = places.run(JobKind.BACKUP)
    assert (outcome.clean, outcome.error) == (True, None)
    assert outcome.counters is not None
    assert outcome.counters.files == 2
    assert places.left() == []
    (places.share / "f").unlink()
    (places.share / "more").touch()
    assert places.run(JobKind.RESTORE).error is None
    assert differences(before, snapshot(places.share)) == []
    assert places.run(JobKind.DELETE).error is None
    assert list(places.store.iterdir()) == []
    assert places.run(JobKind.DELETE).error is None
    assert places.left() == []


def test_what_is_lost_is_named_in_the_log(
    places: Places, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its standard error is manila-data's."""
    (places.share / "precise").touch()
    os.utime(places.share / "precise", ns=(1, 1))
    with FileSystems() as made:
        store = Mount(proto="bind", export=str(made.new(SMALL_INODES)))
        outcome = places.run(JobKind.BACKUP, store=store)
    assert (outcome.clean, outcome.error) == (True, None)
    assert outcome.counters is not None
    assert outcome.counters.losses > 0
    assert "WARNING Operation 0a-1: precise: time" in capfd.readouterr().err


def test_the_newest_epoch_that_is_published_is_restored(places: Places) -> None:
    places.run(JobKind.BACKUP)
    (places.share / "f").write_bytes(b"newer")
    newer = replace(REF, epoch=6)
    places.run(JobKind.BACKUP, ref=newer, description=describe(newer))
    (places.store / "project" / "backup" / "7").mkdir()
    (places.share / "f").write_bytes(b"newest")
    assert places.run(JobKind.RESTORE).error is None
    assert (places.share / "f").read_bytes() == b"newer"
    assert places.run(JobKind.DELETE).error is None
    assert list(places.store.iterdir()) == []


def test_what_is_not_stored_cannot_be_restored(places: Places) -> None:
    before = snapshot(places.share)
    outcome = places.run(JobKind.RESTORE)
    assert outcome.clean
    assert "no valid manifest" in (outcome.error or "")
    assert differences(before, snapshot(places.share)) == []


@pytest.mark.parametrize("kind", [JobKind.RESTORE, JobKind.DELETE])
def test_a_backup_of_manilas_own_driver_is_left_alone(places: Places, kind: JobKind) -> None:
    (places.store / "backup").mkdir()
    (places.store / "backup" / "theirs").touch()
    outcome = places.run(kind)
    assert "Manila's own backup driver" in (outcome.error or "")
    assert (places.store / "backup" / "theirs").exists()
    assert places.left() == []


def test_a_share_that_cannot_be_mounted_is_named(places: Places) -> None:
    outcome = places.run(JobKind.BACKUP, share=Mount(proto="bind", export="/no/such"))
    assert outcome.clean
    assert "/no/such" in (outcome.error or "")
    assert list(places.store.iterdir()) == []


@pytest.mark.parametrize(
    "change", [{"operation_id": "../x"}, {"ref": replace(REF, project_id="..")}]
)
def test_ids_that_are_none_name_no_files(places: Places, change: dict[str, object]) -> None:
    job = replace(places.job(JobKind.CLEAN), **change)  # type: ignore[arg-type]
    done = subprocess.run(COMMAND, input=job.dump(), capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stdout == b""
    assert not places.work.exists()


# --- deaths ---------------------------------------------------------------------------------------

PARENT = """
import sys
from manila_backup.adapter.messages import Job
from manila_backup.adapter.process import Limits, run_job
run_job(sys.argv[2:], Job.load(sys.argv[1].encode()), Limits(total_s=120, silence_s=60))
"""


@contextmanager
def in_the_middle(places: Places, kind: JobKind) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A parent like manila-data and its runner's pid, the worker suspended."""
    shutil.rmtree(places.share)
    places.share.mkdir()
    build(str(places.share), forest(3, 5000))
    argument = places.job(kind).dump().decode()
    with subprocess.Popen([sys.executable, "-c", PARENT, argument, *COMMAND]) as parent:
        group = until(places.worker, "a worker")
        os.killpg(group, signal.SIGSTOP)
        (runner,) = map(int, children(parent.pid))
        try:
            yield parent, runner
        finally:
            parent.kill()
            until(lambda: not Path(f"/proc/{runner}/cwd").exists(), "the runner's end")
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


def children(pid: int) -> list[str]:
    found: list[str] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        found += listing.read_text().split()
    return found


def test_it_unmounts_and_ends_when_manila_data_dies(places: Places) -> None:
    with in_the_middle(places, JobKind.BACKUP) as (parent, runner):
        assert len(mounted_below(str(places.work))) == 2
        parent.kill()
        until(lambda: not Path(f"/proc/{runner}/cwd").exists(), "the runner's end")
    assert places.left() == []


def test_it_unmounts_and_ends_when_it_is_asked_to(places: Places) -> None:
    with in_the_middle(places, JobKind.BACKUP) as (_, runner):
        os.kill(runner, signal.SIGTERM)
        until(lambda: not Path(f"/proc/{runner}/cwd").exists(), "the runner's end")
    assert places.left() == []


def test_what_it_leaves_when_it_is_killed_is_cleaned_by_the_next(places: Places) -> None:
    with in_the_middle(places, JobKind.BACKUP) as (_, runner):
        os.kill(runner, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{runner}/cwd").exists(), "the runner's end")
        assert len(mounted_below(str(places.work))) == 2
        assert places.run(JobKind.CLEAN, discard=True) == Outcome(clean=True)
    assert places.left() == []
    assert list(places.store.iterdir()) == []


def test_cleaning_waits_for_the_one_that_still_works(places: Places) -> None:
    """It is another's operation as long as that one lives."""
    with in_the_middle(places, JobKind.BACKUP) as (parent, runner):
        clean = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert clean.stdin is not None
        clean.stdin.write(places.job(JobKind.CLEAN, discard=True).dump())
        clean.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            clean.wait(3)
        assert len(mounted_below(str(places.work))) == 2
        parent.kill()
        until(lambda: not Path(f"/proc/{runner}/cwd").exists(), "the runner's end")
        with clean:
            out, _ = clean.communicate(timeout=60)
    assert Outcome.load(json.loads(out.splitlines()[-1])["outcome"]) == Outcome(clean=True)
    assert places.left() == []
    assert list(places.store.iterdir()) == []


def test_cleaning_what_never_began_does_nothing(places: Places) -> None:
    assert places.run(JobKind.CLEAN, discard=True) == Outcome(clean=True)
    assert places.left() == []


def test_neither_eventlet_nor_manila_comes_along() -> None:
    program = (
        "import sys, manila_backup.adapter.runner, manila_backup.adapter.calls\n"
        "names = {'manila', 'sqlalchemy', 'oslo_db', 'oslo_messaging', 'oslo_service'}\n"
        "assert not names & set(sys.modules)\n"
        "assert sys.modules['eventlet'] is None\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
