# SPDX-License-Identifier: Apache-2.0
"""Random trees come through whole: copied, and backed up and restored over other random trees."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.verify import check_presence, verify_tree
from manila_backup.types import Remarks
from tests.data.copy.conftest import Opened, Run, no_progress, not_cancelled
from tests.support.trees import Node, assert_same, build, snapshot, trees

pytestmark = [pytest.mark.root, pytest.mark.slow]

quick = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@quick
@given(tree=trees())
def test_a_copy_equals_its_source(tree: Node) -> None:
    with tempfile.TemporaryDirectory() as top:
        run = Run(Path(top))
        build(str(run.source), tree)
        result = run.copy()
        assert_same(str(run.source), str(run.target))
        assert result.remarks == Remarks()


@quick
@given(tree=trees(), before=trees())
def test_an_exact_copy_over_another_tree_equals_its_source(tree: Node, before: Node) -> None:
    with tempfile.TemporaryDirectory() as top:
        run = Run(Path(top))
        build(str(run.source), tree)
        build(str(run.target), before)
        run.copy(CopyOptions(delete=True))
        assert_same(str(run.source), str(run.target))


@quick
@given(tree=trees(), before=trees())
def test_backup_and_exact_restore_over_another_tree_equal_the_source(
    tree: Node, before: Node
) -> None:
    with tempfile.TemporaryDirectory() as top:
        run = Run(Path(top))
        build(str(run.source), tree)
        build(str(run.target), before)
        result = run.backup()
        assert result.remarks == Remarks()
        with Opened(run.data) as data:
            args = {"plain_target": True, "cancelled": not_cancelled}
            assert list(check_presence(run.entries, data, **args)) == []
            assert list(verify_tree(run.entries, data, progress=no_progress, **args)) == []
        restored = run.restore()
        assert_same(str(run.source), str(run.target))
        assert restored.remarks == Remarks()
        assert restored.logical_bytes == result.logical_bytes
        assert restored.counters.bytes == result.counters.bytes


@quick
@given(tree=trees(), before=trees())
def test_backup_and_merge_keep_other_names_and_only_those(tree: Node, before: Node) -> None:
    with tempfile.TemporaryDirectory() as top:
        run = Run(Path(top))
        build(str(run.source), tree)
        build(str(run.target), before)
        there = snapshot(str(run.target))
        run.backup()
        run.restore(delete=False)
        wanted, found = snapshot(str(run.source)), snapshot(str(run.target))
        for path, seen in wanted.items():
            # Other names of the same inode that merely stayed are not the backup's.
            assert found[path] == seen, path
        files = {path for path, seen in wanted.items() if seen.kind != 0o40000}
        for path in found.keys() - wanted.keys():
            assert path in there
        for path in there.keys() - found.keys():
            parts = path.split(b"/")
            above = {b"/".join(parts[:n]) for n in range(1, len(parts) + 1)}
            assert above & files, path
