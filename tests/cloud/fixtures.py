# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests everywhere: one cloud, and one Keystone alone. A pytest plugin."""

from __future__ import annotations

import pytest

from tests.cloud.cloud import Cloud
from tests.cloud.cloud import cloud as running_cloud
from tests.cloud.keystone import Keystone
from tests.support.running import Running
from tests.support.schedule import CLOUD


@pytest.fixture(scope="module")
def cloud(running: Running) -> Cloud:
    """Keystone, RabbitMQ, MariaDB and Manila. Tests that stop a service start it again."""
    found: Cloud = running.get("cloud", running_cloud, CLOUD)
    return found


@pytest.fixture(scope="module")
def keystone(running: Running) -> Keystone:
    """Keystone alone, apart from the cloud's: up in a fraction of the time."""
    found: Keystone = running.get("keystone", Keystone)
    return found
