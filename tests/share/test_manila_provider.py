# SPDX-License-Identifier: Apache-2.0
"""What the manila provider does beyond the contract: with a real Manila, and a network that fails
between the two."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from manila_backup.context import service_context
from manila_backup.exception import (
    GrantFailed,
    ManilaBackupError,
    PermanentError,
    ShareBusy,
    ShareNotFound,
    TransientError,
    Unauthenticated,
)
from manila_backup.share.manila.client import ManilaApi
from manila_backup.share.manila.marks import TASK_STATE
from manila_backup.share.manila.provider import ManilaShareProvider
from manila_backup.types import AccessLevel, Grant, Share
from tests.cloud.cloud import Cloud
from tests.cloud.relay import Fault
from tests.cloud.users import ADMIN, DEMO, PASSWORD
from tests.share.manila_harness import ManilaHarness, configured, manila_harness

pytestmark = [pytest.mark.full, pytest.mark.acceptance]

RO, RW = AccessLevel.RO, AccessLevel.RW
NODE = "192.0.2.7"
OPERATION = "0b5c1d4e-91a5-4f39-9e0c-6a54b2f1c7aa"


@pytest.fixture
def harness(cloud: Cloud) -> Iterator[ManilaHarness]:
    with manila_harness(cloud) as found:
        yield found


@pytest.fixture(scope="module")
def share_id(cloud: Cloud) -> str:
    """One for all tests that leave it as it was."""
    return cloud.create_share(DEMO, name="several tests' share")


@pytest.fixture
def share(harness: ManilaHarness, share_id: str) -> Iterator[Share]:
    yield harness.provider.get(service_context(), share_id)
    harness.relay.back()
    assert left(harness, share_id) == (None, set(), {}, [])


def left(harness: ManilaHarness, share_id: str) -> tuple[Any, ...]:
    """Task state, rules in force, rules, locks of any kind."""
    return (
        harness.cloud.share(share_id).task_state,
        harness.in_force(share_id),
        harness.rules(share_id),
        harness.locks(share_id),
    )


def intent(share: Share) -> Grant:
    """As it is written down before the grant."""
    return Grant(share_id=share.id, address=NODE, level=RW, ours=True, reference=None)


def whole_way(provider: ManilaShareProvider, share: Share) -> None:
    provider.mark(share, OPERATION, "backup_creating")
    grant = provider.grant(share, NODE, RO)
    provider.revoke(grant)
    provider.unmark(share.id, OPERATION)


class TestFaults:
    @pytest.mark.parametrize("fault", [Fault.CUT, Fault.LOSE])
    def test_whoever_dies_at_any_request_leaves_what_can_be_undone(
        self, harness: ManilaHarness, share: Share, fault: Fault
    ) -> None:
        heir = harness.another_provider()
        dying = harness.another_provider(retries=0)
        dying.get(service_context(), share.id)  # so that all below are about the work
        step, came_through = 0, False
        while not came_through:
            step += 1
            harness.relay.back()

            def dead(number: int, method: str, path: str, last: int = step) -> Fault | None:
                return None if number < last else fault if number == last else Fault.CUT

            harness.relay.fault = dead
            with contextlib.suppress(ManilaBackupError):
                whole_way(dying, share)
                came_through = True
            harness.relay.back()
            heir.revoke(intent(share))
            heir.unmark(share.id, OPERATION)
            assert left(harness, share.id) == (None, set(), {}, []), f"killed at request {step}"
        assert step > 15

    @pytest.mark.parametrize("fault", [Fault.LOSE, Fault.REFUSE, Fault.FAIL])
    def test_a_request_that_fails_is_sent_again(
        self, harness: ManilaHarness, share: Share, fault: Fault
    ) -> None:
        harness.relay.fault = lambda number, method, path: fault if number % 3 == 0 else None
        whole_way(harness.provider, share)

    def test_transient_error_names_what_could_not_be_done(
        self, harness: ManilaHarness, share: Share
    ) -> None:
        harness.relay.fault = lambda number, method, path: Fault.REFUSE
        with pytest.raises(TransientError, match=f"mark share {share.id} .*{OPERATION}"):
            harness.provider.mark(share, OPERATION, "backup_creating")
        with pytest.raises(TransientError, match=f"unmark share {share.id}"):
            harness.provider.unmark(share.id, OPERATION)
        with pytest.raises(TransientError, match=f"export locations of share {share.id}"):
            harness.provider.mounts(share)


class TestMark:
    def test_is_a_lock_with_the_operation_and_a_task_state(
        self, harness: ManilaHarness, share: Share
    ) -> None:
        harness.provider.mark(share, OPERATION, "backup_creating")
        assert harness.cloud.share(share.id).task_state == TASK_STATE
        (lock,) = harness.locks(share.id)
        assert (lock.resource_action, lock.lock_reason) == (
            "delete",
            f"manila_backup operation {OPERATION}",
        )
        assert harness.cloud.client(DEMO).resource_locks.list() == []
        harness.provider.unmark(share.id, OPERATION)

    def test_outlives_a_restart_of_manila(self, harness: ManilaHarness, share: Share) -> None:
        harness.provider.mark(share, OPERATION, "backup_creating")
        with harness.cloud.stopped("manila-share", "manila-data"):
            pass
        assert harness.cloud.share(share.id).task_state == TASK_STATE
        with pytest.raises(ManilaBackupError):
            harness.disturbances(share.id)["extend"]()
        harness.provider.unmark(share.id, OPERATION)

    def test_is_set_again_when_it_was_taken_off(self, harness: ManilaHarness, share: Share) -> None:
        harness.provider.mark(share, OPERATION, "backup_creating")
        harness.cloud.client(ADMIN).shares.reset_task_state(share.id, None)
        harness.provider.mark(share, OPERATION, "backup_creating")
        assert harness.cloud.share(share.id).task_state == TASK_STATE
        harness.provider.unmark(share.id, OPERATION)

    def test_respects_the_same_task_state_of_somebody_else(
        self, harness: ManilaHarness, share: Share
    ) -> None:
        admin = harness.cloud.client(ADMIN)
        admin.shares.reset_task_state(share.id, TASK_STATE)
        with pytest.raises(ShareBusy, match=TASK_STATE):
            harness.provider.mark(share, OPERATION, "backup_creating")
        assert harness.locks(share.id) == []
        harness.provider.unmark(share.id, OPERATION)
        assert harness.cloud.share(share.id).task_state == TASK_STATE
        admin.shares.reset_task_state(share.id, None)

    def test_the_result_of_an_earlier_task_comes_back(
        self, harness: ManilaHarness, share: Share
    ) -> None:
        admin = harness.cloud.client(ADMIN)
        admin.shares.reset_task_state(share.id, "migration_error")
        harness.provider.mark(share, OPERATION, "backup_creating")
        harness.provider.unmark(share.id, OPERATION)
        assert harness.cloud.share(share.id).task_state == "migration_error"
        admin.shares.reset_task_state(share.id, None)

    @pytest.mark.parametrize("status", ["error", "migrating", "deleting"])
    def test_respects_the_status(self, harness: ManilaHarness, share: Share, status: str) -> None:
        admin = harness.cloud.client(ADMIN)
        admin.shares.reset_state(share.id, status)
        with pytest.raises(ShareBusy, match=status):
            harness.provider.mark(share, OPERATION, "backup_creating")
        admin.shares.reset_state(share.id, "available")

    def test_a_soft_deleted_share_is_seen_and_not_marked(self, harness: ManilaHarness) -> None:
        share_id = harness.create_share()
        harness.cloud.client(DEMO).shares.soft_delete(share_id)
        found = harness.provider.get(harness.owner, share_id)
        assert found.is_soft_deleted
        with pytest.raises(ShareBusy, match="soft"):
            harness.provider.mark(found, OPERATION, "backup_creating")


class TestAccess:
    def test_a_rule_that_manila_cannot_apply_fails_the_grant(
        self, harness: ManilaHarness, share: Share
    ) -> None:
        with backend(harness, "refuse_access"), pytest.raises(GrantFailed, match=NODE):
            harness.provider.grant(share, NODE, RO)
        # What is left in error is replaced by the next attempt.
        harness.provider.revoke(harness.provider.grant(share, NODE, RO))

    def test_a_rule_that_manila_does_not_apply_in_time_fails_the_grant(
        self, harness: ManilaHarness, share: Share
    ) -> None:
        hasty = harness.another_provider(access_timeout_s=3)
        failure = pytest.raises(GrantFailed, match="not active within 3 s")
        with backend(harness, "hold_access"), failure:
            hasty.grant(share, NODE, RO)
        harness.provider.revoke(intent(share))

    def test_a_revocation_is_not_believed_before_the_rule_is_gone(
        self, harness: ManilaHarness, share: Share
    ) -> None:
        grant = harness.provider.grant(share, NODE, RO)
        hasty = harness.another_provider(access_timeout_s=3)
        failure = pytest.raises(GrantFailed, match="still there within 3 s")
        with backend(harness, "hold_access"), failure:
            hasty.revoke(grant)
        harness.provider.revoke(grant)

    def test_a_tenant_who_relabels_our_rule_does_not_keep_it(
        self, harness: ManilaHarness, share: Share
    ) -> None:
        grant = harness.provider.grant(share, NODE, RO)
        rules = harness.cloud.client(DEMO).share_access_rules
        rules.unset_metadata(grant.reference, ["manila_backup"])
        harness.provider.revoke(grant)

    def test_other_protocols_are_refused(self, harness: ManilaHarness, share: Share) -> None:
        cifs = replace(share, share_proto="CIFS")
        with pytest.raises(PermanentError, match="CIFS"):
            harness.provider.grant(cifs, NODE, RO)
        with pytest.raises(PermanentError, match="CIFS"):
            harness.provider.mounts(cifs)


@contextlib.contextmanager
def backend(harness: ManilaHarness, behaviour: str) -> Iterator[None]:
    flag = harness.cloud.manila.backend / behaviour
    flag.write_text("the tests want it so")
    try:
        yield
    finally:
        flag.unlink()


class TestMounts:
    def test_preferred_first_and_those_for_administrators_too(
        self, harness: ManilaHarness, share: Share
    ) -> None:
        tree = harness.cloud.tree(share.id)
        mounts = harness.provider.mounts(share)
        assert [mount.export for mount in mounts] == [f"127.0.0.{n}:{tree}" for n in (1, 2, 3)]
        assert {(mount.proto, mount.options) for mount in mounts} == {("nfs", ())}

    def test_options_of_the_operator(self, harness: ManilaHarness, share: Share) -> None:
        provider = harness.another_provider(
            prefer_admin_exports=True, mount_options=["nfsvers=4.2", "hard"]
        )
        mounts = provider.mounts(share)
        assert [mount.export[:9] for mount in mounts] == ["127.0.0.3", "127.0.0.1", "127.0.0.2"]
        assert mounts[0].options == ("nfsvers=4.2", "hard")


class TestIdentity:
    def test_the_users_token_looks_and_the_services_stands_beside_it(
        self, harness: ManilaHarness, share: Share
    ) -> None:
        harness.relay.seen.clear()
        harness.provider.get(harness.owner, share.id)
        (look,) = [seen for seen in harness.relay.seen if f"/shares/{share.id}" in seen.path]
        assert look.headers["X-Auth-Token"] == harness.owner.auth_token
        assert look.headers["X-Service-Token"] not in {None, harness.owner.auth_token}

    def test_a_token_that_manila_does_not_know(self, harness: ManilaHarness, share: Share) -> None:
        harness.owner.auth_token = "gAAAAA-none"  # noqa: S105
        with pytest.raises(Unauthenticated):
            harness.provider.get(harness.owner, share.id)

    def test_without_a_token_ownership_is_checked_here(
        self, harness: ManilaHarness, share: Share
    ) -> None:
        harness.owner.auth_token = harness.stranger.auth_token = None
        assert harness.provider.get(harness.owner, share.id) == share
        with pytest.raises(ShareNotFound):
            harness.provider.get(harness.stranger, share.id)

    def test_logs_at_level_debug_hold_no_secrets(
        self, harness: ManilaHarness, share: Share, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            provider = harness.another_provider()
            provider.get(harness.owner, share.id)
            whole_way(provider, share)
        assert f"/shares/{share.id}" in caplog.text
        secrets = {seen.headers["X-Auth-Token"] for seen in harness.relay.seen}
        secrets |= {seen.headers.get("X-Service-Token", PASSWORD) for seen in harness.relay.seen}
        assert len(secrets) > 2
        assert [secret for secret in {PASSWORD, *secrets} if f"{secret}" in caplog.text] == []

    def test_the_version_is_negotiated_once_for_all_threads(
        self, harness: ManilaHarness, share: Share
    ) -> None:
        provider = harness.another_provider()
        harness.relay.seen.clear()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: provider.get(service_context(), share.id), range(8)))
        assert [seen.path for seen in harness.relay.seen].count("/") == 1


class TestOlderManila:
    """The real one, asked with the microversions of older releases."""

    @pytest.fixture(params=["2.45", "2.80", "2.81"])
    def provider(self, request: pytest.FixtureRequest, harness: ManilaHarness) -> Any:
        return older(harness, request.param)

    def test_the_whole_way(
        self, harness: ManilaHarness, provider: ManilaShareProvider, share: Share
    ) -> None:
        assert provider.get(harness.owner, share.id) == share
        for _ in range(2):
            provider.mark(share, OPERATION, "backup_creating")
        with pytest.raises(ManilaBackupError):
            harness.disturbances(share.id)["delete"]()
        for _ in range(2):
            grant = provider.grant(share, NODE, RO)
            assert grant.ours
        assert harness.tenant_sees(share.id) == {(NODE, "ro")}
        provider.revoke(grant)
        assert harness.in_force(share.id) == set()
        for _ in range(2):
            provider.unmark(share.id, OPERATION)

    def test_a_task_is_respected(
        self, harness: ManilaHarness, provider: ManilaShareProvider, share: Share
    ) -> None:
        harness.set_busy(share.id)
        with pytest.raises(ShareBusy):
            provider.mark(share, OPERATION, "backup_creating")
        provider.unmark(share.id, OPERATION)
        assert harness.cloud.share(share.id).task_state == "migration_in_progress"
        harness.cloud.client(ADMIN).shares.reset_task_state(share.id, None)

    def test_a_version_that_is_too_old(self, harness: ManilaHarness, share: Share) -> None:
        with pytest.raises(TransientError, match=r"2\.45"):
            older(harness, "2.44").get(harness.owner, share.id)


def older(harness: ManilaHarness, newest: str) -> ManilaShareProvider:
    url = f"http://127.0.0.1:{harness.relay.port}/v2"
    api = ManilaApi.from_conf(configured(harness.cloud.keystone, url), newest=newest)
    return ManilaShareProvider(api, access_timeout_s=60)


class TestConfiguration:
    def test_from_the_catalog(self, harness: ManilaHarness, share: Share) -> None:
        provider = harness.another_provider(
            endpoint_override=None, service_type="sharev2", region_name="RegionOne"
        )
        assert provider.get(harness.owner, share.id) == share

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"endpoint_override": None}, "endpoint_override"),
            ({"auth_type": None}, "auth_type"),
            ({"auth_url": None}, "auth_url"),
        ],
    )
    def test_what_is_missing_is_named(
        self, harness: ManilaHarness, change: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(ValueError, match=said):
            harness.another_provider(**change)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"password": "wrong"}, "service user"),
            ({"endpoint_override": None, "service_type": "nothing"}, "nothing"),
        ],
    )
    def test_what_is_wrong_is_told_when_it_is_used(
        self, harness: ManilaHarness, share: Share, change: dict[str, Any], said: str
    ) -> None:
        provider = harness.another_provider(**change)
        with pytest.raises(TransientError, match=said):
            provider.get(service_context(), share.id)
