# SPDX-License-Identifier: Apache-2.0
"""What befalls a real Manila, its shares and our database while a backup runs, seen by tenants
through the gateway: afterwards all is as it was, from Manila's side too."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from manilaclient.common.apiclient import exceptions

from tests.acceptance.rest import Rest
from tests.acceptance.waiting import until
from tests.cloud.beside import NODE_ADDRESS, Beside
from tests.cloud.beside import beside as beside_manila
from tests.cloud.cloud import Cloud
from tests.cloud.users import ADMIN, ALT_DEMO, DEMO
from tests.support.databases import MariaDb

pytestmark = [pytest.mark.full, pytest.mark.acceptance, pytest.mark.root]

SLOW_BYTES_PER_S = 1 << 20
LARGE_BYTES = 12 << 20


@pytest.fixture(scope="module")
def our_database() -> Iterator[MariaDb]:
    """Apart from Manila's, so that it can be away alone."""
    with MariaDb() as found:
        assert isinstance(found, MariaDb)
        yield found


@pytest.fixture(scope="module")
def service(
    cloud: Cloud, our_database: MariaDb, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Beside]:
    endpoint = cloud.manila.url.removesuffix("/v2")
    with beside_manila(
        cloud,
        tmp_path_factory.mktemp("disturbed"),
        our_database.url,
        sections=f"\n[gateway]\nmanila_endpoint = {endpoint}\n",
        max_bytes_per_s=SLOW_BYTES_PER_S,
    ) as found:
        yield found


def large_share(cloud: Cloud) -> str:
    """Its copy takes many seconds."""
    share_id = cloud.create_share(DEMO)
    (cloud.tree(share_id) / "large").write_bytes(os.urandom(LARGE_BYTES))
    return share_id


def phase(rest: Rest, backup_id: str) -> str | None:
    found: str | None = rest.operation(backup_id)["phase"]
    return found


def copied(cloud: Cloud, rest: Rest, share_id: str) -> str:
    """A backup whose copy is under way; its id."""
    backup_id = rest.create_backup(share_id)
    cloud.until(lambda: phase(rest, backup_id) == "copying", "the copy")
    return backup_id


def as_manila_has_it(cloud: Cloud, share_id: str) -> tuple[Any, ...]:
    """Status, task state, rules in force, rules that an administrator sees, locks."""
    share, admin = cloud.share(share_id), cloud.client(ADMIN)
    wanted = {"resource_id": share_id, "all_projects": 1}
    return (
        share.status,
        share.task_state,
        cloud.in_force(share_id),
        [rule.access_to for rule in admin.share_access_rules.access_list(share_id)],
        list(admin.resource_locks.list(search_opts=wanted)),
    )


FREE = ("available", None, set(), [], [])


def assert_freed(cloud: Cloud, share_id: str, was: tuple[Any, ...] = FREE) -> None:
    """At the latest when the reaper has been there."""
    cloud.until(lambda: as_manila_has_it(cloud, share_id) == was, "the share's freedom")


def restored(cloud: Cloud, rest: Rest, share_id: str, backup_id: str) -> None:
    """The backup is what the share was."""
    tree = cloud.tree(share_id)
    before = (tree / "large").read_bytes()
    (tree / "large").write_bytes(b"damaged")
    rest.restored(backup_id)
    assert (tree / "large").read_bytes() == before


@pytest.mark.parametrize(
    "names", [("manila-share", "manila-data"), ("manila-api",)], ids=lambda names: names[0]
)
def test_manilas_services_are_started_again_in_the_middle(
    cloud: Cloud, service: Beside, names: tuple[str, ...]
) -> None:
    share_id = large_share(cloud)
    rest = service.rest(DEMO)
    backup_id = copied(cloud, rest, share_id)
    held = as_manila_has_it(cloud, share_id)
    with cloud.stopped(*names):
        pass
    if phase(rest, backup_id) == "copying":
        assert as_manila_has_it(cloud, share_id) == held
    rest.until_done(backup_id)
    assert_freed(cloud, share_id)
    restored(cloud, rest, share_id, backup_id)
    assert_freed(cloud, share_id)


