# SPDX-License-Identifier: Apache-2.0
"""A service with the shares API per test."""

from __future__ import annotations

import pytest

from tests.api.harness import Api
from tests.api.local.harness import SharesApi


@pytest.fixture
def shares(api: Api) -> SharesApi:
    return SharesApi(api)
