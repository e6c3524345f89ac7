# SPDX-License-Identifier: Apache-2.0
"""What other services are told of operations."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from manila_backup.data.node import Node
from manila_backup.data.notifications import BusNotifications, NoNotifications
from manila_backup.data.rpcapi import get_notifications
from manila_backup.states import BackupStatus
from tests.data.node.faulty import LIMIT_S, wait_for
from tests.data.node.world import World

pytestmark = pytest.mark.slow


class Heard:
    """Instead of oslo.messaging's notifier: (priority, event type, payload)."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, dict[str, Any]]] = []

    def info(self, context: dict[str, Any], event_type: str, payload: dict[str, Any]) -> None:
        self.all.append(("info", event_type, payload))

    def error(self, context: dict[str, Any], event_type: str, payload: dict[str, Any]) -> None:
        self.all.append(("error", event_type, payload))

    def types(self) -> list[str]:
        return [event_type for _, event_type, _ in self.all]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def told(world: World, heard: Heard) -> World:
    """Its nodes tell what they do."""
    real = world.node

    def node(host: str = "node-a", **changes: Any) -> Node:
        return replace(real(host, **changes), notifications=BusNotifications(heard))

    world.node = node  # type: ignore[method-assign]
    return world


def test_a_good_end_is_told_after_the_begin(told: World, heard: Heard) -> None:
    share_id = told.small_share()
    backup_id = told.backed_up(share_id)
    told.work(told.queue_restore(backup_id, share_id))
    told.work(told.queue_delete(backup_id))
    wait_for(lambda: "share.backup.delete.end" in heard.types(), "the last notification")
    said = [name for name in heard.types() if not name.endswith(".progress")]
    assert said == [
        f"share.backup.{kind}.{what}"
        for kind in ("create", "restore", "delete")
        for what in ("start", "end")
    ]
    priority, _, payload = heard.all[-1]
    assert priority == "info"
    assert (payload["backup_id"], payload["share_id"]) == (backup_id, share_id)
    assert payload["attempt"] == 1
    end = next(payload for _, name, payload in heard.all if name == "share.backup.create.end")
    assert end["counters"]["files"] > 0


def test_progress_is_told_in_tenths(told: World, heard: Heard) -> None:
    told.backed_up(told.small_share())
    wait_for(lambda: "share.backup.create.end" in heard.types(), "the end")
    percents = [payload["percent"] for _, name, payload in heard.all if name.endswith("progress")]
    assert percents == sorted(set(percents))
    tenths = [percent // 10 for percent in percents]
    assert tenths == sorted(set(tenths))


def test_a_failure_is_told_as_an_error_with_its_reason(told: World, heard: Heard) -> None:
    queued = told.queue_backup(told.small_share())
    told.workers.lay("publish", "permanent")
    told.work(queued)
    assert told.backup_status(queued.backup_id) is BackupStatus.ERROR
    wait_for(lambda: "share.backup.create.error" in heard.types(), "the error")
    priority, _, payload = heard.all[-1]
    assert priority == "error"
    assert payload["fail_reason"] == told.operation(queued).fail_reason


def test_who_is_told_of_nothing_keeps_nobody_waiting(told: World) -> None:
    """A notifier that hangs, and one that raises."""
    go_on = threading.Event()

    class Hanging(Heard):
        def info(self, *_: Any) -> None:
            go_on.wait(LIMIT_S)
            raise ConnectionError

    node = replace(told.node(), notifications=BusNotifications(Hanging()))
    told.node = lambda *_, **__: node  # type: ignore[method-assign]
    queued = told.queue_backup(told.small_share())
    told.work(queued)
    assert told.backup_status(queued.backup_id) is BackupStatus.AVAILABLE
    go_on.set()


@pytest.mark.parametrize(("driver", "kind"), [("", NoNotifications), ("log", BusNotifications)])
def test_the_configuration_says_whether_there_are_any(
    tmp_path: Path, driver: str, kind: type
) -> None:
    file = tmp_path / "bus.conf"
    file.write_text(
        "[DEFAULT]\ntransport_url ="
        + (" fake:/\n" if driver else "\n")
        + (f"[oslo_messaging_notifications]\ndriver = {driver}\n" if driver else "")
    )
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(file)])
    assert type(get_notifications(conf, "node1")) is kind
