# SPDX-License-Identifier: Apache-2.0
"""Jobs that come through: create, restore, delete with real trees, mounts and workers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from manila_backup.db.engine import Database
from manila_backup.states import BackupStatus, OperationStatus, ShareStatus
from manila_backup.types import AccessLevel, RestoreMode
from tests.data.node.faulty import WorkerFaults
from tests.data.node.world import ADDRESS, World
from tests.db.builders import OTHER_PROJECT, PROJECT

pytestmark = pytest.mark.slow

DONE, FAILED = OperationStatus.DONE, OperationStatus.FAILED
AVAILABLE = ShareStatus.AVAILABLE


def proto(bind: bool) -> object:
    return pytest.param(
        bind, marks=[pytest.mark.root if bind else pytest.mark.slow], id="bind" if bind else "path"
    )


@pytest.fixture(params=[proto(bind=True), proto(bind=False)])
def any_world(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    database: Database,
    worker_faults: WorkerFaults,
) -> World:
    """With bind mounts, and with paths where there is no root."""
    return World(directory=tmp_path, database=database, workers=worker_faults, bind=request.param)


def test_a_share_is_backed_up_restored_and_the_backup_deleted(any_world: World) -> None:
    world = any_world
    share_id = world.share()
    world.add_rule(share_id, "198.51.100.9", AccessLevel.RW)
    before, rules = world.tree(share_id), world.rules(share_id)

    created = world.work(world.queue_backup(share_id))
    assert (created.status, created.fail_reason) == (DONE, None)
    assert created.progress == 100
    assert created.counters.files > 0
    backup = world.backup(created.backup_id)
    assert backup is not None
    assert (backup.status, backup.progress) == (BackupStatus.AVAILABLE, 100)
    assert backup.published_epoch == 1
    assert backup.stored_bytes == created.counters.bytes
    assert world.epochs(backup.id) == {1: True}
    assert world.tree(share_id) == before
    assert world.share_status(share_id) is AVAILABLE
    world.assert_nothing_is_left(share_id)

    tree = world.store.tree(share_id)
    (tree / "a-b").unlink()
    (tree / "deep" / "extra").write_text("younger than the backup")
    (tree / "big").write_text("overwritten")
    restored = world.work(world.queue_restore(backup.id, share_id))
    assert (restored.status, restored.fail_reason) == (DONE, None)
    assert world.tree(share_id) == before
    assert world.backup_status(backup.id) is BackupStatus.AVAILABLE
    assert world.share_status(share_id) is AVAILABLE
    world.assert_nothing_is_left(share_id)

    deleted = world.work(world.queue_delete(backup.id))
    assert (deleted.status, deleted.fail_reason) == (DONE, None)
    assert world.backup(backup.id) is None
    assert world.epochs(backup.id) == {}
    world.assert_nothing_is_left(share_id)
    assert world.rules(share_id) == rules


def test_a_backup_is_laid_over_another_share(world: World) -> None:
    source, target = world.share(), world.share(filled=False)
    backup_id = world.backed_up(source)
    (world.store.tree(target) / "kept").write_text("the target's own")
    done = world.work(world.queue_restore(backup_id, target, RestoreMode.MERGE))
    assert (done.status, done.fail_reason) == (DONE, None)
    found = world.tree(target)
    assert found.pop(b"kept")["content"] == b"the target's own"
    expected = world.tree(source)
    # The link count says nothing of what was there before.
    assert found.keys() == expected.keys()
    assert found == expected
    world.assert_nothing_is_left(target)


@pytest.mark.root
def test_the_source_is_mounted_read_only_and_the_backup_share_closed_to_others(
    world: World,
) -> None:
    share_id = world.small_share()
    seen: dict[str, bool] = {}

    def look() -> None:
        for point in world.mounts():
            what = "share" if point.endswith("-share") else "backup share"
            seen[what] = bool(os.statvfs(point).f_flag & os.ST_RDONLY)

    # The first unmount: both are mounted still.
    world.steps.before("umount", look)
    world.backed_up(share_id)
    assert seen == {"share": True, "backup share": False}


# --- access rules ---------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [AccessLevel.RO, AccessLevel.RW])
def test_the_tenants_own_rule_is_used_and_stays(world: World, level: AccessLevel) -> None:
    share_id = world.small_share()
    world.add_rule(share_id, ADDRESS, level)
    rules = world.rules(share_id)
    during: list[object] = []
    world.steps.before("mounts", lambda: during.append(world.rules(share_id)))
    world.backed_up(share_id)
    assert during == [rules]
    assert world.rules(share_id) == rules
    world.assert_nothing_is_left(share_id)


def test_a_tenants_rule_that_does_not_suffice_fails_the_restore_and_stays(world: World) -> None:
    share_id = world.small_share()
    backup_id = world.backed_up(share_id)
    world.add_rule(share_id, ADDRESS, AccessLevel.RO)
    rules = world.rules(share_id)
    failed = world.work(world.queue_restore(backup_id, share_id), world.node(max_attempts=1))
    assert failed.status is FAILED
    assert ADDRESS in (failed.fail_reason or "")
    assert world.share_status(share_id) is AVAILABLE
    assert world.rules(share_id) == rules
    world.assert_nothing_is_left(share_id)


# --- the share is not as it was when the request was accepted -------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"project_id": OTHER_PROJECT}, "no longer belongs"),
        ({"size_gib": 3}, "grown beyond the 2 GiB"),
    ],
)
def test_a_share_that_changed_before_the_mark_is_not_backed_up(
    world: World, changes: dict[str, object], reason: str
) -> None:
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    world.change_share(share_id, **changes)
    failed = world.work(queued)
    assert failed.status is FAILED
    assert reason in (failed.fail_reason or "")
    assert world.backup_status(failed.backup_id) is BackupStatus.ERROR
    assert "grant" not in world.steps.seen
    world.assert_nothing_is_left(share_id)


@pytest.mark.parametrize("kind", ["backup", "restore"])
def test_a_share_that_changes_hands_during_the_copy_fails_it(world: World, kind: str) -> None:
    """Admitted by the first two looks, found out by the last."""
    share_id = world.small_share()
    if kind == "backup":
        queued = world.queue_backup(share_id)
    else:
        queued = world.queue_restore(world.backed_up(share_id), share_id)
    world.steps.before(
        "get", lambda: world.change_share(share_id, project_id=OTHER_PROJECT), time=3
    )
    failed = world.work(queued)
    assert world.steps.all_met()
    assert failed.status is FAILED
    assert "no longer belongs" in (failed.fail_reason or "")
    if kind == "backup":
        assert world.backup_status(failed.backup_id) is BackupStatus.ERROR
        assert world.epochs(failed.backup_id) == {}
        assert world.share_status(share_id) is AVAILABLE
    else:
        assert world.share_status(share_id) is ShareStatus.BACKUP_RESTORING_ERROR
    world.assert_nothing_is_left(share_id)


def test_a_share_that_another_holds_is_left_to_it(world: World) -> None:
    share_id = world.small_share()
    queued = world.queue_backup(share_id)
    node = world.node()
    from manila_backup.context import service_context

    share = node.provider.get(service_context(), share_id)
    node.provider.mark(share, "somebody-else", "backup_creating")
    failed = world.work(queued, node)
    assert failed.status is FAILED
    mark = world.store.get(share_id).mark
    assert mark is not None
    assert mark.operation_id == "somebody-else"
    node.provider.unmark(share_id, "somebody-else")
    world.assert_nothing_is_left(share_id)


def test_a_target_that_is_too_small_is_not_touched(world: World) -> None:
    source, target = world.share(), world.share(size_gib=1)
    backup_id = world.backed_up(source)
    before = world.tree(target)
    failed = world.work(world.queue_restore(backup_id, target))
    assert failed.status is FAILED
    assert "too small" in (failed.fail_reason or "")
    assert world.tree(target) == before
    assert world.share_status(target) is AVAILABLE
    world.assert_nothing_is_left(target)


def test_a_damaged_backup_leaves_the_share_untouched(world: World) -> None:
    share_id = world.small_share()
    backup_id = world.backed_up(share_id)
    before = world.tree(share_id)
    (world.backup_share / PROJECT / backup_id / "1" / "manifest.json").write_text("{}")
    failed = world.work(world.queue_restore(backup_id, share_id))
    assert failed.status is FAILED
    assert world.tree(share_id) == before
    assert world.share_status(share_id) is AVAILABLE
    assert world.backup_status(backup_id) is BackupStatus.AVAILABLE
    world.assert_nothing_is_left(share_id)


def test_another_restore_heals_a_share_in_error(world: World) -> None:
    share_id = world.small_share()
    before = world.tree(share_id)
    backup_id = world.backed_up(share_id)
    world.workers.lay("write", "permanent")
    assert world.work(world.queue_restore(backup_id, share_id)).status is FAILED
    assert world.share_status(share_id) is ShareStatus.BACKUP_RESTORING_ERROR
    world.assert_nothing_is_left(share_id)
    assert world.work(world.queue_restore(backup_id, share_id)).status is DONE
    assert world.share_status(share_id) is AVAILABLE
    assert world.tree(share_id) == before


def test_progress_never_falls_and_is_full_only_at_the_end(world: World) -> None:
    share_id = world.share()
    queued = world.queue_backup(share_id)
    node = world.node()
    seen: list[int] = []
    plain = node.database.write

    class Watching(type(node.database)):  # type: ignore[misc]
        def __init__(self) -> None:
            self.__dict__.update(node.database.__dict__)

        def write(self, change):  # type: ignore[no-untyped-def]
            found = plain(change)
            seen.append(world.operation(queued).progress)
            return found

    world.work(queued, replace(node, database=Watching()))
    assert seen == sorted(seen)
    assert seen[-1] == 100
    assert set(seen[:-1]) <= set(range(100))
