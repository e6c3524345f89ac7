# SPDX-License-Identifier: Apache-2.0
"""Our service beside the real Manila: an API and data nodes in processes of their own, with
Keystone's tokens, Manila's shares and the cloud's bus and database server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from tests.acceptance.cluster import Member
from tests.acceptance.programs import BIN, run
from tests.acceptance.rest import Rest
from tests.acceptance.waiting import until
from tests.cloud.cloud import Cloud
from tests.cloud.users import DOMAIN, PASSWORD, SERVICE, User
from tests.support.ports import free_port

PLUGIN = Path(__file__).with_name("plugin")

CONFIG = """\
[DEFAULT]
host = {name}
data_node_address = {address}
share_provider = manila_bind
use_bus = true
transport_url = {bus}
mount_directory = {root}/{name}/mounts
poll_interval_s = 0.5
lease_s = 10
reaper_interval_s = 2
retry_delay_s = 1
copy_processes = 1
copy_threads = 1
{options}

[database]
connection = {database}

[manila]
{identity}
endpoint_override = {manila}

[keystone_authtoken]
{identity}
www_authenticate_uri = {keystone}
service_token_roles = service
service_token_roles_required = true

[api]
auth_strategy = keystone
listen_port = {port}
"""

IDENTITY = """\
auth_type = password
auth_url = {keystone}
username = {user}
password = {password}
project_name = {project}
user_domain_id = {domain}
project_domain_id = {domain}
"""

NODE_ADDRESS = "192.0.2.10"


@dataclass(kw_only=True)
class Beside:
    cloud: Cloud
    root: Path
    api: Member
    nodes: list[Member] = field(default_factory=list)

    def rest(self, user: User) -> Rest:
        """With a new token of the user's."""
        token = self.cloud.keystone.token(user)
        return Rest(f"http://127.0.0.1:{self.api.port}/v2", token)

    def members(self) -> list[Member]:
        return [*self.nodes, self.api]


@contextmanager
def beside(
    cloud: Cloud, root: Path, database: str, *, sections: str = "", **options: Any
) -> Iterator[Beside]:
    """One API and one data node.

    :param database: the name of one that is made on the cloud's server, or the URL of one.
    :param sections: further ones of the configuration files.
    :param options: of the group DEFAULT; the backup share is a directory unless they say
        ``backup_share_id``.
    """
    if "backup_share_id" not in options:
        store = root / "store"
        store.mkdir(mode=0o700)
        options |= {"backup_mount_proto": "path", "backup_mount_export": store}
    url = database if "://" in database else cloud.create_database(database)
    written: dict[str, Any] = {"database": url, "options": options, "sections": sections}
    config = _written(cloud, root, "api1", **written)
    synced = run([BIN / "manila-backup-manage", "--config-file", config, "db", "sync"])
    assert synced.status == 0, synced.err
    api = Member(program="manila-backup-api", config=config, port=_port(config))
    config = _written(cloud, root, "node1", **written)
    node = Member(program="manila-backup-data", config=config, port=0)
    found = Beside(cloud=cloud, root=root, api=api, nodes=[node])
    path = os.pathsep.join(filter(None, (str(PLUGIN), os.environ.get("PYTHONPATH"))))
    try:
        with mock.patch.dict(os.environ, PYTHONPATH=path):
            for member in found.members():
                member.start()
        until(lambda: _answers(found), "an answer of the API", every_s=0.3)
        yield found
    except BaseException:
        for member in found.members():
            print(f"--- {member.log}", member.log.read_text()[-8000:], sep="\n")
            if member.process is not None:
                member.kill()
        raise
    for member in found.members():
        if member.process is not None:
            member.stop()


def _written(
    cloud: Cloud,
    root: Path,
    name: str,
    *,
    database: str,
    options: dict[str, Any],
    sections: str,
) -> Path:
    (root / name).mkdir()
    identity = IDENTITY.format(
        keystone=cloud.keystone.url,
        user=SERVICE.name,
        password=PASSWORD,
        project=SERVICE.project,
        domain=DOMAIN,
    )
    config = root / name / "manila-backup.conf"
    config.write_text(
        CONFIG.format(
            name=name,
            address=NODE_ADDRESS,
            bus=cloud.bus.url,
            root=root,
            options="\n".join(f"{key} = {value}" for key, value in options.items()),
            database=database,
            manila=cloud.manila.url,
            keystone=cloud.keystone.url,
            identity=identity,
            port=free_port(),
        )
        + sections
    )
    return config


def _port(config: Path) -> int:
    (line,) = [line for line in config.read_text().splitlines() if line.startswith("listen_port")]
    return int(line.rpartition("=")[2])


def _answers(found: Beside) -> bool:
    try:
        return Rest(f"http://127.0.0.1:{found.api.port}").call("GET", "/").status in {200, 300}
    except OSError:
        return False