def test_the_task_state_that_an_administrator_clears_is_set_again(
    cloud: Cloud, service: Beside
) -> None:
    share_id = large_share(cloud)
    rest = service.rest(DEMO)
    backup_id = copied(cloud, rest, share_id)
    held = as_manila_has_it(cloud, share_id)
    cloud.client(ADMIN).shares.reset_task_state(share_id, None)
    cloud.until(lambda: as_manila_has_it(cloud, share_id) == held, "the mark")
    assert phase(rest, backup_id) == "copying"
    rest.until_done(backup_id)
    assert_freed(cloud, share_id)


def test_what_is_refused_meanwhile_works_again_afterwards(cloud: Cloud, service: Beside) -> None:
    """Through the gateway and directly at Manila; during a restore, since only then may a share
    have a snapshot to be reverted to."""
    share_id = large_share(cloud)
    rest, demo = service.rest(DEMO), cloud.client(DEMO)
    rest.accepted("POST", f"/shares/{share_id}/action", {"extend": {"new_size": 2}})
    cloud.until_share(share_id, "available")
    backup_id = rest.available_backup(share_id)
    snapshot_id = demo.share_snapshots.create(share_id).id

    def snapshot_is(status: str) -> bool:
        return bool(demo.share_snapshots.get(snapshot_id).status == status)

    cloud.until(lambda: snapshot_is("available"), "the snapshot")
    rest.restore(backup_id, share_id)
    cloud.until(lambda: phase(rest, backup_id) == "copying", "the copy")
    actions = {
        "extend": {"new_size": 3},
        "shrink": {"new_size": 1},
        "revert": {"snapshot_id": snapshot_id},
    }
    asked = {
        name: rest.call("POST", f"/shares/{share_id}/action", {name: values}).status
        for name, values in actions.items()
    }
    asked["delete"] = rest.call("DELETE", f"/shares/{share_id}").status
    snapshot = {"snapshot": {"share_id": share_id}}
    asked["snapshot"] = rest.call("POST", "/snapshots", snapshot).status
    assert asked == {"extend": 400, "shrink": 400, "revert": 409, "delete": 403, "snapshot": 400}
    for name, refused in (
        ("extend", lambda: demo.shares.extend(share_id, 3)),
        ("shrink", lambda: demo.shares.shrink(share_id, 1)),
        ("revert", lambda: demo.shares.revert_to_snapshot(share_id, snapshot_id)),
        ("delete", lambda: demo.shares.delete(share_id)),
        ("snapshot", lambda: demo.share_snapshots.create(share_id)),
    ):
        with pytest.raises(exceptions.ClientException) as caught:
            refused()
        assert (name, caught.value.http_status) == (name, asked[name])
    assert phase(rest, backup_id) == "copying"
    rest.until_done(backup_id)

    for name in ("extend", "shrink", "revert"):
        rest.accepted("POST", f"/shares/{share_id}/action", {name: actions[name]})
        cloud.until_share(share_id, "available")
        cloud.until(lambda: snapshot_is("available"), "the snapshot")
    another = rest.accepted("POST", "/snapshots", snapshot)["snapshot"]["id"]
    for each in (snapshot_id, another):
        cloud.until(
            lambda each=each: demo.share_snapshots.get(each).status == "available", "the snapshot"
        )
        rest.accepted("DELETE", f"/snapshots/{each}")
    cloud.until(
        lambda: not demo.share_snapshots.list(search_opts={"share_id": share_id}), "their end"
    )
    rest.accepted("DELETE", f"/shares/{share_id}")


def test_manila_is_away_when_the_copy_ends(cloud: Cloud, service: Beside) -> None:
    """The backup ends well or with a reason; the share is let go as soon as Manila is back."""
    share_id = large_share(cloud)
    rest = service.rest(DEMO)
    backup_id = copied(cloud, rest, share_id)
    with cloud.stopped("manila-api"):
        until(lambda: phase(rest, backup_id) != "copying", "the end of the copy")
    ended = rest.until_ended(backup_id)
    assert (
        rest.backup_status(backup_id) == {"done": "available", "failed": "error"}[ended["status"]]
    )
    assert ended["status"] == "done" or ended["fail_reason"]
    assert_freed(cloud, share_id)


