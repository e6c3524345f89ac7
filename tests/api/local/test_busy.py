# SPDX-License-Identifier: Apache-2.0
"""Shares that backups hold: what clients see, and what is refused meanwhile, as in Manila."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from manila_backup.share.local.records import ShareMark
from manila_backup.states import ShareStatus
from tests.api.harness import ADMIN, fault
from tests.api.local.harness import SharesApi

CHANGES = {
    "delete": (403, "DELETE", "/shares/{id}", None),
    "force_delete": (403, "POST", "/shares/{id}/action", {"force_delete": None}),
    "extend": (400, "POST", "/shares/{id}/action", {"extend": {"new_size": 9}}),
    "shrink": (400, "POST", "/shares/{id}/action", {"shrink": {"new_size": 1}}),
    "snapshot": (400, "POST", "/snapshots", {"snapshot": {"share_id": "{id}"}}),
    "revert": (409, "POST", "/shares/{id}/action", {"revert": {"snapshot_id": "s"}}),
    "soft_delete": (400, "POST", "/shares/{id}/action", {"soft_delete": None}),
}


def change(shares: SharesApi, share_id: str, what: str) -> tuple[int, Any]:
    """Try it as an administrator; the status that is wanted of a held share, and the answer."""
    wanted, method, path, body = CHANGES[what]
    if what == "snapshot":
        body = {"snapshot": {"share_id": share_id}}
    return wanted, shares.call(method, path.format(id=share_id), body, who=ADMIN)


def held_by_queued_backup(shares: SharesApi, share_id: str) -> str:
    shares.api.create(share_id)
    return "backup_creating"


def held_by_queued_restore(shares: SharesApi, share_id: str) -> str:
    backup_id = shares.api.available(share_id)
    answer = shares.api.call("POST", f"/share-backups/{backup_id}/action", {"restore": None})
    assert answer.status_code == 202, answer.text
    return "backup_restoring"


def held_by_a_mark_alone(shares: SharesApi, share_id: str) -> str:
    mark = ShareMark(operation_id="lost", status="backup_restoring")
    shares.store.update(share_id, lambda share: replace(share, mark=mark))
    return "backup_restoring"


HOLDERS = (held_by_queued_backup, held_by_queued_restore, held_by_a_mark_alone)


@pytest.mark.parametrize("hold", HOLDERS)
class TestHeld:
    def test_all_views_and_filters_show_it(self, shares: SharesApi, hold: Any) -> None:
        share_id = shares.create(name="held")["id"]
        shares.create(name="free")
        status = hold(shares, share_id)
        assert shares.status(share_id) == status
        detail = shares.ok("GET", "/shares/detail?sort_key=name&sort_dir=desc")["shares"]
        assert [share["status"] for share in detail] == [status, "available"]
        assert shares.names(f"?status={status}") == ["held"]
        assert shares.names("?status=available") == ["free"]
        assert shares.names("?sort_key=status&sort_dir=asc") == ["free", "held"]

    def test_changes_are_refused(self, shares: SharesApi, hold: Any) -> None:
        share_id = shares.create(size=2)["id"]
        status = hold(shares, share_id)
        before = shares.store.get(share_id)
        for what in CHANGES:
            wanted, answer = change(shares, share_id, what)
            assert answer.status_code == wanted, what
            assert what == "soft_delete" or status in fault(answer)[2]
        assert shares.store.get(share_id) == before
        assert list(shares.local.snapshots.all()) == []

    def test_names_properties_and_access_go_on_working(self, shares: SharesApi, hold: Any) -> None:
        share_id = shares.create()["id"]
        status = hold(shares, share_id)
        shown = shares.ok("PUT", f"/shares/{share_id}", {"share": {"name": "new"}})["share"]
        assert (shown["name"], shown["status"]) == ("new", status)
        shares.ok("POST", f"/shares/{share_id}/metadata", {"metadata": {"a": "b"}})
        rule = shares.allow(share_id)
        answer = shares.act(share_id, "deny_access", {"access_id": rule["id"]})
        assert answer.status_code == 202


def test_the_same_changes_are_accepted_otherwise(shares: SharesApi) -> None:
    for what in CHANGES.keys() - {"revert", "soft_delete"}:
        share_id = shares.create(size=2)["id"]
        _, answer = change(shares, share_id, what)
        assert answer.status_code == 202, (what, answer.text)


@pytest.mark.parametrize("task_state", ["data_copying_completed", "migration_in_progress"])
def test_under_a_task_of_the_share(shares: SharesApi, task_state: str) -> None:
    share_id = shares.create(size=2)["id"]
    shares.act(share_id, "reset_task_state", {"task_state": task_state}, who=ADMIN)
    for what in CHANGES:
        _, answer = change(shares, share_id, what)
        assert answer.status_code == (409 if what == "revert" else 400), what
    shares.allow(share_id)


@pytest.mark.parametrize("status", ["creating", "deleting", "migrating"])
def test_in_a_status_that_is_not_available(shares: SharesApi, status: str) -> None:
    share_id = shares.create(size=2)["id"]
    assert shares.act(share_id, "reset_status", {"status": status}, who=ADMIN).status_code == 202
    for what in ("delete", "extend", "shrink", "snapshot", "revert"):
        wanted, answer = change(shares, share_id, what)
        assert answer.status_code == wanted
    rule = {"access_type": "ip", "access_to": "10.0.0.1"}
    assert shares.act(share_id, "allow_access", rule).status_code == 400


class TestFailedRestore:
    @pytest.fixture
    def broken(self, shares: SharesApi) -> str:
        """A share that a restore has left half done; its id."""
        share_id = str(shares.create(name="broken", size=2)["id"])
        backup_id = shares.api.available(share_id)
        shares.api.call("POST", f"/share-backups/{backup_id}/action", {"restore": None})
        shares.api.fail(backup_id, written=True)
        return share_id

    def test_shows(self, shares: SharesApi, broken: str) -> None:
        assert shares.status(broken) == "backup_restoring_error"
        assert shares.names("?status=backup_restoring_error") == ["broken"]

    def test_the_share_cannot_be_used_as_if_it_were_well(
        self, shares: SharesApi, broken: str
    ) -> None:
        for what in ("extend", "shrink", "snapshot"):
            assert change(shares, broken, what)[1].status_code == 400, what

    def test_set_to_available_by_an_administrator(self, shares: SharesApi, broken: str) -> None:
        answer = shares.act(broken, "reset_status", {"status": "available"}, who=ADMIN)
        assert answer.status_code == 202
        assert shares.status(broken) == "available"
        assert shares.api.share_status(broken) is ShareStatus.AVAILABLE

    def test_set_to_error_by_an_administrator(self, shares: SharesApi, broken: str) -> None:
        shares.act(broken, "reset_status", {"status": "error"}, who=ADMIN)
        assert shares.status(broken) == "error"
        assert shares.api.share_status(broken) is ShareStatus.BACKUP_RESTORING_ERROR

    def test_deleted_with_the_share(self, shares: SharesApi, broken: str) -> None:
        shares.ok("DELETE", f"/shares/{broken}")
        assert shares.call("GET", f"/shares/{broken}").status_code == 404
        assert shares.api.share_status(broken) is ShareStatus.AVAILABLE


class TestResetStatus:
    def test_never_takes_a_running_operations_lock(self, shares: SharesApi) -> None:
        share_id = shares.create()["id"]
        shares.api.create(share_id)
        mark = ShareMark(operation_id="op", status="backup_creating")
        shares.store.update(share_id, lambda share: replace(share, mark=mark))
        answer = shares.act(share_id, "reset_status", {"status": "available"}, who=ADMIN)
        assert answer.status_code == 202
        assert shares.store.get(share_id).mark == mark
        assert shares.status(share_id) == "backup_creating"

    def test_takes_off_a_mark_that_outlived_the_database(self, shares: SharesApi) -> None:
        share_id = shares.create()["id"]
        held_by_a_mark_alone(shares, share_id)
        shares.act(share_id, "reset_status", {"status": "error"}, who=ADMIN)
        assert shares.status(share_id) == "backup_restoring"
        shares.act(share_id, "reset_status", {"status": "available"}, who=ADMIN)
        assert shares.status(share_id) == "available"
        shares.ok("DELETE", f"/shares/{share_id}")

    @pytest.mark.parametrize(
        "status",
        ["backup_creating", "backup_restoring", "backup_restoring_error", "nonsense", "", None],
    )
    def test_refused_as_in_manila(self, shares: SharesApi, status: Any) -> None:
        share_id = shares.create()["id"]
        answer = shares.act(share_id, "reset_status", {"status": status}, who=ADMIN)
        assert answer.status_code == 400
        assert shares.status(share_id) == "available"

    def test_of_a_share_that_is_being_removed(self, shares: SharesApi) -> None:
        share_id = shares.create()["id"]
        shares.later.paused = True
        shares.ok("DELETE", f"/shares/{share_id}")
        answer = shares.act(share_id, "reset_status", {"status": "available"}, who=ADMIN)
        assert answer.status_code == 400
        assert shares.status(share_id) == "deleting"

    def test_of_the_task_state(self, shares: SharesApi) -> None:
        share_id = shares.create()["id"]
        value: dict[str, Any] = {"task_state": "migration_starting"}
        assert shares.act(share_id, "reset_task_state", value, who=ADMIN).status_code == 202
        shown = shares.ok("GET", f"/shares/{share_id}")["share"]
        assert shown["task_state"] == "migration_starting"
        assert shares.act(share_id, "reset_task_state", {"task_state": None}, who=ADMIN)
        assert shares.ok("GET", f"/shares/{share_id}")["share"]["task_state"] is None
        answer = shares.act(share_id, "reset_task_state", {"task_state": "x"}, who=ADMIN)
        assert answer.status_code == 400


def test_without_the_database_nothing_is_guessed(shares: SharesApi) -> None:
    """A share must not look free because nobody can be asked."""
    share_id = shares.create()["id"]
    with shares.api.database.writer() as session:
        session.connection().exec_driver_sql("ALTER TABLE busy_shares RENAME TO away")
    assert shares.call("GET", f"/shares/{share_id}").status_code >= 500
    assert shares.call("DELETE", f"/shares/{share_id}").status_code >= 500
    assert shares.store.get(share_id).status == "available"
