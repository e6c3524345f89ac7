# SPDX-License-Identifier: Apache-2.0
"""POST /share-backups."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from manila_backup.db import operations
from manila_backup.quota import ledger
from manila_backup.quota.ledger import Limits
from manila_backup.states import OperationKind, OperationStatus, ShareStatus
from tests.api.harness import ADMIN, MEMBER, OTHER, P1, P2, READER, Api, fault

UPSTREAM_KEYS = {
    "id",
    "share_id",
    "status",
    "availability_zone",
    "created_at",
    "updated_at",
    "size",
    "progress",
    "restore_progress",
    "name",
    "description",
}


def post(api: Api, share_id: str, who: str = MEMBER, **values: Any) -> Any:
    return api.call(
        "POST", "/share-backups", {"share_backup": {"share_id": share_id, **values}}, who=who
    )


def test_create_answers_202_with_the_detail_view(api: Api) -> None:
    share_id = api.share(size_gib=3, availability_zone="az-1")
    answer = post(api, share_id, name="näme 名", description="why", backup_options=None)
    assert answer.status_code == 202
    shown = answer.json["share_backup"]
    assert set(shown) == UPSTREAM_KEYS | {"backup_type"}
    assert shown["share_id"] == share_id
    assert shown["status"] == "creating"
    assert shown["size"] == 3
    assert shown["name"] == "näme 名"
    assert shown["description"] == "why"
    assert shown["availability_zone"] == "az-1"
    assert (shown["progress"], shown["restore_progress"]) == ("0", "0")
    assert shown["updated_at"] is None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", shown["created_at"])


def test_create_keeps_all_that_belongs_together_in_one_commit(api: Api) -> None:
    share_id = api.share(size_gib=3)
    answer = post(api, share_id)
    backup_id = answer.json["share_backup"]["id"]
    operation = api.active(backup_id)
    assert operation is not None
    assert operation.kind is OperationKind.CREATE
    assert operation.status is OperationStatus.QUEUED
    assert operation.share_id == share_id
    assert operation.project_id == P1
    assert operation.user_id == "ann"
    assert operation.request_id == answer.headers["X-Openstack-Request-Id"]
    assert api.share_status(share_id) is ShareStatus.BACKUP_CREATING
    with api.database.reader() as session:
        assert ledger.usage(session, P1) == ledger.Usage(backups=1, backup_gigabytes=3)
        assert ledger.check(session) == []


def test_data_nodes_are_woken_after_the_commit_with_the_operations_id(api: Api) -> None:
    backup_id = api.create(api.share())
    active = api.active(backup_id)
    assert active is not None
    assert api.waker.woken == [active.id]
    # Read by the waker through a connection of its own: the row was there already.
    assert api.waker.statuses == ["queued"]


@pytest.mark.parametrize("options", [None, {}, {"dummy": True}, {"backup_type": "x", "dummy": 1}])
def test_null_empty_and_ignored_backup_options_are_accepted(api: Api, options: Any) -> None:
    answer = post(api, api.share(), backup_options=options)
    assert answer.status_code == 202
    assert api.row(answer.json["share_backup"]["id"]).options == {}


def test_unknown_backup_options_are_refused_by_name(api: Api) -> None:
    share_id = api.share()
    before = api.contents()
    answer = post(api, share_id, backup_options={"zeal": "1", "dummy": "x", "air\n": "2"})
    name, _, message = fault(answer)
    assert name == "badRequest"
    assert "share_backup.backup_options" in message
    assert "zeal" in message
    assert r"'air\n'" in message
    assert "dummy" not in message
    assert api.contents() == before


def test_options_that_the_driver_knows_are_stored(make_api: Callable[..., Api]) -> None:
    api = make_api(known_backup_options=("speed",), ignored_backup_options=())
    answer = post(api, api.share(), backup_options={"speed": "slow"})
    assert api.row(answer.json["share_backup"]["id"]).options == {"speed": "slow"}
    for value in (7, None, {"a": "b"}, "x" * 256):
        refused = post(api, api.share(), backup_options={"speed": value})
        assert "share_backup.backup_options.speed" in fault(refused)[2]
    assert fault(post(api, api.share(), backup_options={"dummy": "x"}))[1] == 400


def test_unknown_share_is_404(api: Api) -> None:
    for unknown in ("4f1e9a52-0000-4000-8000-000000000000", "no-such-share", "../x", " "):
        name, code, message = fault(post(api, unknown))
        assert (name, code) == ("itemNotFound", 404)
        assert unknown in message


def test_private_share_of_another_project_is_404_as_if_there_were_none(api: Api) -> None:
    share_id = api.share(P2)
    unknown = "4f1e9a52-0000-4000-8000-000000000000"
    theirs, nobodys = fault(post(api, share_id)), fault(post(api, unknown))
    assert theirs[:2] == nobodys[:2] == ("itemNotFound", 404)
    assert theirs[2].replace(share_id, unknown) == nobodys[2]


def test_public_share_of_another_project_is_403_and_nothing_changes(api: Api) -> None:
    share_id = api.share(P2, is_public=True)
    before = api.contents()
    assert fault(post(api, share_id))[:2] == ("forbidden", 403)
    assert api.contents() == before


def test_backup_made_by_an_administrator_belongs_to_the_shares_project(api: Api) -> None:
    backup_id = api.create(api.share(P2), who=ADMIN)
    assert api.row(backup_id).project_id == P2
    with api.database.reader() as session:
        assert ledger.usage(session, P2).backups == 1
        assert ledger.usage(session, "p-admin").backups == 0
    assert api.call("GET", f"/share-backups/{backup_id}", who=OTHER).status_code == 200


def test_readers_may_not_create(api: Api) -> None:
    assert fault(post(api, api.share(), who=READER))[1] == 403


def test_soft_deleted_share_is_403(api: Api) -> None:
    api.provider.adjust = {"is_soft_deleted": True}
    assert fault(post(api, api.share()))[:2] == ("forbidden", 403)


@pytest.mark.parametrize("status", ["error", "creating", "extending", "deleting", "error_deleting"])
def test_share_that_is_not_available_is_400(api: Api, status: str) -> None:
    share_id = api.share(status=status)
    name, code, message = fault(post(api, share_id))
    assert (name, code) == ("badRequest", 400)
    assert f"'{status}'" in message
    assert "must be in 'available' state" in message


def test_share_with_snapshots_is_400_unless_the_option_allows_it(
    make_api: Callable[..., Api],
) -> None:
    api = make_api()
    api.provider.adjust = {"has_snapshots": True}
    assert "while it has snapshots" in fault(post(api, api.share()))[2]
    lax = make_api(refuse_shares_with_snapshots=False)
    lax.provider.adjust = {"has_snapshots": True}
    assert post(lax, lax.share()).status_code == 202


def test_share_with_replicas_is_400(api: Api) -> None:
    api.provider.adjust = {"has_replicas": True}
    _, code, message = fault(post(api, api.share()))
    assert code == 400
    assert "replicas" in message


def test_share_of_an_unsupported_protocol_is_400_that_names_the_supported(
    make_api: Callable[..., Api],
) -> None:
    api = make_api(share_protocols=("NFS", "cephfs"))
    _, code, message = fault(post(api, api.share(share_proto="CIFS")))
    assert code == 400
    assert "CIFS" in message
    assert "CEPHFS, NFS" in message
    assert post(api, api.share(share_proto="CEPHFS")).status_code == 202
    assert post(api, api.share(share_proto="nfs")).status_code == 202


@pytest.mark.parametrize("task", ["data_copying_completed", "migration_in_progress", "unheard_of"])
def test_share_busy_with_another_task_is_409(api: Api, task: str) -> None:
    name, code, _ = fault(post(api, api.share(task_state=task)))
    assert (name, code) == ("conflictingRequest", 409)


@pytest.mark.parametrize("task", ["migration_success", "data_copying_error", ""])
def test_finished_tasks_hold_no_share(api: Api, task: str) -> None:
    assert post(api, api.share(task_state=task)).status_code == 202


def test_share_that_one_of_our_operations_holds_is_400_with_its_status(api: Api) -> None:
    """As upstream, whose share is not available then."""
    share_id = api.share()
    api.create(share_id)
    before = api.contents()
    name, code, message = fault(post(api, share_id))
    assert (name, code) == ("badRequest", 400)
    assert "'backup_creating'" in message
    assert api.contents() == before


def test_share_after_a_failed_restore_is_400_with_its_status(api: Api) -> None:
    share_id = api.share()
    backup_id = api.available(share_id)
    api.call("POST", f"/share-backups/{backup_id}/action", {"restore": None})
    api.fail(backup_id, written=True)
    assert api.share_status(share_id) is ShareStatus.BACKUP_RESTORING_ERROR
    _, code, message = fault(post(api, share_id))
    assert code == 400
    assert "backup_restoring_error" in message


def test_quota_of_backups_is_413_with_upstreams_words(make_api: Callable[..., Api]) -> None:
    api = make_api(quota_defaults=Limits(backups=1, backup_gigabytes=1000))
    api.create(api.share())
    share_id = api.share()
    before = api.contents()
    name, code, message = fault(post(api, share_id))
    assert (name, code) == ("overLimit", 413)
    assert message == "Maximum number of backups allowed (1) exceeded."
    assert api.contents() == before
    assert api.share_status(share_id) is ShareStatus.AVAILABLE


def test_quota_of_gigabytes_is_413_with_upstreams_words(make_api: Callable[..., Api]) -> None:
    api = make_api(quota_defaults=Limits(backups=10, backup_gigabytes=5))
    api.create(api.share(size_gib=3))
    before = api.contents()
    answer = post(api, api.share(size_gib=3))
    assert answer.status_code == 413
    assert fault(answer)[2] == (
        "Requested backup exceeds allowed Backup gigabytes quota. Requested 3G, quota is 5G and "
        "3G has been consumed."
    )
    assert api.contents() == before
    assert len(api.waker.woken) == 1


def test_rival_that_takes_the_share_between_look_and_commit_gets_it(api: Api) -> None:
    """The rival commits after our look at the busy shares, before our transaction."""
    share_id = api.share()
    look = api.provider.get
    rivals: list[str] = []

    def get_while_a_rival_acts(context: Any, wanted: str) -> Any:
        found = look(context, wanted)
        if not rivals:
            rivals.append("")
            rivals[0] = api.create(share_id)
        return found

    api.provider.get = get_while_a_rival_acts  # type: ignore[method-assign]
    assert fault(post(api, share_id))[1] == 400
    with api.database.reader() as session:
        assert ledger.usage(session, P1).backups == 1
        assert [o.backup_id for o in operations.claimable(session)] == rivals


def test_rival_request_for_the_same_share_cannot_slip_in_before_the_insert(api: Api) -> None:
    """The rival's busy row is there when our transaction begins, though our look saw none."""
    share_id = api.share()
    write = api.database.write
    seen: list[str] = []

    def write_after_a_rival(change: Any) -> Any:
        if not seen:
            seen.append("")
            seen[0] = api.create(share_id)
        return write(change)

    api.database.write = write_after_a_rival  # type: ignore[method-assign]
    answer = post(api, share_id)
    assert answer.status_code == 400
    with api.database.reader() as session:
        assert ledger.usage(session, P1).backups == 1
        assert ledger.check(session) == []
