# SPDX-License-Identifier: Apache-2.0
"""Our engine inside a real manila-data, behind Manila's own API, by the unmodified client.

What works as root is started through rootwrap, with the filter from etc/.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.waiting import until
from tests.cloud.adapted import ADDRESS, Adapted
from tests.cloud.adapted import adapted as adapted_cloud
from tests.cloud.cloud import Cloud
from tests.cloud.users import ADMIN, ALT_DEMO, DEMO
from tests.support.forests import forest, one_of_each
from tests.support.trees import build, differences, snapshot

pytestmark = [pytest.mark.full, pytest.mark.acceptance, pytest.mark.root]

TENANTS = {("192.0.2.1", "rw"), ("127.0.0.0/8", "ro")}


@pytest.fixture(scope="module")
def adapted(cloud: Cloud) -> Iterator[Adapted]:
    with adapted_cloud(cloud) as found:
        yield found


@pytest.fixture
def share_id(adapted: Adapted) -> str:
    """A share with content of every kind and rules of its tenant, one for the node's network."""
    share_id = adapted.cloud.create_share(DEMO)
    tree = adapted.cloud.tree(share_id)
    build(str(tree), forest(7, 300))
    one_of_each(tree)
    (tree / "a").write_bytes(b"linked")
    os.link(tree / "a", tree / "d" / "also a")
    os.setxattr(tree / "d", "user.colour", b"blue")
    os.utime(tree / "d", ns=(1, 10**18 + 1))
    tree.chmod(0o2771)
    for address, level in TENANTS:
        adapted.cloud.client(DEMO).shares.allow(share_id, "ip", address, level)
    until(lambda: adapted.cloud.in_force(share_id) == TENANTS, "the tenant's rules")
    return share_id


@pytest.fixture
def large_id(adapted: Adapted) -> str:
    """A share that takes a while."""
    share_id = adapted.cloud.create_share(DEMO)
    build(str(adapted.cloud.tree(share_id)), forest(11, 6000))
    return share_id


def assert_nothing_left(adapted: Adapted, share_id: str, rules: set[tuple[str, str]]) -> None:
    assert adapted.left() == []
    assert adapted.cloud.in_force(share_id) == rules
    assert adapted.cloud.share(share_id).task_state is None
    listed = adapted.cloud.client(ADMIN).share_access_rules.access_list(share_id)
    assert {(rule.access_to, rule.access_level) for rule in listed} == rules
    assert {rule.state for rule in listed} <= {"active"}


def stop_worker(adapted: Adapted) -> int:
    """When it has its task, in the middle: its process group, suspended."""
    group = until(adapted.worker, "a worker")
    os.killpg(group, signal.SIGSTOP)
    return group


def spoil(tree: Path) -> None:
    """Everything is changed: gone, other, or more than there was."""
    shutil.rmtree(tree / "d")
    (tree / "f").write_bytes(b"other")
    (tree / "l").unlink()
    (tree / "l").mkdir()
    (tree / "p").unlink()
    (tree / "more").mkdir()
    (tree / "more" / "still").write_bytes(b"more")
    tree.chmod(0o700)


@contextmanager
def there(path: Path, text: str = "a test") -> Iterator[None]:
    path.write_text(text)
    try:
        yield
    finally:
        path.unlink()


# --- what a tenant does ---------------------------------------------------------------------------


def test_create_restore_and_delete_by_the_client(adapted: Adapted, share_id: str) -> None:
    tree = adapted.cloud.tree(share_id)
    before = snapshot(tree)
    backup_id = adapted.created(share_id)
    assert adapted.cloud.share(share_id).status == "available"
    assert adapted.row(backup_id)["progress"] == "100"
    assert differences(before, snapshot(tree)) == []
    assert_nothing_left(adapted, share_id, TENANTS)
    spoil(tree)
    adapted.backup("restore", backup_id, "--wait")
    assert adapted.cloud.share(share_id).status == "available"
    until(lambda: adapted.row(backup_id)["status"] == "available", "the backup's status")
    assert differences(before, snapshot(tree)) == []
    assert_nothing_left(adapted, share_id, TENANTS)
    assert backup_id in adapted.stored()
    adapted.backup("delete", backup_id, "--wait")
    assert backup_id not in adapted.stored()
    assert_nothing_left(adapted, share_id, TENANTS)
    adapted.cloud.client(DEMO).shares.delete(share_id)


