# SPDX-License-Identifier: Apache-2.0
"""Wake-ups: heard over a real (in-process) transport, and never missed by whoever sends them."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from tests.data.node.faulty import LIMIT_S

with warnings.catch_warnings():
    # oslo.messaging imports a module of oslo.utils that says so of itself.
    warnings.filterwarnings("ignore", "eventletutils module is deprecated", DeprecationWarning)
    from manila_backup.data.rpcapi import (
        InProcessWaker,
        MessagingWaker,
        NullWaker,
        WakeUpServer,
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
        server = WakeUpServer(transport, f"node-{number}", event.set)
        server.start()
        servers.append(server)
    try:
        # What is sent before they listen is lost, as all wake-ups may be.
        waker = MessagingWaker(transport)
        until_s = time.monotonic() + LIMIT_S
        while not all(event.is_set() for event in woken):
            assert time.monotonic() < until_s
            waker.wake("operation-1")
            time.sleep(0.05)
    finally:
        for server in servers:
            server.stop()


def test_a_bus_that_is_away_is_no_error_of_the_request(
    transport: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tried = threading.Event()

    def away(*_: Any, **__: Any) -> None:
        if tried.is_set():
            again.set()
        tried.set()
        raise oslo_messaging.MessageDeliveryFailure("connection refused")

    again = threading.Event()
    transport._driver.send = away
    waker = MessagingWaker(transport)
    waker.wake("operation-1")
    waker.wake("operation-2")
    assert again.wait(LIMIT_S)
    text = "A wake-up for an operation was not sent (connection refused): operation-1"
    assert text in caplog.text


def test_a_bus_that_does_not_answer_keeps_nobody_waiting(
    transport: Any, caplog: pytest.LogCaptureFixture
) -> None:
    go_on, sent = threading.Event(), threading.Semaphore(0)

    def hang(*_: Any, **__: Any) -> None:
        assert go_on.wait(LIMIT_S)
        sent.release()

    transport._driver.send = hang
    waker = MessagingWaker(transport)
    for number in range(150):
        waker.wake(f"operation-{number}")  # returns, although nothing can be sent
    text = "A wake-up for an operation was not sent, too many wait: operation-149"
    assert text in caplog.text
    go_on.set()
    for _ in range(100):
        assert sent.acquire(timeout=LIMIT_S)


def test_in_one_process_nothing_lies_between() -> None:
    woken: list[None] = []
    InProcessWaker(lambda: woken.append(None)).wake("operation-1")
    NullWaker().wake("operation-1")
    assert len(woken) == 1
