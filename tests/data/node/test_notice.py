# SPDX-License-Identifier: Apache-2.0
"""What is lost is told by name: some of it to the tenant, more of it in the operator's log."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from manila_backup.data.notice import notice
from manila_backup.db import messages
from manila_backup.db.operations import Operation
from manila_backup.names import PRINTABLE_LIMIT
from manila_backup.states import OperationKind, OperationStatus
from manila_backup.types import Counters, Remarks
from tests.data.copy.file_systems import SMALL_INODES, FileSystems
from tests.data.node.world import World
from tests.db.builders import PROJECT

TEXT_BYTES = 65_535
"""What MariaDB's TEXT holds."""

RESTORE = OperationKind.RESTORE


def told(world: World, operation: Operation) -> str:
    with world.database.reader() as session:
        (message,) = messages.find(
            session, project_id=PROJECT, request_id=operation.request_id, resource_id=None
        )
    assert message.message_level == "WARNING"
    return message.user_message


def logged(caplog: pytest.LogCaptureFixture, operation: Operation) -> list[str]:
    label = f"Operation {operation.id}, request {operation.request_id}, epoch {operation.epoch}: "
    return [
        record.getMessage().removeprefix(label)
        for record in caplog.records
        if record.getMessage().startswith(label)
    ]


@contextmanager
def bound(source: Path, point: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", source, point], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", point], check=True)


@pytest.fixture
def share_id(world: World) -> str:
    """A share of four files whose times have nanoseconds."""
    share_id = world.share(filled=False)
    tree = world.store.tree(share_id)
    for name in ("a", "b", "c", "d\n"):
        (tree / name).write_text("content")
        os.utime(tree / name, ns=(1, 1))
    os.utime(tree, (1, 1))
    return share_id


@pytest.fixture
def small_inodes() -> Iterator[Path]:
    """A directory where times are whole seconds."""
    with FileSystems() as made:
        yield made.new(SMALL_INODES)


NAMED = ["a: time", "b: time", "c: time", "d\\x0a: time"]


@pytest.mark.slow
@pytest.mark.root
def test_what_the_backup_share_cannot_hold(
    world: World, share_id: str, small_inodes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world.backup_share = small_inodes
    done = world.work(world.queue_backup(share_id))
    assert done.status is OperationStatus.DONE
    words = "attributes are not in the stored tree; those that could be read are in its catalog"
    some = ", ".join(NAMED[:3])
    assert told(world, done) == f"create backup: complete, but 4 {words} ({some}, ...)."
    assert logged(caplog, done) == [f"4 {words}", *NAMED]


@pytest.mark.slow
@pytest.mark.root
def test_what_the_share_cannot_hold(
    world: World, share_id: str, small_inodes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backup_id = world.backed_up(share_id)
    target_id = world.share(filled=False)
    with bound(small_inodes, world.store.tree(target_id)):
        done = world.work(world.queue_restore(backup_id, target_id))
    assert done.status is OperationStatus.DONE
    words = "attributes could not be set on the share"
    some = ", ".join(NAMED[:3])
    assert told(world, done) == f"restore backup: complete, but 4 {words} ({some}, ...)."
    assert logged(caplog, done) == [f"4 {words}", *NAMED]


def test_nothing_is_said_of_what_is_exact(caplog: pytest.LogCaptureFixture) -> None:
    assert notice(RESTORE, "Operation 7", Counters(files=3, deleted=2), Remarks()) is None
    assert caplog.records == []


def test_each_kind_is_counted_and_named() -> None:
    counters = Counters(skipped=1, changed=2, losses=3, warnings=4)
    remarks = Remarks(skipped=("s",), changed=("c1", "c2"), losses=("l1", "l2", "l3"))
    assert notice(RESTORE, "Operation 7", counters, remarks) == (
        "complete, but "
        "1 paths could not be written because something is mounted there (s); "
        "2 paths were changed by others meanwhile and may differ from the backup (c1, c2); "
        "3 attributes could not be set on the share (l1, l2, l3); "
        "4 paths could not be removed or replaced."
    )


def test_the_longest_of_names_fit_into_a_message() -> None:
    path = "\U0001f5ff" * PRINTABLE_LIMIT
    remarks = Remarks(
        skipped=(path,) * 100, changed=(path,) * 100, losses=(f"{path}: xattr:{path[:255]}",) * 100
    )
    counters = Counters(skipped=200, changed=200, losses=200)
    said = notice(RESTORE, "Operation 7", counters, remarks)
    assert said is not None
    assert len(f"restore backup: {said}".encode()) < TEXT_BYTES