def test_a_share_that_changes_hands_fails_the_operation(cloud: Cloud, service: Beside) -> None:
    """Manila lets busy shares be transferred; the gateway does not, but there are ways past it."""
    share_id = large_share(cloud)
    rest = service.rest(DEMO)
    backup_id = copied(cloud, rest, share_id)
    transfer = cloud.client(DEMO).transfers.create(share_id)
    cloud.client(ALT_DEMO).transfers.accept(transfer.id, transfer.auth_key)
    ended = rest.until_ended(backup_id)
    assert ended["status"] == "failed"
    assert share_id in ended["fail_reason"]
    assert rest.backup_status(backup_id) == "error"
    assert service.rest(ALT_DEMO).backups() == []
    assert_freed(cloud, share_id)


def test_the_tenants_own_rule_for_the_nodes_address_is_used_and_stays(
    cloud: Cloud, service: Beside
) -> None:
    share_id = cloud.create_share(DEMO)
    (cloud.tree(share_id) / "large").write_bytes(b"small")
    demo = cloud.client(DEMO)
    rule = demo.shares.allow(share_id, "ip", NODE_ADDRESS, "ro")
    cloud.until(lambda: cloud.in_force(share_id) == {(NODE_ADDRESS, "ro")}, "the rule")
    before = as_manila_has_it(cloud, share_id)
    rest = service.rest(DEMO)
    backup_id = rest.available_backup(share_id)
    assert_freed(cloud, share_id, before)
    # For a restore it does not suffice, and it is not ours to change.
    rest.restore(backup_id)
    ended = rest.until_ended(backup_id)
    assert ended["status"] == "failed"
    assert NODE_ADDRESS in ended["fail_reason"]
    assert_freed(cloud, share_id, before)
    demo.shares.deny(share_id, rule["id"] if isinstance(rule, dict) else rule.id)


def test_a_public_share_is_seen_and_not_others_to_back_up(cloud: Cloud, service: Beside) -> None:
    # In Manila only administrators may make shares public.
    share_id = cloud.create_share(DEMO)
    cloud.client(ADMIN).shares.update(share_id, is_public=True)
    stranger = service.rest(ALT_DEMO)
    assert stranger.share(share_id)["id"] == share_id
    assert stranger.ask_backup(share_id).status == 403
    backup_id = service.rest(DEMO).available_backup(share_id)
    body = {"restore": {"target_share_id": share_id}}
    answer = stranger.call("POST", f"/share-backups/{backup_id}/restores", body)
    assert answer.status == 404
    assert_freed(cloud, share_id)


def test_quota_exceeded_is_413_and_changes_nothing(cloud: Cloud, service: Beside) -> None:
    share_id = cloud.create_share(DEMO)
    rest, admin = service.rest(DEMO), service.rest(ADMIN)
    project_id = cloud.keystone.project_id("demo")
    used = len(rest.backups())
    path = f"/quota-sets/{project_id}"
    admin.accepted("PUT", path, {"quota_set": {"backups": used}})
    try:
        assert rest.ask_backup(share_id).status == 413
    finally:
        admin.accepted("DELETE", path)
    assert len(rest.backups()) == used
    assert_freed(cloud, share_id)


def test_manila_goes_on_without_our_database(
    cloud: Cloud, service: Beside, our_database: MariaDb
) -> None:
    share_id = large_share(cloud)
    rest = service.rest(DEMO)
    backup_id = copied(cloud, rest, share_id)
    our_database.stop()
    try:
        answered: dict[str, Callable[[], int]] = {
            "show": lambda: rest.call("GET", f"/shares/{share_id}").status,
            "list": lambda: rest.call("GET", "/shares/detail").status,
            "limits": lambda: rest.call("GET", "/limits").status,
            "backups": lambda: rest.call("GET", "/share-backups").status,
            "new backup": lambda: rest.ask_backup(share_id).status,
            # Manila's own lock and task state hold the share.
            "delete": lambda: rest.call("DELETE", f"/shares/{share_id}").status,
        }
        assert {name: ask() for name, ask in answered.items()} == {
            "show": 200,
            "list": 200,
            "limits": 200,
            "backups": 503,
            "new backup": 503,
            "delete": 403,
        }
    finally:
        our_database.start()
    rest.until_done(backup_id)
    assert_freed(cloud, share_id)
