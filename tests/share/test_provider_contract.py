# SPDX-License-Identifier: Apache-2.0
"""The conformance suite of ``manila_backup/share/base.py``: one test per sentence."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from manila_backup.exception import (
    GrantFailed,
    ManilaBackupError,
    ShareBusy,
    ShareNotFound,
    TransientError,
)
from manila_backup.types import AccessLevel, Grant, Share
from tests.share.harness import LocalHarness, ProviderHarness
from tests.share.manila_harness import manila_harness
from tests.share.nfs_ssh_harness import nfs_ssh_harness, vm_harness

RO, RW = AccessLevel.RO, AccessLevel.RW
NODE = "192.0.2.7"


MANILA = pytest.param("manila", marks=[pytest.mark.full, pytest.mark.acceptance])
NFS_SSH = pytest.param("nfs_ssh", marks=[pytest.mark.slow, pytest.mark.root])
VM = pytest.param("vm", marks=[pytest.mark.by_hand, pytest.mark.root])
"""The same before a kernel that serves NFS: a quarter of an hour."""


@pytest.fixture(params=["local", NFS_SSH, VM, MANILA])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ProviderHarness]:
    if request.param == "local":
        yield LocalHarness(tmp_path / "shares")
    elif request.param == "nfs_ssh":
        with nfs_ssh_harness() as over_ssh:
            yield over_ssh
    elif request.param == "vm":
        with vm_harness(request.getfixturevalue("vm")) as in_vm:
            yield in_vm
    else:
        with manila_harness(request.getfixturevalue("cloud")) as found:
            yield found


@pytest.fixture
def share(harness: ProviderHarness) -> Share:
    return harness.provider.get(harness.owner, harness.create_share())


def operation() -> str:
    return str(uuid.uuid4())


class TestProvider:
    def test_instances_are_shared_between_threads(self, harness: ProviderHarness) -> None:
        shares = [harness.provider.get(harness.admin, harness.create_share()) for _ in range(4)]

        def work(share: Share) -> None:
            for number in range(5):
                harness.provider.mark(share, share.id, "backup_creating")
                grant = harness.provider.grant(share, f"192.0.2.{number}", RO)
                harness.provider.revoke(grant)
                harness.provider.unmark(share.id, share.id)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, shares))
        assert [harness.in_force(share.id) for share in shares] == [set()] * 4

    def test_keeps_no_state_about_operations(self, harness: ProviderHarness, share: Share) -> None:
        # Whatever was done by an instance that is gone can be undone with the written intent only.
        harness.provider.grant(share, NODE, RW)
        intent = Grant(share_id=share.id, address=NODE, level=RW, ours=True, reference=None)
        harness.provider.revoke(intent)
        assert harness.in_force(share.id) == set()


class TestGet:
    def test_the_share_as_it_is_now(self, harness: ProviderHarness) -> None:
        share_id = harness.create_share(size_gib=3)
        share = harness.provider.get(harness.owner, share_id)
        assert (share.id, share.project_id, share.size_gib) == (
            share_id,
            harness.owner.project_id,
            3,
        )
        assert (share.status, share.task_state, share.share_proto) == ("available", None, "NFS")
        assert (share.is_public, share.has_snapshots, share.has_replicas) == (False, False, False)
        if harness.takes_snapshots:
            harness.take_snapshot(share_id)
            assert harness.provider.get(harness.owner, share_id).has_snapshots

    def test_private_shares_of_other_projects_are_not_seen(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        with pytest.raises(ShareNotFound):
            harness.provider.get(harness.stranger, share.id)

    def test_public_shares_of_other_projects_are_seen(self, harness: ProviderHarness) -> None:
        share = harness.provider.get(harness.stranger, harness.create_share(is_public=True))
        assert (share.is_public, share.project_id) == (True, harness.owner.project_id)

    def test_an_administrator_sees_private_shares(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        assert harness.provider.get(harness.admin, share.id) == share

    @pytest.mark.parametrize(
        "share_id",
        [
            "6f0e9a9c-2f0e-4f57-8a39-5b3d1c7e2a10",
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "\0",
            "x" * 300,
            "é",
        ],
    )
    def test_share_not_found_when_there_is_none(
        self, harness: ProviderHarness, share_id: str
    ) -> None:
        for context in (harness.owner, harness.admin):
            with pytest.raises(ShareNotFound):
                harness.provider.get(context, share_id)

    def test_share_not_found_after_removal(self, harness: ProviderHarness, share: Share) -> None:
        harness.remove_share(share.id)
        with pytest.raises(ShareNotFound):
            harness.provider.get(harness.owner, share.id)

    def test_transient_error_when_the_provider_is_away(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        harness.put_away()
        with pytest.raises(TransientError):
            harness.provider.get(harness.owner, share.id)


class TestMark:
    def test_makes_the_share_busy(self, harness: ProviderHarness, share: Share) -> None:
        harness.provider.mark(share, operation(), "backup_creating")
        with pytest.raises(ShareBusy):
            harness.provider.mark(share, operation(), "backup_restoring")

    def test_idempotent_for_the_same_operation(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        ours = operation()
        harness.provider.mark(share, ours, "backup_creating")
        harness.provider.mark(share, ours, "backup_creating")
        harness.provider.unmark(share.id, ours)
        harness.provider.mark(share, operation(), "backup_creating")

    @pytest.mark.parametrize("status", ["backup_creating", "backup_restoring"])
    def test_while_marked_changes_and_removal_are_refused(
        self, harness: ProviderHarness, share: Share, status: str
    ) -> None:
        harness.provider.mark(share, operation(), status)
        before = harness.provider.get(harness.admin, share.id)
        for disturb in harness.disturbances(share.id).values():
            with pytest.raises(ManilaBackupError):
                disturb()
        assert harness.provider.get(harness.admin, share.id) == before

    def test_the_same_changes_are_accepted_when_not_marked(self, harness: ProviderHarness) -> None:
        names = ["extend", "shrink", "delete", "force_delete"]
        for name in [*names, *(["snapshot"] if harness.takes_snapshots else [])]:
            share_id = harness.create_share(size_gib=2)
            harness.disturbances(share_id)[name]()

    def test_while_marked_access_rules_go_on_working(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        ours = operation()
        harness.provider.mark(share, ours, "backup_restoring")
        rule = harness.add_rule(share.id, "198.51.100.1", RW)
        grant = harness.provider.grant(share, NODE, RO)
        assert harness.in_force(share.id) == {("198.51.100.1", "rw"), (NODE, "ro")}
        harness.remove_rule(share.id, rule)
        harness.provider.revoke(grant)
        assert harness.in_force(share.id) == set()

    def test_share_busy_when_a_task_of_the_provider_holds_it(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        harness.set_busy(share.id)
        with pytest.raises(ShareBusy):
            harness.provider.mark(share, operation(), "backup_creating")

    def test_share_busy_and_nothing_was_changed(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        holder = operation()
        harness.provider.mark(share, holder, "backup_creating")
        before = harness.provider.get(harness.admin, share.id)
        with pytest.raises(ShareBusy):
            harness.provider.mark(share, operation(), "backup_restoring")
        assert harness.provider.get(harness.admin, share.id) == before
        harness.provider.mark(share, holder, "backup_creating")

    def test_share_not_found_when_the_share_is_gone(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        harness.remove_share(share.id)
        with pytest.raises(ShareNotFound):
            harness.provider.mark(share, operation(), "backup_creating")

    def test_of_many_that_mark_at_once_one_wins(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        def try_to_mark(ours: str) -> bool:
            try:
                harness.provider.mark(share, ours, "backup_creating")
            except ShareBusy:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(try_to_mark, [operation() for _ in range(8)]))
        assert won.count(True) == 1


class TestUnmark:
    def test_takes_the_mark_off(self, harness: ProviderHarness, share: Share) -> None:
        ours = operation()
        harness.provider.mark(share, ours, "backup_creating")
        harness.provider.unmark(share.id, ours)
        assert harness.provider.get(harness.owner, share.id) == share
        harness.disturbances(share.id)["delete"]()

    def test_idempotent(self, harness: ProviderHarness, share: Share) -> None:
        ours = operation()
        harness.provider.mark(share, ours, "backup_creating")
        for _ in range(2):
            harness.provider.unmark(share.id, ours)
        harness.provider.unmark(share.id, operation())

    def test_a_mark_of_another_is_left_alone(self, harness: ProviderHarness, share: Share) -> None:
        harness.provider.mark(share, operation(), "backup_creating")
        harness.provider.unmark(share.id, operation())
        with pytest.raises(ShareBusy):
            harness.provider.mark(share, operation(), "backup_creating")

    def test_a_task_of_the_provider_is_left_alone(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        harness.set_busy(share.id)
        harness.provider.unmark(share.id, operation())
        with pytest.raises(ShareBusy):
            harness.provider.mark(share, operation(), "backup_creating")

    def test_a_share_that_is_gone_counts_as_unmarked(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        harness.remove_share(share.id)
        harness.provider.unmark(share.id, operation())
        harness.provider.unmark(str(uuid.uuid4()), operation())


class TestGrant:
    @pytest.mark.parametrize("level", [RO, RW])
    @pytest.mark.parametrize("address", [NODE, "2001:db8::7", "127.0.0.1"])
    def test_gives_the_address_access(
        self, harness: ProviderHarness, share: Share, address: str, level: AccessLevel
    ) -> None:
        grant = harness.provider.grant(share, address, level)
        assert (grant.share_id, grant.address, grant.level) == (share.id, address, level)
        assert grant.ours
        assert harness.in_force(share.id) == {(address, level.value)}

    def test_our_rule_is_hidden_from_the_tenant(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        grant = harness.provider.grant(share, NODE, RO)
        assert harness.tenant_sees(share.id) == set()
        with pytest.raises(ManilaBackupError):
            harness.remove_rule(share.id, grant.reference or "")
        assert harness.in_force(share.id) == {(NODE, "ro")}

    @pytest.mark.parametrize(("theirs", "wanted"), [(RW, RW), (RO, RO), (RW, RO)])
    def test_a_sufficient_rule_of_the_tenant_is_reused(
        self, harness: ProviderHarness, share: Share, theirs: AccessLevel, wanted: AccessLevel
    ) -> None:
        rule = harness.add_rule(share.id, NODE, theirs)
        grant = harness.provider.grant(share, NODE, wanted)
        assert (grant.ours, grant.reference, grant.level) == (False, rule, wanted)
        assert harness.in_force(share.id) == {(NODE, theirs.value)}

    def test_an_insufficient_rule_of_the_tenant_is_refused(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        harness.add_rule(share.id, NODE, RO)
        with pytest.raises(GrantFailed, match=NODE):
            harness.provider.grant(share, NODE, RW)

    def test_the_tenants_rules_are_never_changed(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        harness.add_rule(share.id, NODE, RO)
        harness.add_rule(share.id, "198.51.100.0/24", RW)
        before = harness.tenant_sees(share.id)
        harness.provider.revoke(harness.provider.grant(share, NODE, RO))
        with pytest.raises(GrantFailed):
            harness.provider.grant(share, NODE, RW)
        harness.provider.revoke(harness.provider.grant(share, "198.51.100.9", RW))
        assert harness.tenant_sees(share.id) == before == harness.in_force(share.id)

    def test_idempotent_a_rule_of_an_earlier_call_is_found_again_as_ours(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        first = harness.provider.grant(share, NODE, RO)
        again = harness.provider.grant(share, NODE, RO)
        assert again == first
        assert again.ours
        assert harness.in_force(share.id) == {(NODE, "ro")}

    def test_a_rule_of_ours_is_widened_when_more_is_needed(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        harness.provider.grant(share, NODE, RO)
        grant = harness.provider.grant(share, NODE, RW)
        assert (grant.ours, grant.level) == (True, RW)
        assert harness.in_force(share.id) == {(NODE, "rw")}

    def test_grant_failed_when_it_could_not_be_given(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        with pytest.raises(GrantFailed, match="not-an-address"):
            harness.provider.grant(share, "not-an-address", RO)
        harness.remove_share(share.id)
        with pytest.raises(GrantFailed, match=share.id):
            harness.provider.grant(share, NODE, RO)

    def test_grant_failed_when_the_provider_is_away(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        harness.put_away()
        with pytest.raises(GrantFailed, match=share.id):
            harness.provider.grant(share, NODE, RO)


class TestRevoke:
    def test_takes_our_rule_away(self, harness: ProviderHarness, share: Share) -> None:
        harness.add_rule(share.id, "198.51.100.1", RW)
        grant = harness.provider.grant(share, NODE, RO)
        other = harness.provider.grant(share, "192.0.2.8", RO)
        harness.provider.revoke(grant)
        assert harness.in_force(share.id) == {("198.51.100.1", "rw"), ("192.0.2.8", "ro")}
        harness.provider.revoke(other)
        assert harness.in_force(share.id) == {("198.51.100.1", "rw")}

    def test_idempotent(self, harness: ProviderHarness, share: Share) -> None:
        grant = harness.provider.grant(share, NODE, RO)
        for _ in range(2):
            harness.provider.revoke(grant)
        assert harness.in_force(share.id) == set()

    @pytest.mark.parametrize("with_reference", [True, False])
    def test_a_grant_that_is_not_ours_is_left_alone(
        self, harness: ProviderHarness, share: Share, with_reference: bool
    ) -> None:
        harness.add_rule(share.id, NODE, RW)
        grant = harness.provider.grant(share, NODE, RO)
        if not with_reference:
            grant = replace(grant, reference=None)
        harness.provider.revoke(grant)
        # Nor does a wrong note that it were ours cost the tenant his rule.
        harness.provider.revoke(replace(grant, ours=True))
        assert harness.tenant_sees(share.id) == {(NODE, "rw")}

    def test_a_share_that_is_gone_has_no_rules(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        grant = harness.provider.grant(share, NODE, RO)
        harness.remove_share(share.id)
        harness.provider.revoke(grant)

    def test_grant_failed_when_it_may_still_be_there(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        grant = harness.provider.grant(share, NODE, RO)
        harness.put_away()
        with pytest.raises(GrantFailed, match=share.id):
            harness.provider.revoke(grant)


class TestMounts:
    def test_the_ways_to_mount_never_empty(self, harness: ProviderHarness, share: Share) -> None:
        mounts = harness.provider.mounts(share)
        assert mounts
        assert all(mount.proto in {"nfs", "bind", "path"} and mount.export for mount in mounts)

    def test_share_not_found_when_the_share_is_gone(
        self, harness: ProviderHarness, share: Share
    ) -> None:
        harness.remove_share(share.id)
        with pytest.raises(ShareNotFound):
            harness.provider.mounts(share)
