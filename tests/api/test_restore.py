# SPDX-License-Identifier: Apache-2.0
"""POST /share-backups/{id}/action restore, and POST /share-backups/{id}/restores."""

from __future__ import annotations

from typing import Any

import pytest

from manila_backup.states import BackupStatus, OperationKind, ShareStatus
from manila_backup.types import RestoreMode
from tests.api.harness import ADMIN, MEMBER, P2, READER, Api, fault


def restore(api: Api, backup_id: str, value: Any = None, **more: Any) -> Any:
    return api.call("POST", f"/share-backups/{backup_id}/action", {"restore": value}, **more)


def test_restore_answers_202_with_backup_and_share(api: Api) -> None:
    share_id = api.share()
    backup_id = api.available(share_id)
    answer = restore(api, backup_id)
    assert answer.status_code == 202
    assert answer.json == {"restore": {"backup_id": backup_id, "share_id": share_id}}


def test_restore_keeps_all_that_belongs_together_in_one_commit(api: Api) -> None:
    share_id = api.share()
    backup_id = api.available(share_id)
    answer = restore(api, backup_id)
    operation = api.active(backup_id)
    assert operation is not None
    assert operation.kind is OperationKind.RESTORE
    assert operation.mode is RestoreMode.EXACT
    assert operation.share_id == share_id
    assert not operation.share_was_in_error
    assert operation.request_id == answer.headers["X-Openstack-Request-Id"]
    assert api.row(backup_id).status is BackupStatus.RESTORING
    assert api.share_status(share_id) is ShareStatus.BACKUP_RESTORING
    assert api.waker.woken[-1] == operation.id
    assert api.waker.statuses[-1] == "queued"


def test_restore_progress_starts_anew(api: Api) -> None:
    share_id = api.share()
    backup_id = api.available(share_id)
    restore(api, backup_id)
    api.finish(backup_id)
    assert api.row(backup_id).restore_progress == 100
    restore(api, backup_id)
    assert api.row(backup_id).restore_progress == 0


def test_restore_to_a_target_share_from_2_91(api: Api) -> None:
    source, target = api.share(), api.share()
    backup_id = api.available(source)
    answer = restore(api, backup_id, target, version="2.91")
    assert answer.json["restore"]["share_id"] == target
    assert api.share_status(target) is ShareStatus.BACKUP_RESTORING
    assert api.share_status(source) is ShareStatus.AVAILABLE


@pytest.mark.parametrize("value", ["target", None, {}, {"any": "thing"}])
def test_below_2_91_the_restore_goes_to_the_source_whatever_the_value(api: Api, value: Any) -> None:
    source, target = api.share(), api.share()
    backup_id = api.available(source)
    answer = restore(api, backup_id, target if value == "target" else value, version="2.90")
    assert answer.json["restore"]["share_id"] == source


def test_backup_that_is_not_available_is_400(api: Api) -> None:
    backup_id = api.create(api.share())
    name, code, message = fault(restore(api, backup_id))
    assert (name, code) == ("badRequest", 400)
    assert f"Backup {backup_id} status must be available." in message


def test_backup_that_is_being_restored_is_400(api: Api) -> None:
    backup_id = api.available(api.share())
    restore(api, backup_id)
    assert fault(restore(api, backup_id, api.share()))[1] == 400


def test_unknown_target_is_404(api: Api) -> None:
    backup_id = api.available(api.share())
    unknown = "4f1e9a52-0000-4000-8000-000000000000"
    before = api.contents()
    name, code, message = fault(restore(api, backup_id, unknown))
    assert (name, code) == ("itemNotFound", 404)
    assert unknown in message
    assert api.contents() == before


def test_private_target_of_another_project_is_404(api: Api) -> None:
    backup_id = api.available(api.share())
    before = api.contents()
    assert fault(restore(api, backup_id, api.share(P2)))[:2] == ("itemNotFound", 404)
    assert api.contents() == before


def test_public_target_of_another_project_is_403(api: Api) -> None:
    backup_id = api.available(api.share())
    before = api.contents()
    target = api.share(P2, is_public=True)
    assert fault(restore(api, backup_id, target))[:2] == ("forbidden", 403)
    assert api.contents() == before


def test_administrators_cannot_lay_a_backup_over_a_share_of_another_project_either(
    api: Api,
) -> None:
    backup_id = api.available(api.share())
    assert fault(restore(api, backup_id, api.share(P2), who=ADMIN))[1] == 403
    assert restore(api, backup_id, who=ADMIN).status_code == 202


def test_restore_to_a_source_that_is_gone_is_404_with_advice(api: Api) -> None:
    share_id = api.share()
    backup_id = api.available(share_id)
    api.store.begin_delete(share_id)
    api.store.finish_delete(share_id)
    _, code, message = fault(restore(api, backup_id))
    assert code == 404
    assert share_id in message
    assert "--target-share" in message
    assert restore(api, backup_id, api.share()).status_code == 202


