# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests everywhere: one cloud, or one Keystone alone, per run of pytest (with
pytest-xdist: per process)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cloud.cloud import Cloud
from tests.cloud.cloud import cloud as running_cloud
from tests.cloud.keystone import Keystone


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    """Keystone, RabbitMQ, MariaDB and Manila. Tests that stop a service start it again."""
    with running_cloud() as found:
        yield found


@pytest.fixture(scope="session")
def keystone() -> Iterator[Keystone]:
    """Keystone alone, apart from the cloud's: up in a fraction of the time."""
    with Keystone() as found:
        yield found
