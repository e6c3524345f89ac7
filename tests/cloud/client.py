# SPDX-License-Identifier: Apache-2.0
"""The unmodified client, with a real Keystone's tokens."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from tests.acceptance.programs import BIN, Ended, run
from tests.cloud.cloud import Cloud
from tests.cloud.users import User


@dataclass(frozen=True, kw_only=True)
class Client:
    """The ``openstack`` client, one process per command. ``endpoint`` None: as the catalog says."""

    cloud: Cloud
    endpoint: str | None
    user: User

    def run(self, command: str, *arguments: str) -> Ended:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        env = {**kept, **self.cloud.keystone.environment(self.user), "PYTHONWARNINGS": "ignore"}
        if self.endpoint is not None:
            env["OS_SHARED_FILE_SYSTEM_ENDPOINT_OVERRIDE"] = self.endpoint
        return run([BIN / "openstack", *command.split(), *arguments], env=env)

    def quiet(self, command: str, *arguments: str) -> None:
        ended = self.run(command, *arguments)
        assert ended.status == 0, ended.err

    def json(self, command: str, *arguments: str) -> Any:
        ended = self.run(command, *arguments, "-f", "json")
        assert ended.status == 0, ended.err
        return ended.json

    def refused(self, command: str, *arguments: str) -> str:
        ended = self.run(command, *arguments)
        assert ended.status != 0, ended.out
        return ended.err
