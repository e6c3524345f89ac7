# SPDX-License-Identifier: Apache-2.0
"""SIGKILL of the whole service at any step of an operation, and a start on the same directory:
states are final, the share is free, nothing is left behind, and what was asked for is done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.moments import Moment, catch, copying, in_phase
from tests.acceptance.programs import compare_trees
from tests.acceptance.rest import PROJECT, Rest
from tests.acceptance.standalone import Standalone, running
from tests.acceptance.trees import copy, damage, fill_with_many
from tests.acceptance.waiting import until

pytestmark = pytest.mark.acceptance

FEW, MANY = 20, 4_000


@dataclass(kw_only=True)
class Scene:
    """A service that is killed and started again, with one share that has access rules."""

    stack: ExitStack
    service: Standalone
    original: Path
    share_id: str
    tree: str
    rules: list[Any] = field(default_factory=list)

    @property
    def rest(self) -> Rest:
        return self.service.rest()

    def kill_at(self, begin: Callable[[], str], wanted: Callable[[Moment], bool]) -> str:
        """Kill the service at a moment of an operation and start another; the backup's id."""
        backup_id, _ = catch(self.service, begin, wanted)
        self.service.kill()
        self.service = self.stack.enter_context(running(self.service.state))
        return backup_id

    def create(self) -> str:
        return self.rest.create_backup(self.share_id)

    def restore_of(self, backup_id: str) -> Callable[[], str]:
        def restore() -> str:
            damage(self.tree)
            self.rest.restore(backup_id)
            return backup_id

        return restore

    def everything_is_given_back(self) -> None:
        """The share is free and as its tenant has set it up; nothing is mounted."""
        assert self.rest.share_status(self.share_id) == "available"
        assert self.rest.access_rules(self.share_id) == self.rules
        assert self._hidden_rules() == []
        assert self.service.mounts() == []

    def only_backups_are_left(self) -> None:
        """Of all that was done the published backups are left, and what they are charged."""
        self.everything_is_given_back()
        backups = self.rest.backups()
        assert self.rest.usage() == (len(backups), sum(backup["size"] for backup in backups))
        assert self.service.manage.json("quota check") == []
        assert self.service.manage.json("backup orphans") == []
        directories = {path.relative_to(self.service.store) for path in self._two_levels()}
        assert directories == {Path(PROJECT, backup["id"]) for backup in backups}

    def _two_levels(self) -> Iterator[Path]:
        return self.service.store.glob("*/*")

    def _hidden_rules(self) -> list[str]:
        """The service's own rules, which the API does not show."""
        document = self.service.state / "shares" / self.share_id / "share.json"
        return [line for line in document.read_text().splitlines() if '"ours": true' in line]


@pytest.fixture
def make_scene(state: Path, tmp_path: Path) -> Iterator[Callable[[int], Scene]]:
    with ExitStack() as stack:

        def make(files: int) -> Scene:
            service = stack.enter_context(running(state))
            rest = service.rest()
            # A moment that was missed leaves a backup.
            rest.set_quota(backups=-1)
            share_id = rest.create_share("shared")
            rest.allow(share_id, "10.0.0.0/8", "rw")
            rest.allow(share_id, "192.0.2.7", "ro")
            original = fill_with_many(tmp_path / "original", files)
            copy(original, rest.tree(share_id))
            return Scene(
                stack=stack,
                service=service,
                original=original,
                share_id=share_id,
                tree=rest.tree(share_id),
                rules=rest.access_rules(share_id),
            )

        yield make


def check_created(scene: Scene, backup_id: str) -> None:
    """The backup is done under a later epoch than the dead one's, and it is exact."""
    operation = scene.rest.until_ended(backup_id)
    assert operation["status"] == "done"
    assert operation["attempts"] == 2
    assert scene.rest.backup_status(backup_id) == "available"
    assert scene.service.epochs(backup_id) == [2]
    scene.everything_is_given_back()
    damage(scene.tree)
    scene.rest.restored(backup_id)
    assert compare_trees(scene.original, scene.tree) == []


