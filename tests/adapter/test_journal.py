# SPDX-License-Identifier: Apache-2.0
"""What manila-data has in work is known to the next one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from manila_backup.adapter.cloud import CallKind
from manila_backup.adapter.journal import Entry, Journal
from manila_backup.exception import TransientError

ENTRY = Entry(
    operation_id="0a-1",
    kind=CallKind.BACKUP,
    backup_id="b",
    project_id="p",
    share_id="s",
    epoch=1 << 60,
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(str(tmp_path / "new" / "state"))
    journal.open()
    yield journal
    journal.close()


def test_an_entry_is_found_as_it_was_written_last(journal: Journal) -> None:
    journal.write(ENTRY)
    later = replace(ENTRY, rules=("r1", "r2"), mounted=True, succeeded=False, reason="née\n")
    journal.write(later)
    other = replace(ENTRY, operation_id="0a-2")
    journal.write(other)
    assert sorted(journal.entries(), key=lambda e: e.operation_id) == [later, other]
    assert journal.read(ENTRY) == later
    journal.remove(ENTRY)
    journal.remove(ENTRY)
    assert list(journal.entries()) == [other]


def test_only_the_data_of_a_backup_that_is_not_known_to_have_succeeded_is_discarded() -> None:
    assert ENTRY.discards
    assert replace(ENTRY, succeeded=False).discards
    assert not replace(ENTRY, succeeded=True).discards
    assert not replace(ENTRY, kind=CallKind.RESTORE).discards
    assert not replace(ENTRY, kind=CallKind.DELETE).discards


def test_a_write_that_was_cut_off_leaves_the_entry_before(journal: Journal, tmp_path: Path) -> None:
    journal.write(ENTRY)
    (tmp_path / "new" / "state" / "0a-1.new").write_text('{"operation_id"')
    assert list(journal.entries()) == [ENTRY]


def test_a_file_that_is_no_entry_is_passed_over_and_stays(journal: Journal, tmp_path: Path) -> None:
    odd = tmp_path / "new" / "state" / "odd.json"
    odd.write_text("[]")
    journal.write(ENTRY)
    assert list(journal.entries()) == [ENTRY]
    assert odd.exists()


def test_another_process_cannot_use_it_meanwhile(journal: Journal, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from manila_backup.adapter.journal import Journal\n"
        "Journal(sys.argv[1]).open()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "new" / "state")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "another process uses state_directory" in refused.stderr
    journal.open()
    journal.close()
    assert subprocess.run(command, check=False).returncode == 0


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TransientError, match=f"state_directory {tmp_path}/file"):
        Journal(str(tmp_path / "file" / "state")).open()
    with pytest.raises(TransientError, match="state_directory"):
        Journal(str(tmp_path / "missing")).write(ENTRY)
