# SPDX-License-Identifier: Apache-2.0
"""Each condition of a compare-and-swap is there for a test: without it one fails.

The package and its tests are copied, one condition is taken out, and the suites of that table run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.full]

REPOSITORY = Path(__file__).parents[2]
OPERATIONS = ("tests/db/test_races.py", "tests/db/test_operations.py")
SHARES = ("tests/db/test_busy_shares.py", "tests/db/test_races.py")
BACKUPS = ("tests/db/test_backups.py", "tests/db/test_races.py")
QUOTA = ("tests/quota",)


class Mutant(NamedTuple):
    """``turn``: which of the places where the condition stands; ``suites`` have to see it."""

    file: str
    condition: str
    turn: int
    suites: tuple[str, ...]

    def __str__(self) -> str:
        return f"{Path(self.file).stem} {self.condition.strip(' ,')} {self.turn}"


OPS, BUSY = "manila_backup/db/operations.py", "manila_backup/db/busy_shares.py"
MUTANTS = [
    *(
        Mutant(OPS, f"            OperationRow.{name} == {whose}.{name},\n", turn, OPERATIONS)
        for name, whose, turn in (
            ("id", "seen", 1),
            ("status", "seen", 1),
            ("epoch", "seen", 1),
            ("id", "held", 1),
            ("epoch", "held", 1),
            ("id", "seen", 2),
            ("status", "seen", 2),
            ("epoch", "seen", 2),
        )
    ),
    Mutant(OPS, "            OperationRow.status == OperationStatus.RUNNING,\n", 1, OPERATIONS),
    Mutant(
        OPS,
        "        statement = statement.where(OperationRow.lease_until_us <= now_us())\n",
        1,
        OPERATIONS,
    ),
    Mutant(BUSY, "            BusyShareRow.status == held.status,\n", 1, SHARES),
    Mutant(BUSY, "            BusyShareRow.operation_id == owner,\n", 1, SHARES),
    Mutant("manila_backup/db/backups.py", ", BackupRow.status == before", 1, BACKUPS),
    Mutant("manila_backup/db/backups.py", ", target < percent", 1, BACKUPS),
    Mutant(
        "manila_backup/quota/ledger.py",
        "        statement = statement.where(QuotaUsageRow.in_use + amount <= limit)\n",
        1,
        QUOTA,
    ),
    Mutant(
        "manila_backup/quota/ledger.py",
        "            QuotaUsageRow.in_use == drift.in_use,\n",
        1,
        QUOTA,
    ),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mutants")
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("manila_backup", "tests"):
        shutil.copytree(REPOSITORY / name, place / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.cfg"):
        shutil.copy(REPOSITORY / name, place / name)
    return place


def suites_see_nothing(copy: Path, suites: tuple[str, ...]) -> tuple[bool, str]:
    """Whether all tests of these suites pass in the copy, on SQLite; and what they print."""
    chosen = ["-k", "not mariadb and not postgresql and not mutants and not processes"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *chosen, *suites],
        cwd=copy,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode == 0, done.stdout + done.stderr


def test_as_it_is_nothing_is_seen(copy: Path) -> None:
    """Else every mutant would be seen for the wrong reason."""
    passed, text = suites_see_nothing(copy, (*OPERATIONS, *SHARES[:1], *BACKUPS[:1], *QUOTA))
    assert passed, text


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_without_a_condition_a_test_fails(copy: Path, mutant: Mutant) -> None:
    original = (copy / mutant.file).read_text()
    parts = original.split(mutant.condition)
    assert len(parts) > mutant.turn, "the condition is not there any more: mend this test"
    before, after = parts[: mutant.turn], parts[mutant.turn :]
    instead = "        pass\n" if mutant.condition.lstrip().startswith("statement") else ""
    mutated = mutant.condition.join(before) + instead + mutant.condition.join(after)
    (copy / mutant.file).write_text(mutated)
    try:
        passed, text = suites_see_nothing(copy, mutant.suites)
    finally:
        (copy / mutant.file).write_text(original)
    assert not passed, f"no test needs {mutant}"
    assert " failed" in text, text
