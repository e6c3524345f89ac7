# SPDX-License-Identifier: Apache-2.0
"""manila-data's side of the process that works for it: whatever it does, it is gone at the end."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from manila_backup.adapter import process
from manila_backup.adapter.messages import Outcome
from manila_backup.adapter.process import Limits, run_job
from manila_backup.exception import WorkerDied
from tests.adapter.test_messages import JOB

LIMITS = Limits(total_s=60, silence_s=60)

DONE = 'print(\'{"outcome": {"clean": true, "error": null, "counters": null}}\', flush=True)\n'


def python(text: str) -> list[str]:
    return [sys.executable, "-c", f"import os, signal, sys, time\n{text}"]


def test_it_is_given_the_job_and_its_outcome_returned() -> None:
    line = JOB.dump()
    text = f"assert sys.stdin.readline() == {line.decode()!r}\nprint('{{\"alive\": true}}')\n"
    told: list[int] = []
    progress = "print('{\"percent\": 3}')\nprint('{\"percent\": 100}')\n"
    assert run_job(python(text + progress + DONE), JOB, LIMITS, told.append) == Outcome(clean=True)
    assert told == [3, 100]


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("sys.exit(3)", "exit status 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("print('what?')\ntime.sleep(100)", "something odd"),
        ("print('{\"outcome\": {}}')", "something odd"),
        ("sys.stdout.write('{')", "exit status 0"),
    ],
)
def test_without_an_outcome_it_has_died(
    text: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "END_S", 0.5)
    with pytest.raises(WorkerDied, match=how):
        run_job(python(text), JOB, LIMITS)


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(WorkerDied, match="/no/such could not be started"):
        run_job(["/no/such"], JOB, LIMITS)


@pytest.mark.parametrize(
    ("limits", "how"),
    [
        (Limits(total_s=60, silence_s=1), "no sign of life for 1 s"),
        (Limits(total_s=1, silence_s=60), "longer than 1 s"),
    ],
)
def test_one_that_goes_on_for_ever_is_ended(
    limits: Limits, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Although it does not listen, and has started another one."""
    monkeypatch.setattr(process, "END_S", 0.5)
    pids = tmp_path / "pids"
    text = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = os.fork()\n"
        f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "time.sleep(1000)\n"
    )
    with pytest.raises(WorkerDied, match=how):
        run_job(python(text), JOB, limits)
    for pid in map(int, pids.read_text().split()):
        until_s = time.monotonic() + 10
        while is_alive(pid):
            assert time.monotonic() < until_s
            time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_the_end_of_its_input_lets_it_end_in_order(tmp_path: Path) -> None:
    """A kill would leave its mounts."""
    mark = tmp_path / "mark"
    text = (
        "sys.stdin.readline()\n"
        + "print('{\"outcome\": 3}', flush=True)\n"
        + f"sys.stdin.read()\ntime.sleep(1)\nopen({str(mark)!r}, 'w')\n"
    )
    with pytest.raises(WorkerDied):
        run_job(python(text), JOB, LIMITS)
    assert mark.exists()
