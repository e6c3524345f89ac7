# SPDX-License-Identifier: Apache-2.0
"""A host that devstack runs on, as far as our plugin can see it: a real Keystone and MariaDB,
the programs of this checkout, and directories of its own where /etc/exports.d and /var/lib/nfs are
(the machine's own stay as they are)."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from tests.acceptance.programs import BIN, run
from tests.cloud.keystone import REGION, Keystone
from tests.cloud.users import ADMIN, DEMO, PASSWORD, User
from tests.support.databases import MariaDb
from tests.support.ports import free_port

CHECKOUT = Path(__file__).resolve().parents[2]
HARNESS = Path(__file__).with_name("harness.sh")
CLOUD = "devstack-system-admin"
DEADLINE_S = 300

# The exports of the machine are hidden and none of ours is seen by it.
NAMESPACE = """\
set -e
mkdir -p /etc/exports.d
mount --bind "$HARNESS/exports.d" /etc/exports.d
mount --bind "$HARNESS/nfs" /var/lib/nfs
exec bash "$@"
"""


@dataclass(frozen=True)
class Killed(Exception):
    """The harness died of the fault that was asked for."""


@dataclass(kw_only=True)
class Devstack:
    """One at a time: exportfs has one table. ``with`` ends what still runs."""

    directory: Path
    keystone: Keystone
    database: MariaDb
    provider: str
    settings: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("exports.d", "nfs", "data"):
            (self.directory / name).mkdir()
        # JSON is YAML.
        clouds = {"clouds": {CLOUD: self._cloud(ADMIN)}}
        (self.directory / "clouds.yaml").write_text(json.dumps(clouds))

    def _cloud(self, user: User) -> dict[str, object]:
        auth = {
            "auth_url": self.keystone.url,
            "username": user.name,
            "password": PASSWORD,
            "user_domain_id": "default",
            "system_scope": "all",
        }
        return {"auth": auth, "region_name": REGION}

    # --- what local.conf and devstack say ---------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v2"

    @property
    def config(self) -> Path:
        return self.directory / "etc" / "manila-backup.conf"

    @property
    def export(self) -> Path:
        return self.directory / "data" / "manila-backup" / "export"

    def _environment(self) -> dict[str, str]:
        server = make_url(self.database.url)
        return {
            "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "PYTHONWARNINGS": "ignore",
            "HOME": str(self.directory),
            "OS_CLIENT_CONFIG_FILE": str(self.directory / "clouds.yaml"),
            "HARNESS": str(self.directory),
            "HARNESS_BIN": str(BIN),
            "HARNESS_DATABASE_PORT": str(server.port),
            "STACK_USER": "root",
            "DEST": str(self.directory / "dest"),
            "DATA_DIR": str(self.directory / "data"),
            "ENABLED_SERVICES": "key,mysql",
            "DATABASE_TYPE": "mysql",
            "DATABASE_USER": server.username or "",
            "DATABASE_PASSWORD": server.password or "",
            "DATABASE_HOST": server.host or "",
            "MYSQL_HOST": server.host or "",
            "KEYSTONE_SERVICE_URI": self.keystone.url,
            "SERVICE_PASSWORD": PASSWORD,
            "SERVICE_DOMAIN_NAME": "Default",
            "SERVICE_PROJECT_NAME": "service",
            "SERVICE_HOST": "127.0.0.1",
            "SERVICE_TIMEOUT": "60",
            "REGION_NAME": REGION,
            "HOST_IP": "127.0.0.1",
            "MANILA_BACKUP_DIR": str(CHECKOUT),
            "MANILA_BACKUP_DATABASE": "backup_of_devstack",
            "MANILA_BACKUP_CONF_DIR": str(self.directory / "etc"),
            "MANILA_BACKUP_LISTEN_ADDRESS": "127.0.0.1",
            "MANILA_BACKUP_PORT": str(self.port),
            "MANILA_BACKUP_SHARE_PROVIDER": self.provider,
            **self.settings,
        }

    # --- stack.sh, unstack.sh, clean.sh -----------------------------------------------------------

    def stack(self, *, fault: str = "") -> str:
        """What it said. :raises Killed: by ``fault``, "before N" or "after N"."""
        return self._run("stack", fault)

    def unstack(self) -> str:
        return self._run("unstack")

    def clean(self) -> str:
        return self._run("clean")

    def _run(self, what: str, fault: str = "") -> str:
        (self.directory / "sets").unlink(missing_ok=True)
        said = self.directory / f"{what}.out"
        argv = ["unshare", "--mount", "--", "bash", "-c", NAMESPACE, "namespace", HARNESS, what]
        with said.open("wb") as sink:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={**self._environment(), "HARNESS_FAULT": fault},
                cwd="/",
            )
        until_s = time.monotonic() + DEADLINE_S
        try:
            while process.poll() is None:
                assert time.monotonic() < until_s, said.read_text()
                self._serve()
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
        if fault and process.returncode == -9:
            raise Killed
        assert process.returncode == 0, said.read_text()
        return said.read_text()

    # --- what systemd does there ------------------------------------------------------------------

    def _serve(self) -> None:
        for asked in self.directory.glob("start.*"):
            if asked.suffix != ".new":
                command, group, user = asked.read_text().splitlines()
                self._start(asked.name.removeprefix("start."), command, user or "root")
                assert group in ("", "root")
                asked.unlink()
        for asked in self.directory.glob("stop.*"):
            if asked.suffix != ".new":
                self._stop(asked.name.removeprefix("stop."))
                asked.unlink()

    def _start(self, name: str, command: str, user: str) -> None:
        """A service that runs is left as it is."""
        if name in self.running:
            return
        with (self.directory / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                shlex.split(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
            )
        self.users[name] = user

    def _stop(self, name: str) -> None:
        process = self.running.pop(name, None)
        if process is not None:
            process.terminate()
            try:
                # -SIGTERM: when it had hardly begun.
                assert process.wait(90) in (0, -signal.SIGTERM), self.log(name)
            finally:
                process.kill()
                process.wait()

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        for name in list(self.running):
            self._stop(name)

    # --- what there is ----------------------------------------------------------------------------

    def _identity(self, path: str) -> Any:
        return self.keystone.session(ADMIN).get(self.keystone.url + path).json()

    def catalog(self) -> dict[tuple[str, str], str]:
        """(service type, interface): URL, Keystone's own left out."""
        types = {row["id"]: row["type"] for row in self._identity("/services")["services"]}
        return {
            (types[row["service_id"]], row["interface"]): row["url"]
            for row in self._identity("/endpoints")["endpoints"]
            if types[row["service_id"]] != "identity"
        }

    def has_user(self, name: str) -> bool:
        return bool(self._identity(f"/users?name={name}")["users"])

    def roles(self, user: str, project: str) -> set[str]:
        (found,) = self._identity(f"/users?name={user}")["users"]
        where = f"user.id={found['id']}&scope.project.id={self.keystone.project_id(project)}"
        assigned = self._identity(f"/role_assignments?{where}&include_names")["role_assignments"]
        return {row["role"]["name"] for row in assigned}

    def exported(self) -> list[str]:
        """Lines of the table that exportfs has made, of directories below this one."""
        table = self.directory / "nfs" / "etab"
        lines = table.read_text().splitlines() if table.exists() else []
        return [line for line in lines if line.startswith(str(self.directory))]

    def databases(self) -> set[str]:
        client = ["mariadb", "-uroot", "-h127.0.0.1", f"-P{make_url(self.database.url).port}"]
        return set(run([*client, "-NBe", "SHOW DATABASES"]).out.split())

    def token(self, user: User = DEMO) -> str:
        return self.keystone.token(user)


@contextlib.contextmanager
def host(
    directory: Path, keystone: Keystone, database: MariaDb, provider: str, **settings: str
) -> Iterator[Devstack]:
    """Nothing of it runs at the end; the user and the service of ours are gone."""
    found = Devstack(
        directory=directory,
        keystone=keystone,
        database=database,
        provider=provider,
        settings=settings,
    )
    try:
        yield found
    except BaseException:
        for log in directory.glob("*.log"):
            print(f"--- {log}", log.read_text(errors="replace")[-4000:], sep="\n")
        raise
    finally:
        found.close()
