# SPDX-License-Identifier: Apache-2.0
"""The fixture itself: a real Manila does what its users ask, and can be stopped and started."""

from __future__ import annotations

import pytest
from manilaclient import exceptions

from tests.cloud.cloud import Cloud
from tests.cloud.users import ALT_DEMO, DEMO, DEMO_READER, SYSTEM_ADMIN, USERS

pytestmark = [pytest.mark.full, pytest.mark.acceptance]


def test_a_share_is_a_directory_with_rules(cloud: Cloud) -> None:
    share_id = cloud.create_share(DEMO)
    tree = cloud.tree(share_id)
    assert tree.is_dir()
    cloud.client(DEMO).shares.allow(share_id, "ip", "192.0.2.1", "ro")
    cloud.until(lambda: cloud.in_force(share_id) == {("192.0.2.1", "ro")}, "the rule")
    with pytest.raises(exceptions.NotFound):
        cloud.client(ALT_DEMO).shares.get(share_id)
    with pytest.raises(exceptions.Forbidden):
        cloud.client(DEMO_READER).shares.delete(share_id)
    cloud.client(DEMO).shares.delete(share_id)
    cloud.until(lambda: not tree.exists(), "the share's end")


def test_every_user_gets_a_token(cloud: Cloud) -> None:
    for user in USERS:
        assert cloud.keystone.token(user)
    access = cloud.keystone.auth(SYSTEM_ADMIN).get_access(cloud.keystone.session(SYSTEM_ADMIN))
    assert access.system_scoped
    assert "admin" in access.role_names


@pytest.mark.parametrize("name", ["manila-share", "manila-data", "manila-api", "db"])
def test_a_service_is_stopped_and_started(cloud: Cloud, name: str) -> None:
    with cloud.stopped(name):
        pass
    share_id = cloud.create_share(DEMO)
    cloud.client(DEMO).shares.delete(share_id)
