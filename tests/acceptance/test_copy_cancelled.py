# SPDX-License-Identifier: Apache-2.0
"""``manila-backup-copy`` cancelled and killed in the middle, and completed by a second run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from manila_backup.cmd.copy import Job, parser
from manila_backup.cmd.copy_places import opened_places
from manila_backup.cmd.copy_report import Result
from manila_backup.data.drivers.durable import Disk
from tests.acceptance.copying import (
    COMMAND,
    DEADLINE_S,
    LARGE_BYTES,
    MANY,
    MIB,
    Places,
    check_schema,
    copied,
    fill_with_much,
)
from tests.acceptance.trees import fill
from tests.acceptance.waiting import until
from tests.support.trees import assert_same, snapshot

pytestmark = pytest.mark.acceptance

SOON_S = 5.0
"""It is one second on an idle machine; this one is shared."""
TRIES = 20
AGAIN = "manila-backup-copy: what was copied so far stays; a second run completes it"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """SRC, filled, and DST, which is not there."""
    return fill(tmp_path / "source"), tmp_path / "target"


@pytest.fixture(scope="module")
def much(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_with_much(tmp_path_factory.mktemp("much") / "source")


def in_the_large_file(target: Path) -> bool:
    try:
        return 0 < (target / "a-large").stat().st_blocks * 512 < LARGE_BYTES - 8 * MIB
    except OSError:
        return False


def in_the_small_ones(target: Path) -> bool:
    made = 0
    for number in range(MANY // 500):
        try:
            made += len(os.listdir(target / f"many-{number}"))
        except FileNotFoundError:
            continue
    return MANY // 10 < made < MANY - MANY // 4


def caught(source: Path, target: Path, wanted: Any, *options: str) -> subprocess.Popen[str]:
    """A process group of its own, standing still in the middle."""
    for _ in range(TRIES):
        shutil.rmtree(target, ignore_errors=True)
        process = subprocess.Popen(
            [*COMMAND, "--json", *options, source, target],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        while process.poll() is None:
            if wanted(target):
                os.killpg(process.pid, signal.SIGSTOP)
                os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
                if process.poll() is None and wanted(target):
                    return process
                os.killpg(process.pid, signal.SIGCONT)
                break
        process.communicate(timeout=DEADLINE_S)
    raise AssertionError("never caught in the middle")


@pytest.mark.parametrize(
    ("cancelled_by", "options"),
    [
        ((signal.SIGINT, True), ()),
        pytest.param((signal.SIGINT, True), ("--checksum", "--delete"), marks=pytest.mark.slow),
        pytest.param((signal.SIGTERM, False), ("--checksum", "--progress"), marks=pytest.mark.slow),
        pytest.param((signal.SIGTERM, False), ("--processes=1",), marks=pytest.mark.slow),
        pytest.param((signal.SIGTERM, True), (), marks=pytest.mark.slow),
        pytest.param((signal.SIGHUP, True), ("--checksum",), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("moment", [in_the_large_file, in_the_small_ones])
def test_cancelled_in_the_middle_and_completed_by_a_second_run(
    cancelled_by: tuple[signal.Signals, bool], options: Any, moment: Any, much: Path, tmp_path: Path
) -> None:
    """A terminal's Ctrl-C and its end go to the whole group, a supervisor's signal to all or to the
    first process.
    """
    (number, to_all), target = cancelled_by, tmp_path / "target"
    process = caught(much, target, moment, *options)
    (os.killpg if to_all else os.kill)(process.pid, number)
    start_s = time.monotonic()
    os.killpg(process.pid, signal.SIGCONT)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert time.monotonic() - start_s < SOON_S
    assert process.returncode == 128 + number
    assert f"manila-backup-copy: cancelled ({number.name})\n{AGAIN}\n" in err
    assert "Traceback" not in err
    found = json.loads(out)
    check_schema(found)
    assert (found["result"], found["error"]) == ("cancelled", None)
    assert nobody_left_in(process.pid)
    only_whole_files(much, target)
    assert copied(*options, much, target).status == 0
    assert_same(str(much), str(target))


def nobody_left_in(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def only_whole_files(source: Path, target: Path) -> None:
    """Nothing has a name that the source has not, and no file is half of one."""
    wanted, seen = snapshot(str(source)), snapshot(str(target))
    assert seen.keys() <= wanted.keys()
    for path, entry in seen.items():
        if entry.kind == stat.S_IFREG:
            assert (entry.size, entry.digest) == (wanted[path].size, wanted[path].digest), path


def test_killed_in_the_middle_and_completed_by_a_second_run(
    much: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file may be left, but no process and no temporary file."""
    target, temporary = tmp_path / "target", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    process = caught(much, target, in_the_small_ones, "--checksum", "--delete")
    process.kill()
    os.killpg(process.pid, signal.SIGCONT)
    process.communicate(timeout=DEADLINE_S)
    until(lambda: nobody_left_in(process.pid), "the end of its processes")
    assert os.listdir(temporary) == []
    assert snapshot(str(target)).keys() < snapshot(str(much)).keys()
    assert copied("--delete", much, target).status == 0
    assert_same(str(much), str(target))


def test_ignored_signals_stay_ignored(much: Path, tmp_path: Path) -> None:
    """nohup."""
    target = tmp_path / "target"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = caught(much, target, in_the_small_ones)
    finally:
        signal.signal(signal.SIGHUP, before)
    os.killpg(process.pid, signal.SIGHUP)
    os.killpg(process.pid, signal.SIGCONT)
    out, _ = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, json.loads(out)["result"]) == (0, "complete")
    assert_same(str(much), str(target))


def test_cancelled_while_it_syncs(places: Places) -> None:
    """The kernel cannot be interrupted there; the end is one all the same."""
    asked = []

    class SlowDisk(Disk):
        def syncfs(self, fd: int) -> None:
            asked.append(fd)

    found = parser().parse_args([str(place) for place in places])
    with opened_places(*(os.fsencode(place) for place in places)) as opened:
        outcome = Job(found, opened, cancelled=lambda: bool(asked), disk=SlowDisk()).run()
    assert outcome.result is Result.CANCELLED