def check_restored(scene: Scene, backup_id: str) -> None:
    operation = scene.rest.until_ended(backup_id)
    assert operation["status"] == "done"
    assert operation["attempts"] == 2
    assert scene.rest.backup_status(backup_id) == "available"
    assert scene.service.epochs(backup_id) == [1]
    scene.everything_is_given_back()
    assert compare_trees(scene.original, scene.tree) == []


# --- in the middle of many files ------------------------------------------------------------------


def test_killed_while_a_backup_is_copied(make_scene: Callable[[int], Scene]) -> None:
    scene = make_scene(MANY)
    check_created(scene, scene.kill_at(scene.create, copying))
    scene.only_backups_are_left()


def writing(moment: Moment) -> bool:
    return copying(moment) and moment.share_written


def test_killed_while_a_restore_writes_into_the_share(make_scene: Callable[[int], Scene]) -> None:
    scene = make_scene(MANY)
    backup_id = scene.rest.available_backup(scene.share_id)
    assert scene.kill_at(scene.restore_of(backup_id), writing) == backup_id
    check_restored(scene, backup_id)
    scene.only_backups_are_left()


def test_killed_while_a_backup_is_deleted(make_scene: Callable[[int], Scene]) -> None:
    scene = make_scene(MANY)
    directories = []

    def delete() -> str:
        backup_id = scene.rest.available_backup(scene.share_id)
        directories.append(scene.service.store / PROJECT / backup_id / "1")
        scene.rest.delete_backup(backup_id)
        return backup_id

    def half_done(moment: Moment) -> bool:
        directory = directories[-1]
        manifest, data = directory / "manifest.json", directory / "data"
        return in_phase("deleting")(moment) and not manifest.exists() and data.exists()

    backup_id = scene.kill_at(delete, half_done)
    scene.rest.until_deleted(backup_id)
    assert scene.service.epochs(backup_id) == []
    scene.only_backups_are_left()


def test_killed_three_times_it_is_given_up(make_scene: Callable[[int], Scene]) -> None:
    """What kills the service each time must not do so for ever; a restore that wrote has left the
    share half done, which another restore heals.
    """
    scene = make_scene(MANY)
    backup_id = scene.rest.available_backup(scene.share_id)
    begin = scene.restore_of(backup_id)
    for epoch in (1, 2, 3):
        scene.kill_at(begin, lambda moment, e=epoch: writing(moment) and moment.epoch == e)  # type: ignore[misc]
        # From now on the service itself goes on with what it finds.
        begin = partial(str, backup_id)
    operation = scene.rest.until_ended(backup_id)
    assert operation["status"] == "failed"
    assert "given up after 3 attempts" in operation["fail_reason"]
    # The mark of the dead is taken off just after.
    until(
        lambda: scene.rest.share_status(scene.share_id) == "backup_restoring_error",
        "the share's error",
    )
    assert scene.rest.backup_status(backup_id) == "available"
    scene.rest.restored(backup_id)
    scene.only_backups_are_left()
    assert compare_trees(scene.original, scene.tree) == []


# --- at every step --------------------------------------------------------------------------------

CREATE_STEPS = (
    *("marking", "granting", "mounting", "copying", "publishing"),
    # Whoever cannot mount uses directories where they are, and has nothing to unmount.
    *(("unmounting",) if os.geteuid() == 0 else ()),
    *("revoking", "unmarking"),
)
RESTORE_STEPS = tuple(step for step in CREATE_STEPS if step != "publishing")


@pytest.mark.slow
def test_killed_at_every_step_of_backups(make_scene: Callable[[int], Scene]) -> None:
    """One service after the other on one directory, each killed one step later."""
    scene = make_scene(FEW)
    for step in CREATE_STEPS:
        check_created(scene, scene.kill_at(scene.create, in_phase(step)))
    scene.only_backups_are_left()


@pytest.mark.slow
def test_killed_at_every_step_of_restores(make_scene: Callable[[int], Scene]) -> None:
    scene = make_scene(FEW)
    backup_id = scene.rest.available_backup(scene.share_id)
    for step in RESTORE_STEPS:
        assert scene.kill_at(scene.restore_of(backup_id), in_phase(step)) == backup_id
        check_restored(scene, backup_id)
    scene.only_backups_are_left()
