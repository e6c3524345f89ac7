# SPDX-License-Identifier: Apache-2.0
"""Processes that were killed and do not end are counted until they do."""

from __future__ import annotations

import subprocess

from manila_backup.data.hanging import Hanging


def test_what_hangs_is_counted_and_reaped_when_it_ends() -> None:
    hanging = Hanging()
    assert hanging.reap() == 0
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    hanging.add(process)
    assert hanging.reap() == 1
    process.stdin.close()
    while hanging.reap():
        pass
    # Nobody has to wait for it any more.
    assert process.returncode == 0