def test_source_that_went_to_another_project_is_not_overwritten(api: Api) -> None:
    share_id = api.share()
    backup_id = api.available(share_id)
    api.change_share(share_id, project_id=P2, is_public=True)
    assert fault(restore(api, backup_id))[1] == 403


def test_target_smaller_than_the_backup_is_400_with_both_sizes(api: Api) -> None:
    backup_id = api.available(api.share(size_gib=5))
    _, code, message = fault(restore(api, backup_id, api.share(size_gib=4)))
    assert code == 400
    assert "size 4 is too small" in message
    assert "size 5" in message
    assert restore(api, backup_id, api.share(size_gib=5)).status_code == 202


def test_target_that_is_not_available_is_400(api: Api) -> None:
    backup_id = api.available(api.share())
    assert fault(restore(api, backup_id, api.share(status="extending")))[1] == 400


def test_target_of_an_unsupported_protocol_or_with_replicas_is_400(api: Api) -> None:
    backup_id = api.available(api.share())
    assert fault(restore(api, backup_id, api.share(share_proto="CIFS")))[1] == 400
    api.provider.adjust = {"has_replicas": True}
    assert fault(restore(api, backup_id))[1] == 400


def test_soft_deleted_target_is_403(api: Api) -> None:
    backup_id = api.available(api.share())
    api.provider.adjust = {"is_soft_deleted": True}
    assert fault(restore(api, backup_id))[1] == 403


def test_snapshots_of_the_target_do_not_stand_in_the_way(api: Api) -> None:
    backup_id = api.available(api.share())
    api.provider.adjust = {"has_snapshots": True}
    assert restore(api, backup_id).status_code == 202


def test_busy_target_is_400_or_409(api: Api) -> None:
    """Held by us it is not available; what another task holds is in conflict with that task."""
    backup_id = api.available(api.share())
    busy = api.share()
    api.create(busy)
    assert fault(restore(api, backup_id, busy))[:2] == ("badRequest", 400)
    task = api.share(task_state="data_copying_completed")
    assert fault(restore(api, backup_id, task))[:2] == ("conflictingRequest", 409)


def test_failed_restore_is_healed_by_another_one(api: Api) -> None:
    share_id = api.share()
    backup_id = api.available(share_id)
    restore(api, backup_id)
    api.fail(backup_id, written=True)
    assert api.row(backup_id).status is BackupStatus.AVAILABLE
    assert api.share_status(share_id) is ShareStatus.BACKUP_RESTORING_ERROR
    assert restore(api, backup_id).status_code == 202
    operation = api.active(backup_id)
    assert operation is not None
    assert operation.share_was_in_error
    api.finish(backup_id)
    assert api.share_status(share_id) is ShareStatus.AVAILABLE


def test_readers_may_not_restore(api: Api) -> None:
    backup_id = api.available(api.share())
    assert fault(restore(api, backup_id, who=READER))[1] == 403


def test_operation_that_outlived_a_reset_of_the_backup_is_409(api: Api) -> None:
    """The administrator reset the status although a data node still works on the backup."""
    share_id = api.share()
    backup_id = api.available(share_id)
    restore(api, backup_id)
    reset = {"reset_status": {"status": "available"}}
    answer = api.call("POST", f"/share-backups/{backup_id}/action", reset, who=ADMIN)
    assert answer.status_code == 202
    before = api.contents()
    assert fault(restore(api, backup_id, api.share()))[:2] == ("conflictingRequest", 409)
    assert api.contents() == before


# --- the sub-resource -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["exact", "merge"])
def test_restores_takes_mode_and_target(api: Api, mode: str) -> None:
    backup_id = api.available(api.share())
    target = api.share()
    answer = api.call(
        "POST",
        f"/share-backups/{backup_id}/restores",
        {"restore": {"mode": mode, "target_share_id": target}},
        version="2.80",
    )
    assert answer.status_code == 202
    operation = api.active(backup_id)
    assert operation is not None
    assert operation.mode == mode
    assert answer.json == {
        "restore": {
            "backup_id": backup_id,
            "share_id": target,
            "mode": mode,
            "operation_id": operation.id,
        }
    }


def test_restores_is_exact_and_to_the_source_by_default(api: Api) -> None:
    share_id = api.share()
    backup_id = api.available(share_id)
    answer = api.call("POST", f"/share-backups/{backup_id}/restores", {"restore": {}})
    assert answer.json["restore"]["mode"] == "exact"
    assert answer.json["restore"]["share_id"] == share_id


def test_restores_refuses_as_the_action_does(api: Api) -> None:
    backup_id = api.create(api.share())
    path = f"/share-backups/{backup_id}/restores"
    assert fault(api.call("POST", path, {"restore": {}}))[1] == 400
    assert fault(api.call("POST", path, {"restore": {}}, who=READER))[1] == 403
    wrong = api.call("POST", path, {"restore": {"mode": "sideways"}}, who=MEMBER)
    assert "restore.mode" in fault(wrong)[2]
