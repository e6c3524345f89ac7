# SPDX-License-Identifier: Apache-2.0
"""One service per module, and who talks to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.programs import OpenStack
from tests.acceptance.rest import Rest
from tests.acceptance.standalone import Standalone, running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    """Without limits on backups: tests of a module share it and leave theirs behind."""
    with running(tmp_path_factory.mktemp("service") / "state") as found:
        found.rest().set_quota(backups=-1, backup_gigabytes=-1)
        yield found


@pytest.fixture
def client(service: Standalone) -> OpenStack:
    return service.client()


@pytest.fixture
def rest(service: Standalone) -> Rest:
    return service.rest()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Where a state directory may be made."""
    return tmp_path / "state"
