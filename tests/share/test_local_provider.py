# SPDX-License-Identifier: Apache-2.0
"""What the local provider does beyond the contract."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from manila_backup.exception import GrantFailed, Invalid, InvalidShare, ShareBusy, ShareNotFound
from manila_backup.share.local.changes import BUSY_TASK_STATES, HELD_STATUSES
from manila_backup.share.local.provider import LocalShareProvider
from manila_backup.share.local.store import LocalShareStore
from manila_backup.types import AccessLevel, Mount
from tests.share.harness import OWNER, LocalHarness

RO, RW = AccessLevel.RO, AccessLevel.RW


@pytest.fixture
def harness(tmp_path: Path) -> LocalHarness:
    return LocalHarness(tmp_path / "shares")


@pytest.mark.parametrize(("bind_mounts", "proto"), [(True, "bind"), (False, "path")])
def test_mounts_are_the_tree(harness: LocalHarness, bind_mounts: bool, proto: str) -> None:
    provider = LocalShareProvider(harness.store, bind_mounts=bind_mounts)
    share = provider.get(OWNER, harness.create_share())
    tree = harness.store.tree(share.id)
    assert provider.mounts(share) == [Mount(proto=proto, export=str(tree))]
    assert tree.is_absolute()
    assert tree.is_dir()


def test_a_relative_root_gives_absolute_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert LocalShareStore(Path("shares")).root == tmp_path / "shares"


def test_a_share_that_is_being_deleted_is_not_mounted(harness: LocalHarness) -> None:
    share = harness.provider.get(OWNER, harness.create_share())
    harness.store.begin_delete(share.id)
    with pytest.raises(ShareNotFound):
        harness.provider.mounts(share)
    with pytest.raises(GrantFailed):
        harness.provider.grant(share, "127.0.0.1", RO)


def test_the_mark_survives_the_process_and_names_its_operation(harness: LocalHarness) -> None:
    share = harness.provider.get(OWNER, harness.create_share())
    harness.provider.mark(share, "op-1", "backup_creating")
    again = LocalHarness(harness.store.root)
    with pytest.raises(ShareBusy, match="op-1"):
        again.provider.mark(share, "op-2", "backup_creating")
    again.provider.unmark(share.id, "op-1")
    again.provider.mark(share, "op-2", "backup_creating")


@pytest.mark.parametrize("status", sorted(HELD_STATUSES))
def test_mark_respects_what_the_status_says(harness: LocalHarness, status: str) -> None:
    share = harness.provider.get(OWNER, harness.create_share())
    harness.store.update(share.id, lambda old: replace(old, status=status))
    with pytest.raises(ShareBusy, match=status):
        harness.provider.mark(share, "op", "backup_creating")
    assert harness.store.get(share.id).mark is None


@pytest.mark.parametrize("task_state", sorted(BUSY_TASK_STATES))
def test_mark_respects_tasks(harness: LocalHarness, task_state: str) -> None:
    share = harness.provider.get(OWNER, harness.create_share())
    harness.store.update(share.id, lambda old: replace(old, task_state=task_state))
    with pytest.raises(ShareBusy, match=task_state):
        harness.provider.mark(share, "op", "backup_creating")


def test_mark_and_rules_of_the_service_do_not_look_like_changes_by_the_tenant(
    harness: LocalHarness,
) -> None:
    share = harness.provider.get(OWNER, harness.create_share())
    harness.provider.mark(share, "op", "backup_creating")
    harness.provider.revoke(harness.provider.grant(share, "127.0.0.1", RO))
    harness.provider.unmark(share.id, "op")
    assert harness.store.get(share.id).updated_at is None


@pytest.mark.parametrize("spelling", ["127.0.0.1", "127.0.0.1/32"])
def test_a_rule_is_the_same_however_the_address_is_written(
    harness: LocalHarness, spelling: str
) -> None:
    share = harness.provider.get(OWNER, harness.create_share())
    harness.add_rule(share.id, spelling, RW)
    assert not harness.provider.grant(share, "127.0.0.1", RW).ours
    with pytest.raises(Invalid, match="exists"):
        harness.add_rule(share.id, "127.0.0.1", RO)


def test_a_tenant_may_add_a_rule_for_the_address_of_our_hidden_one(harness: LocalHarness) -> None:
    # Otherwise the refusal would tell him of it.
    share = harness.provider.get(OWNER, harness.create_share())
    grant = harness.provider.grant(share, "127.0.0.1", RW)
    harness.add_rule(share.id, "127.0.0.1", RO)
    assert harness.provider.grant(share, "127.0.0.1", RW) == grant
    harness.provider.revoke(grant)
    assert harness.in_force(share.id) == {("127.0.0.1", "ro")}


def test_a_user_rule_is_never_mistaken_for_an_address(harness: LocalHarness) -> None:
    share = harness.provider.get(OWNER, harness.create_share())
    rule = harness.add_rule(share.id, "127.0.0.1", RW)
    harness.store.update(
        share.id,
        lambda old: replace(
            old, access_rules=tuple(replace(r, access_type="user") for r in old.access_rules)
        ),
    )
    grant = harness.provider.grant(share, "127.0.0.1", RW)
    assert grant.ours
    assert grant.reference != rule
    harness.provider.revoke(grant)
    assert harness.in_force(share.id) == {("127.0.0.1", "rw")}


@pytest.mark.parametrize("status", ["creating", "deleting", "migrating"])
def test_tenants_rules_need_an_available_share(harness: LocalHarness, status: str) -> None:
    share_id = harness.create_share()
    rule = harness.add_rule(share_id, "127.0.0.1", RW)
    harness.store.update(share_id, lambda old: replace(old, status=status))
    with pytest.raises(InvalidShare, match=status):
        harness.add_rule(share_id, "127.0.0.2", RW)
    with pytest.raises(InvalidShare, match=status):
        harness.remove_rule(share_id, rule)
