# SPDX-License-Identifier: Apache-2.0
"""Who uses the cloud."""

from __future__ import annotations

from dataclasses import dataclass

PASSWORD = "secret"  # noqa: S105 - of a Keystone that lives as long as the test
DOMAIN = "default"


@dataclass(frozen=True, kw_only=True)
class User:
    """With ``roles`` in ``project``, or, where that is None, in the whole system."""

    name: str
    project: str | None
    roles: tuple[str, ...]


ADMIN = User(name="admin", project="admin", roles=("admin",))
DEMO = User(name="demo", project="demo", roles=("member",))
DEMO_READER = User(name="demo_reader", project="demo", roles=("reader",))
ALT_DEMO = User(name="alt_demo", project="alt_demo", roles=("member",))
SYSTEM_ADMIN = User(name="system_admin", project=None, roles=("admin",))
SYSTEM_READER = User(name="system_reader", project=None, roles=("reader",))
MANILA = User(name="manila", project="service", roles=("admin", "service"))
SERVICE = User(name="manila_backup", project="service", roles=("admin", "service"))
"""The user of the service under test."""

USERS = (ADMIN, DEMO, DEMO_READER, ALT_DEMO, SYSTEM_ADMIN, SYSTEM_READER, MANILA, SERVICE)
