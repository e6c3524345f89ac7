# SPDX-License-Identifier: Apache-2.0
"""DELETE /share-backups/{id}, and the actions cancel and reset_status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from manila_backup.data.endings import Outcome
from manila_backup.db import backups, operations
from manila_backup.db.backups import Backup
from manila_backup.exception import CopyFailed, MountFailed
from manila_backup.quota import ledger
from manila_backup.states import (
    MEMBER_DELETABLE,
    RESETTABLE,
    BackupStatus,
    OperationEvent,
    OperationKind,
    OperationStatus,
    ShareStatus,
)
from tests.api.harness import ADMIN, MEMBER, P1, READER, Api, fault


def delete(api: Api, backup_id: str, who: str = MEMBER) -> Any:
    return api.call("DELETE", f"/share-backups/{backup_id}", who=who)


def act(api: Api, backup_id: str, body: Any, who: str = MEMBER, **more: Any) -> Any:
    return api.call("POST", f"/share-backups/{backup_id}/action", body, who=who, **more)


def reset(api: Api, backup_id: str, status: str, who: str = ADMIN) -> Any:
    return act(api, backup_id, {"reset_status": {"status": status}}, who)


def put_into(api: Api, status: BackupStatus) -> str:
    """A backup in this status without any operation."""
    backup_id = api.available(api.share())
    if status is not BackupStatus.AVAILABLE:
        assert reset(api, backup_id, status).status_code == 202
    return backup_id


LIVE = [status for status in BackupStatus if status is not BackupStatus.DELETED]


# --- delete ---------------------------------------------------------------------------------------


def test_delete_answers_202_without_a_body_and_queues_the_deletion(api: Api) -> None:
    share_id = api.share()
    backup_id = api.available(share_id)
    answer = delete(api, backup_id)
    assert (answer.status_code, answer.data) == (202, b"")
    operation = api.active(backup_id)
    assert operation is not None
    assert operation.kind is OperationKind.DELETE
    assert api.row(backup_id).status is BackupStatus.DELETING
    assert api.share_status(share_id) is ShareStatus.AVAILABLE
    assert api.waker.woken[-1] == operation.id


@pytest.mark.parametrize("status", LIVE)
def test_members_delete_only_available_and_error(api: Api, status: BackupStatus) -> None:
    backup_id = put_into(api, status)
    answer = delete(api, backup_id)
    if status in MEMBER_DELETABLE:
        assert answer.status_code == 202
    else:
        name, _, message = fault(answer)
        assert (name, answer.status_code) == ("badRequest", 400)
        assert f"Backup {backup_id} status must be available or error." in message
        assert api.active(backup_id) is None
    assert {status.value for status in MEMBER_DELETABLE} == {"available", "error"}


@pytest.mark.parametrize("status", LIVE)
def test_administrators_delete_whatever_the_status(api: Api, status: BackupStatus) -> None:
    backup_id = put_into(api, status)
    assert delete(api, backup_id, ADMIN).status_code == 202
    operation = api.active(backup_id)
    assert operation is not None
    assert operation.kind is OperationKind.DELETE


def test_charge_ends_with_the_row_not_with_the_request(api: Api) -> None:
    backup_id = api.available(api.share(size_gib=4))
    delete(api, backup_id)
    with api.database.reader() as session:
        assert ledger.usage(session, P1).backup_gigabytes == 4
    api.finish(backup_id)
    with api.database.reader() as session:
        assert ledger.usage(session, P1) == ledger.Usage()
        assert ledger.check(session) == []
    assert fault(api.call("GET", f"/share-backups/{backup_id}"))[1] == 404


def test_member_cannot_delete_what_is_being_created(api: Api) -> None:
    backup_id = api.create(api.share())
    assert fault(delete(api, backup_id))[1] == 400
    api.claim(backup_id)
    assert fault(delete(api, backup_id))[1] == 400


def test_administrators_delete_ends_a_waiting_create_at_once(api: Api) -> None:
    share_id = api.share()
    backup_id = api.create(share_id)
    create = api.active(backup_id)
    assert create is not None
    assert delete(api, backup_id, ADMIN).status_code == 202
    with api.database.reader() as session:
        assert operations.get(session, create.id).status is OperationStatus.CANCELLED
    active = api.active(backup_id)
    assert active is not None
    assert active.kind is OperationKind.DELETE
    assert api.row(backup_id).status is BackupStatus.DELETING
    assert api.share_status(share_id) is ShareStatus.AVAILABLE


def test_administrators_delete_asks_a_running_create_to_stop_and_follows_it(api: Api) -> None:
    share_id = api.share()
    backup_id = api.create(share_id)
    held = api.claim(backup_id)
    assert delete(api, backup_id, ADMIN).status_code == 202
    active = api.active(backup_id)
    assert active is not None
    assert active.id == held.id == api.waker.woken[-1]
    assert active.cancel_requested
    assert api.row(backup_id).status is BackupStatus.CREATING
    api.end(held, Outcome(event=OperationEvent.CANCEL, reason="Cancelled."))
    follower = api.active(backup_id)
    assert follower is not None
    assert follower.kind is OperationKind.DELETE
    assert api.row(backup_id).status is BackupStatus.DELETING
    assert api.share_status(share_id) is ShareStatus.AVAILABLE


def test_administrators_second_delete_changes_nothing(api: Api) -> None:
    backup_id = api.available(api.share())
    delete(api, backup_id)
    before = api.contents()
    assert delete(api, backup_id, ADMIN).status_code == 202
    assert api.contents() == before


def test_readers_may_not_delete(api: Api) -> None:
    assert fault(delete(api, api.available(api.share()), READER))[1] == 403


# --- cancel ---------------------------------------------------------------------------------------


def test_cancel_of_a_waiting_create_ends_it_and_frees_the_share(api: Api) -> None:
    share_id = api.share()
    backup_id = api.create(share_id)
    answer = act(api, backup_id, {"cancel": None})
    assert (answer.status_code, answer.data) == (202, b"")
    assert api.active(backup_id) is None
    assert api.row(backup_id).status is BackupStatus.ERROR
    assert api.share_status(share_id) is ShareStatus.AVAILABLE
    # Cancelled or not, the row is there and is charged until it is deleted.
    with api.database.reader() as session:
        assert ledger.usage(session, P1).backups == 1


def test_cancel_of_a_waiting_restore_leaves_share_and_backup_as_they_were(api: Api) -> None:
    share_id = api.share()
    backup_id = api.available(share_id)
    act(api, backup_id, {"restore": None})
    assert act(api, backup_id, {"cancel": {}}).status_code == 202
    assert api.row(backup_id).status is BackupStatus.AVAILABLE
    assert api.share_status(share_id) is ShareStatus.AVAILABLE


def test_cancel_of_a_waiting_restore_to_a_half_restored_share_keeps_its_status(api: Api) -> None:
    share_id = api.share()
    backup_id = api.available(share_id)
    act(api, backup_id, {"restore": None})
    api.fail(backup_id, written=True)
    act(api, backup_id, {"restore": None})
    assert act(api, backup_id, {"cancel": None}).status_code == 202
    assert api.share_status(share_id) is ShareStatus.BACKUP_RESTORING_ERROR


def test_cancel_of_a_running_operation_asks_its_holder_and_is_idempotent(api: Api) -> None:
    backup_id = api.create(api.share())
    held = api.claim(backup_id)
    for _ in range(2):
        assert act(api, backup_id, {"cancel": None}).status_code == 202
    active = api.active(backup_id)
    assert active is not None
    assert active.status is OperationStatus.RUNNING
    assert active.cancel_requested
    assert not active.then_delete
    assert api.waker.woken[-2:] == [held.id, held.id]


def test_cancel_when_a_node_claims_between_our_look_and_our_update(api: Api) -> None:
    """The node is quicker; then the operation is running and its holder is asked instead."""
    backup_id = api.create(api.share())
    write = api.database.write
    claimed: list[str] = []

    def write_after_the_claim(change: Any) -> Any:
        if not claimed:
            claimed.append("")
            api.database.write = write  # type: ignore[method-assign]
            claimed[0] = api.claim(backup_id).id
        return write(change)

    api.database.write = write_after_the_claim  # type: ignore[method-assign]
    assert act(api, backup_id, {"cancel": None}).status_code == 202
    active = api.active(backup_id)
    assert active is not None
    assert active.cancel_requested


@pytest.mark.parametrize("status", LIVE)
def test_cancel_without_an_operation_is_400(api: Api, status: BackupStatus) -> None:
    backup_id = put_into(api, status)
    assert fault(act(api, backup_id, {"cancel": None}))[1] == 400


def test_deletion_cannot_be_cancelled(api: Api) -> None:
    backup_id = api.available(api.share())
    delete(api, backup_id)
    before = api.contents()
    assert fault(act(api, backup_id, {"cancel": None}))[1] == 400
    assert api.contents() == before


def test_readers_may_not_cancel(api: Api) -> None:
    backup_id = api.create(api.share())
    assert fault(act(api, backup_id, {"cancel": None}, READER))[1] == 403


def test_cancel_after_the_status_was_reset_still_ends_the_operation(api: Api) -> None:
    share_id = api.share()
    backup_id = api.create(share_id)
    reset(api, backup_id, "error")
    assert act(api, backup_id, {"cancel": None}).status_code == 202
    assert api.active(backup_id) is None
    assert api.share_status(share_id) is ShareStatus.AVAILABLE


# --- reset_status ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", sorted(RESETTABLE))
def test_reset_status_sets_the_row_and_touches_nothing_else(api: Api, status: str) -> None:
    backup_id = api.available(api.share())
    for before in LIVE:
        assert reset(api, backup_id, before).status_code == 202
        tables = api.contents()
        answer = reset(api, backup_id, status)
        assert (answer.status_code, answer.data) == (202, b"")
        assert api.row(backup_id).status == status
        after = api.contents()
        assert {name for name in after if after[name] != tables[name]} == {"backups"}


def test_reset_to_available_without_a_valid_manifest_is_400(api: Api) -> None:
    backup_id = api.available(api.share())
    reset(api, backup_id, "error")
    api.manifests.remove(backup_id)
    before = api.contents()
    name, code, message = fault(reset(api, backup_id, "available"))
    assert (name, code) == ("badRequest", 400)
    assert "manifest" in message
    assert api.contents() == before


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MountFailed(export="10.0.0.5:/backups", reason="timed out"), 503),
        (CopyFailed(path="manifest.json", reason="Input/output error", errno=5), 500),
    ],
)
def test_reset_to_available_changes_nothing_when_the_store_cannot_be_read(
    make_api: Callable[..., Api], error: Exception, status: int
) -> None:
    api = make_api()

    def unreadable(backup: Backup) -> bool:
        raise error

    backup_id = api.available(api.share())
    reset(api, backup_id, "error")
    api.manifest_exists = unreadable
    api.build()
    before = api.contents()
    _, code, message = fault(reset(api, backup_id, "available"))
    assert (code, message) == (status, str(error))
    assert api.contents() == before


@pytest.mark.parametrize("who", [MEMBER, READER])
def test_reset_status_is_for_administrators(api: Api, who: str) -> None:
    backup_id = api.available(api.share())
    assert fault(reset(api, backup_id, "error", who))[1] == 403


@pytest.mark.parametrize("status", ["deleted", "", "AVAILABLE", "backup_creating"])
def test_reset_to_no_status_of_backups_is_400(api: Api, status: str) -> None:
    backup_id = api.available(api.share())
    assert "reset_status.status" in fault(reset(api, backup_id, status))[2]


def test_without_access_to_the_store_a_manifest_is_what_the_row_names(api: Api) -> None:
    """An API process of its own does not mount the backup share."""
    from manila_backup.api.request import no_manifest_check

    created = api.create(api.share())
    assert not no_manifest_check(api.row(created))
    assert no_manifest_check(api.row(api.available(api.share())))


def test_deleted_rows_accept_nothing(api: Api) -> None:
    backup_id = api.available(api.share())
    delete(api, backup_id)
    api.finish(backup_id)
    assert fault(delete(api, backup_id, ADMIN))[1] == 404
    assert fault(reset(api, backup_id, "available"))[1] == 404
    assert fault(act(api, backup_id, {"restore": None}))[1] == 404
    with api.database.reader() as session:
        assert backups.exists(session, backup_id)