def test_a_restore_to_another_share_of_the_project(adapted: Adapted, share_id: str) -> None:
    backup_id = adapted.created(share_id)
    other_id = adapted.cloud.create_share(DEMO)
    adapted.backup("restore", backup_id, "--target-share", other_id, "--wait")
    adapted.until_backup(backup_id, "available")
    trees = [snapshot(adapted.cloud.tree(found)) for found in (share_id, other_id)]
    assert differences(*trees) == []
    assert_nothing_left(adapted, other_id, set())
    adapted.backup("delete", backup_id, "--wait")


def test_progress_is_99_until_the_call_returns(adapted: Adapted, share_id: str) -> None:
    """The poller looks every second; were the answer 100 or an error, it would end the backup."""
    with there(adapted.cloud.manila.backend / "hold_access"):
        backup_id = adapted.create(share_id)
        for _ in range(3):
            until(lambda: adapted.row(backup_id)["progress"] == "99", "the poller's look")
            assert adapted.row(backup_id)["status"] == "creating"
            assert adapted.cloud.share(share_id).status == "backup_creating"
            adapted.update("share_backups", backup_id, progress="0")
    adapted.until_backup(backup_id, "available")
    assert adapted.row(backup_id)["progress"] in {"99", "100"}
    assert_nothing_left(adapted, share_id, TENANTS)
    adapted.backup("delete", backup_id, "--wait")


# Manila's own variable: "true" for threads, "false" for eventlet.
@pytest.mark.parametrize("threads", ["true", "false"])
def test_a_copy_does_not_hold_up_manila_data(adapted: Adapted, large_id: str, threads: str) -> None:
    """Its poller goes on, and other backups begin and end, while one hangs."""
    adapted.cloud.stop("manila-data")
    adapted.start(OS_MANILA_DISABLE_EVENTLET_PATCHING=threads)
    try:
        backup_id = adapted.create(large_id)
        group = stop_worker(adapted)
        adapted.update("share_backups", backup_id, progress="0")
        until(lambda: adapted.row(backup_id)["progress"] == "99", "the poller's look")
        other_id = adapted.created(adapted.cloud.create_share(DEMO))
        assert adapted.row(backup_id)["status"] == "creating"
        os.killpg(group, signal.SIGCONT)
        adapted.until_backup(backup_id, "available")
        adapted.backup("delete", backup_id, other_id, "--wait")
        assert_nothing_left(adapted, large_id, set())
    finally:
        adapted.cloud.stop("manila-data")
        adapted.start()


# --- what fails -----------------------------------------------------------------------------------


def test_a_failed_restore_ends_as_upstreams_does(adapted: Adapted, share_id: str) -> None:
    tree = adapted.cloud.tree(share_id)
    backup_id = adapted.created(share_id)
    before = snapshot(tree)
    catalog = next(adapted.store.glob(f"*/{backup_id}/*/catalog"))
    whole = catalog.read_bytes()
    catalog.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    ended = adapted.openstack(DEMO, "share", "backup", "restore", backup_id, "--wait")
    assert "error state" in ended.err  # the client's status is 0 all the same
    adapted.cloud.until_share(share_id, "backup_restoring_error")
    adapted.until_backup(backup_id, "available")
    assert differences(before, snapshot(tree)) == []
    assert_nothing_left(adapted, share_id, TENANTS)
    catalog.write_bytes(whole)
    adapted.openstack(ADMIN, "share", "set", share_id, "--status", "available")
    adapted.backup("restore", backup_id, "--wait")
    adapted.until_backup(backup_id, "available")
    assert differences(before, snapshot(tree)) == []
    adapted.backup("delete", backup_id, "--wait")


def test_a_failed_create_leaves_nothing(adapted: Adapted, share_id: str) -> None:
    """The share's tree cannot be read: what was to be mounted is gone."""
    tree = adapted.cloud.tree(share_id)
    tree.rename(tree.with_name("away"))
    try:
        backup_id = adapted.create(share_id)
        adapted.until_backup(backup_id, "error")
        adapted.cloud.until_share(share_id, "available")
    finally:
        tree.with_name("away").rename(tree)
    assert "Could not mount" in adapted.row(backup_id)["fail_reason"]
    assert backup_id not in adapted.stored()
    assert_nothing_left(adapted, share_id, TENANTS)
    adapted.backup("delete", backup_id, "--wait")


