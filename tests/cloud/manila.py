# SPDX-License-Identifier: Apache-2.0
"""The services of a real Manila: API, scheduler, share and data."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.cloud.keystone import Keystone, answers, gunicorn, inside_environment
from tests.cloud.process import NotStarted, Process
from tests.cloud.users import ADMIN, DOMAIN, MANILA, PASSWORD
from tests.cloud.venv import CloudVenv

BACKEND = "directories"
START_S = 300.0

CONFIG = """\
[DEFAULT]
host = cloud
my_ip = 127.0.0.1
state_path = {root}/state
log_dir = {root}/log
api_paste_config = {venv}/etc/manila/api-paste.ini
rootwrap_config = {venv}/etc/manila/rootwrap.conf
auth_strategy = keystone
transport_url = {bus}
default_share_type = default
enabled_share_backends = {backend}
enabled_share_protocols = NFS,CIFS
report_interval = 1
service_down_time = 30
periodic_interval = 10

[quota]
shares = -1
gigabytes = -1
snapshots = -1
snapshot_gigabytes = -1

[database]
connection = {database}

[keystone_authtoken]
www_authenticate_uri = {keystone}
auth_url = {keystone}
auth_type = password
username = {user}
password = {password}
project_name = {project}
user_domain_id = {domain}
project_domain_id = {domain}
service_token_roles = service
service_token_roles_required = true

[oslo_concurrency]
lock_path = {root}/state/lock

[oslo_messaging_notifications]
driver = noop

[oslo_messaging_rabbit]
heartbeat_in_pthread = false

[{backend}]
share_driver = directory_driver.DirectoryDriver
share_backend_name = {backend}
driver_handles_share_servers = False
directory_driver_root = {root}/backend
"""


@dataclass(frozen=True, kw_only=True)
class ManilaSettings:
    """``root`` is an empty directory; ``database`` and ``bus`` as oslo takes them."""

    root: Path
    venv: CloudVenv
    keystone: Keystone
    database: str
    bus: str
    port: int


class Manila:
    """Its services by name: ``manila-api``, ``manila-scheduler``, ``manila-share``,
    ``manila-data``."""

    def __init__(self, settings: ManilaSettings) -> None:
        self._settings = settings
        self._config = settings.root / "manila.conf"
        names = ("manila-scheduler", "manila-share", "manila-data")
        self.services = {name: self._service(name) for name in names}
        self.services["manila-api"] = self._api()

    @property
    def port(self) -> int:
        """Of its API."""
        return self._settings.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._settings.port}/v2"

    @property
    def backend(self) -> Path:
        """Where its share driver keeps shares and rules."""
        return self._settings.root / "backend"

    def _service(self, name: str) -> Process:
        program = self._settings.venv.program(name)
        return self._process(name, [program, "--config-file", self._config])

    def _api(self) -> Process:
        command = gunicorn(self._settings.venv, self._settings.port, "manila_app:application")
        return self._process("manila-api", command)

    def _process(self, name: str, argv: list[str | Path]) -> Process:
        environment = {**inside_environment(), "MANILA_CONFIG": str(self._config)}
        log = self._settings.root / "log" / f"{name}.out"
        return Process(name=name, argv=argv, env=environment, log=log)

    # --- its life ---------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Configuration, directories and tables."""
        for name in ("state", "log", "backend"):
            (self._settings.root / name).mkdir()
        self._config.write_text(
            CONFIG.format(
                root=self._settings.root,
                venv=self._settings.venv.path,
                bus=self._settings.bus,
                database=self._settings.database,
                backend=BACKEND,
                keystone=self._settings.keystone.url,
                user=MANILA.name,
                password=PASSWORD,
                project=MANILA.project,
                domain=DOMAIN,
            )
        )
        done = subprocess.run(
            [
                self._settings.venv.program("manila-manage"),
                f"--config-file={self._config}",
                "db",
                "sync",
            ],
            env=inside_environment(),
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, *names: str) -> None:
        """Returns when they answer or, those that have no port, have reported to the others."""
        since = datetime.now(UTC)
        for name in names:
            self.services[name].start()
        if "manila-api" in names:
            self.services["manila-api"].until(lambda: answers(f"{self.url[:-3]}/healthcheck"))
        self._until_reported(set(names) - {"manila-api"}, since)

    def stop(self) -> None:
        """At once."""
        for service in self.services.values():
            service.kill()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._settings.root)

    def _until_reported(self, names: set[str], since: datetime) -> None:
        if not self.services["manila-api"].running:
            return
        session = self._settings.keystone.session(ADMIN)
        until_s = time.monotonic() + START_S
        while not names <= self._reported(session, since):
            ended = [name for name in names if not self.services[name].running]
            if ended or time.monotonic() > until_s:
                raise NotStarted("\n".join(self.log(name) for name in ended or sorted(names)))
            time.sleep(0.2)

    def _reported(self, session: Any, since: datetime) -> set[str]:
        headers = {"X-OpenStack-Manila-API-Version": "2.60"}
        answer = session.get(f"{self.url}/services", headers=headers, raise_exc=False)
        if answer.status_code != 200:
            return set()
        found = set()
        for row in answer.json()["services"]:
            shown = row["updated_at"]
            if shown and datetime.fromisoformat(shown).replace(tzinfo=UTC) > since:
                found.add(row["binary"])
        return found

    def log(self, name: str) -> str:
        """What the service has said, its end."""
        directory = self._settings.root / "log"
        texts = [directory / f"{name}.out", directory / f"{name}.log"]
        return "\n".join(
            path.read_text(errors="replace")[-8000:] for path in texts if path.exists()
        )
