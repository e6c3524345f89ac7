# SPDX-License-Identifier: Apache-2.0
"""Wake-ups: heard over a real (in-process) transport, and never missed by whoever sends them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from manila_backup.data.node import TOPIC
from tests.data.node.faulty import LIMIT_S

with warnings.catch_warnings():
    # oslo.messaging imports a module of oslo.utils that says so of itself.
    warnings.filterwarnings("ignore", "eventletutils module is deprecated", DeprecationWarning)
    from manila_backup.data.rpcapi import (
        InProcessWaker,
        MessagingWaker,
        NullWaker,
        WakeUpEndpoint,
        get_transport,
    )

    import oslo_messaging  # isort: skip - after what prepares it


@pytest.fixture
def transport(tmp_path: Path) -> Iterator[Any]:
    """With a ``conf`` of its own, as the services have it."""
    file = tmp_path / "bus.conf"
    file.write_text("[DEFAULT]\ntransport_url = fake:/\n")
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(file)])
    found = get_transport(conf)
    yield found
    found.cleanup()


def test_all_nodes_are_woken(transport: Any) -> None:
    woken = [threading.Event(), threading.Event()]
    servers = []
    for number, event in enumerate(woken):
        target = oslo_messaging.Target(topic=TOPIC, server=f"node-{number}")
        server = oslo_messaging.get_rpc_server(transport, target, [WakeUpEndpoint(event.set)])
        server.start()
        servers.append(server)
    try:
        MessagingWaker(transport).wake("operation-1")
        assert all(event.wait(LIMIT_S) for event in woken)
    finally:
        for server in servers:
            server.stop()
            server.wait()


def test_a_bus_that_is_away_is_no_error_of_the_request(
    transport: Any, caplog: pytest.LogCaptureFixture
) -> None:
    waker = MessagingWaker(transport)

    def away(*_: Any, **__: Any) -> None:
        raise oslo_messaging.MessageDeliveryFailure("connection refused")

    transport._driver.send = away
    waker.wake("operation-1")
    assert "A wake-up for operation operation-1 was not sent" in caplog.text


def test_in_one_process_nothing_lies_between() -> None:
    woken: list[None] = []
    InProcessWaker(lambda: woken.append(None)).wake("operation-1")
    NullWaker().wake("operation-1")
    assert len(woken) == 1