def test_a_rule_that_the_backend_refuses_fails_the_backup(adapted: Adapted, share_id: str) -> None:
    """And is gone when the backend takes rules again."""
    with there(adapted.cloud.manila.backend / "refuse_access"):
        backup_id = adapted.create(share_id)
        adapted.until_backup(backup_id, "error")
    assert "in error" in adapted.row(backup_id)["fail_reason"]
    until(lambda: not rules_of_ours(adapted, share_id), "the end of our rule")
    assert adapted.cloud.in_force(share_id) == TENANTS
    assert adapted.left() == []
    adapted.backup("delete", backup_id, "--wait")


def rules_of_ours(adapted: Adapted, share_id: str) -> list[str]:
    listed = adapted.cloud.client(ADMIN).share_access_rules.access_list(share_id)
    return [rule.id for rule in listed if rule.access_to == ADDRESS]


def test_a_foreign_public_share_is_no_target(adapted: Adapted, share_id: str) -> None:
    """Manila's API lets everybody name it."""
    theirs = adapted.cloud.create_share(ALT_DEMO)
    adapted.cloud.client(ADMIN).shares.update(theirs, is_public=True)
    (adapted.cloud.tree(theirs) / "theirs").write_text("kept")
    before = snapshot(adapted.cloud.tree(theirs))
    backup_id = adapted.created(share_id)
    command = ("share", "backup", "restore", backup_id, "--target-share", theirs)
    adapted.openstack(DEMO, *command)
    adapted.until_backup(backup_id, "available")
    assert differences(before, snapshot(adapted.cloud.tree(theirs))) == []
    adapted.cloud.until_share(theirs, "backup_restoring_error")
    assert_nothing_left(adapted, theirs, set())
    adapted.backup("delete", backup_id, "--wait")


# --- the tenant's rule for the node's own address -------------------------------------------------


def test_a_rule_of_the_tenant_for_the_node_is_used_and_kept(adapted: Adapted) -> None:
    share_id = adapted.cloud.create_share(DEMO)
    rule = adapted.cloud.client(DEMO).shares.allow(share_id, "ip", ADDRESS, "rw")
    until(lambda: adapted.cloud.in_force(share_id) == {(ADDRESS, "rw")}, "the rule")
    backup_id = adapted.created(share_id)
    adapted.backup("restore", backup_id, "--wait")
    adapted.until_backup(backup_id, "available")
    assert_nothing_left(adapted, share_id, {(ADDRESS, "rw")})
    (kept,) = adapted.cloud.client(DEMO).share_access_rules.access_list(share_id)
    assert kept.id == rule["id"]
    adapted.backup("delete", backup_id, "--wait")


def test_one_that_does_not_suffice_fails_the_restore(adapted: Adapted) -> None:
    share_id = adapted.cloud.create_share(DEMO)
    adapted.cloud.client(DEMO).shares.allow(share_id, "ip", ADDRESS, "ro")
    until(lambda: adapted.cloud.in_force(share_id) == {(ADDRESS, "ro")}, "the rule")
    backup_id = adapted.created(share_id)
    adapted.openstack(DEMO, "share", "backup", "restore", backup_id)
    adapted.cloud.until_share(share_id, "backup_restoring_error")
    adapted.until_backup(backup_id, "available")
    assert_nothing_left(adapted, share_id, {(ADDRESS, "ro")})
    assert "gives only 'ro'" in adapted.log()
    adapted.backup("delete", backup_id, "--wait")


# --- what dies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_runners", [False, True])
def test_manila_data_is_killed_while_it_creates(
    adapted: Adapted, large_id: str, with_runners: bool
) -> None:
    backup_id = adapted.create(large_id)
    stop_worker(adapted)
    assert adapted.cloud.in_force(large_id) == {(ADDRESS, "ro")}
    adapted.kill(with_runners=with_runners)
    adapted.start()
    adapted.until_backup(backup_id, "error")
    adapted.cloud.until_share(large_id, "available")
    assert backup_id not in adapted.stored()
    assert_nothing_left(adapted, large_id, set())
    second_id = adapted.created(large_id)
    adapted.backup("delete", backup_id, second_id, "--wait")
    assert not {backup_id, second_id} & set(adapted.stored())


