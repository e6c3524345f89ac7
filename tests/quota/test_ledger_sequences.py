# SPDX-License-Identifier: Apache-2.0
"""Any sequence of requests: at each commit the usage is the sum of the rows."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import event, text

from manila_backup import exception
from manila_backup.db.engine import Database
from manila_backup.quota import ledger
from manila_backup.quota.ledger import RESOURCES, Limits
from tests.quota.requests import (
    adopt,
    assert_charged_as_stored,
    begin_delete,
    create,
    finish_create,
    finish_delete,
    usages,
)

PROJECTS = st.sampled_from(["red", "blue"])
SIZES = st.integers(min_value=0, max_value=5)
DEFAULTS = Limits(backups=3, backup_gigabytes=8)


def _no_waiting_for_the_disk(dbapi_connection: Any, record: Any) -> None:
    dbapi_connection.execute("PRAGMA synchronous = OFF")


class Requests(RuleBasedStateMachine):
    """Tenants, a data node and administrators, one after another in any order."""

    creating = Bundle("creating")
    stored = Bundle("stored")
    deleting = Bundle("deleting")

    template: Path
    path: Path

    def __init__(self) -> None:
        super().__init__()
        self.database = Database(f"sqlite:///{shutil.copy(self.template, self.path)}")
        event.listen(self.database.writer_engine, "connect", _no_waiting_for_the_disk)
        self.own_limits: dict[tuple[str, str], int] = {}

    def teardown(self) -> None:
        self.database.close()

    def limit(self, project_id: str, resource: str) -> int:
        return self.own_limits.get((project_id, resource), DEFAULTS.of(resource))

    @rule(target=creating, project_id=PROJECTS, size_gib=SIZES)
    def create(self, project_id: str, size_gib: int) -> object:
        before = usages(self.database).get(project_id, (0, 0))
        after = (before[0] + 1, before[1] + size_gib)
        fits = all(
            limit == -1 or amount <= limit
            for limit, amount in zip(
                [self.limit(project_id, resource) for resource in RESOURCES], after, strict=True
            )
        )
        try:
            with self.database.writer() as session:
                made = create(session, DEFAULTS, project_id=project_id, size_gib=size_gib)
        except exception.QuotaExceeded:
            assert not fits
            assert usages(self.database).get(project_id, (0, 0)) == before
            return multiple()
        assert fits
        return made

    @rule(target=stored, backup_id=consumes(creating))
    def finish_create(self, backup_id: str) -> str:
        with self.database.writer() as session:
            finish_create(session, backup_id)
        return backup_id

    @rule(target=stored, project_id=PROJECTS, size_gib=SIZES)
    def adopt(self, project_id: str, size_gib: int) -> str:
        with self.database.writer() as session:
            return adopt(session, project_id=project_id, size_gib=size_gib)

    @rule(target=deleting, backup_id=consumes(stored))
    def begin_delete(self, backup_id: str) -> str:
        with self.database.writer() as session:
            begin_delete(session, backup_id)
        return backup_id

    @rule(backup_id=consumes(deleting))
    def finish_delete(self, backup_id: str) -> None:
        with self.database.writer() as session:
            finish_delete(session, backup_id)

    @rule(backup_id=deleting)
    def crash_in_the_middle_of_finishing_a_delete(self, backup_id: str) -> None:
        with suppress(ZeroDivisionError), self.database.writer() as session:
            finish_delete(session, backup_id)
            raise ZeroDivisionError

    @rule(
        project_id=PROJECTS,
        resource=st.sampled_from(RESOURCES),
        limit=st.integers(min_value=-1, max_value=12),
    )
    def set_limit(self, project_id: str, resource: str, limit: int) -> None:
        with self.database.writer() as session:
            ledger.set_limit(session, project_id, resource, limit)
        self.own_limits[(project_id, resource)] = limit

    @rule(project_id=PROJECTS)
    def reset_limits(self, project_id: str) -> None:
        with self.database.writer() as session:
            ledger.reset_limits(session, project_id)
        for resource in RESOURCES:
            self.own_limits.pop((project_id, resource), None)

    @rule(project_id=st.none() | PROJECTS)
    def sync_finds_nothing_to_do(self, project_id: str | None) -> None:
        with self.database.writer() as session:
            assert ledger.sync(session, project_id) == []

    @rule(project_id=PROJECTS, resource=st.sampled_from(RESOURCES), in_use=SIZES)
    def somebody_edits_tables_and_syncs(self, project_id: str, resource: str, in_use: int) -> None:
        with self.database.writer() as session:
            session.execute(
                text("UPDATE quota_usages SET in_use = :n WHERE project_id = :p AND resource = :r"),
                {"n": in_use, "p": project_id, "r": resource},
            )
            wrong = ledger.check(session)
            assert ledger.sync(session) == wrong

    @invariant()
    def usage_is_the_sum_of_the_rows(self) -> None:
        assert_charged_as_stored(self.database)


def test_any_sequence_of_requests(migrated_file: Path, tmp_path: Path) -> None:
    class Here(Requests):
        template = migrated_file
        path = tmp_path / "state.sqlite"

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=10,
            database=None,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