def test_manila_data_is_killed_while_it_restores(adapted: Adapted, large_id: str) -> None:
    tree = adapted.cloud.tree(large_id)
    before = snapshot(tree)
    backup_id = adapted.created(large_id)
    with os.scandir(tree) as entries:
        directories = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    shutil.rmtree(directories[0])
    adapted.backup("restore", backup_id)
    stop_worker(adapted)
    adapted.kill(with_runners=True)
    assert any("work/mounts" in line for line in adapted.left())
    adapted.start()
    adapted.cloud.until_share(large_id, "backup_restoring_error")
    adapted.until_backup(backup_id, "available")
    assert_nothing_left(adapted, large_id, set())
    adapted.openstack(ADMIN, "share", "set", large_id, "--status", "available")
    adapted.backup("restore", backup_id, "--wait")
    adapted.until_backup(backup_id, "available")
    assert differences(before, snapshot(tree)) == []
    adapted.backup("delete", backup_id, "--wait")


def test_an_interrupted_delete_is_completed(adapted: Adapted, large_id: str) -> None:
    """At the next call: nothing polls a backup that is being deleted."""
    quotas = adapted.cloud.client(ADMIN).quotas
    project_id = adapted.cloud.keystone.project_id("demo")
    in_use = quotas.get(project_id, detail=True).backups["in_use"]
    backup_id = adapted.created(large_id)
    adapted.backup("delete", backup_id)
    stop_worker(adapted)
    adapted.kill()
    adapted.start()
    next_id = adapted.created(large_id)
    until(lambda: adapted.row(backup_id)["deleted"] != "False", "the end of the row")
    assert backup_id not in adapted.stored()
    assert next_id in adapted.stored()
    adapted.backup("delete", next_id, "--wait")
    assert quotas.get(project_id, detail=True).backups["in_use"] == in_use
    assert_nothing_left(adapted, large_id, set())


def crafted_entry(adapted: Adapted, backup_id: str, **values: object) -> None:
    """What a manila-data that died in between leaves in its state directory."""
    row = adapted.row(backup_id)
    entry = {
        "operation_id": str(uuid.uuid4()),
        "backup_id": backup_id,
        "project_id": row["project_id"],
        "share_id": row["share_id"],
        "epoch": 1,
        "rules": [],
        "mounted": False,
        "succeeded": None,
        "reason": None,
        "version": None,
        **values,
    }
    (adapted.root / "state" / f"{entry['operation_id']}.json").write_text(json.dumps(entry))


def make_busy(adapted: Adapted, backup_id: str, backup: str, share: str) -> None:
    row = adapted.row(backup_id)
    adapted.update("share_backups", backup_id, status=backup, updated_at="2026-01-01 00:00:00")
    instance = adapted.cloud.client(ADMIN).share_instances.list()
    (found,) = [each.id for each in instance if each.share_id == row["share_id"]]
    adapted.update("share_instances", found, status=share)


def test_what_died_between_two_steps_is_set_right(adapted: Adapted) -> None:
    """Before the driver was called, and after it had returned."""
    shares = [adapted.cloud.create_share(DEMO) for _ in range(3)]
    before, created, restored = backups = [adapted.created(share_id) for share_id in shares]
    adapted.kill()
    # Of the creations above, which manila-data had not been seen to end yet.
    for entry in (adapted.root / "state").glob("*.json"):
        entry.unlink()
    make_busy(adapted, before, "creating", "backup_creating")
    make_busy(adapted, created, "creating", "backup_creating")
    crafted_entry(adapted, created, kind="backup", succeeded=True)
    make_busy(adapted, restored, "restoring", "backup_restoring")
    crafted_entry(adapted, restored, kind="restore", succeeded=True)
    adapted.start()
    adapted.until_backup(before, "error")
    adapted.until_backup(created, "available")
    adapted.until_backup(restored, "available")
    for share_id in shares:
        adapted.cloud.until_share(share_id, "available")
    assert set(adapted.stored()) >= {created, restored}
    adapted.backup("delete", *backups, "--wait")
    assert not set(adapted.stored()) & set(backups)
