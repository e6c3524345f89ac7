# SPDX-License-Identifier: Apache-2.0
"""A real Keystone on a free port of the loopback interface, with SQLite, under gunicorn."""

from __future__ import annotations

import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from tests.cloud.process import Process
from tests.cloud.users import ADMIN, DOMAIN, PASSWORD, USERS, User
from tests.cloud.venv import CloudVenv, cloud_venv
from tests.support.ports import free_port
from tests.support.servers import Server

REGION = "RegionOne"
INSIDE = Path(__file__).with_name("inside")

CONFIG = """\
[DEFAULT]
log_file = {directory}/keystone.log

[database]
connection = sqlite:///{directory}/keystone.sqlite

[identity]
# The least: a password is checked for each token, and the real cost is a third of a second.
password_hash_rounds = 4

[token]
provider = fernet
expiration = {token_s}

[fernet_tokens]
key_repository = {directory}/fernet-keys

[credential]
key_repository = {directory}/credential-keys

[cache]
# Without one each validation of a token is 450 queries, a second of a processor. One process
# serves, so its own memory is always right.
enabled = true
backend = dogpile.cache.memory
"""


class Keystone(Server):
    """A context manager; :data:`~tests.cloud.users.USERS` are there with their roles.

    :param token_s: how long tokens are valid.
    """

    def __init__(self, venv: CloudVenv | None = None, *, token_s: int = 86400) -> None:
        super().__init__()
        self._venv = cloud_venv() if venv is None else venv
        self._token_s = token_s
        self.port = free_port()
        self._roles: dict[str, str] = {}
        self._projects: dict[str, str] = {}
        self._users: dict[str, str] = {}
        self._process = Process(
            name="keystone",
            argv=gunicorn(self._venv, self.port, "keystone_app:application"),
            env=self._environment(),
            log=self._directory / "log",
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v3"

    # --- a server's life --------------------------------------------------------------------------

    def _set_up(self) -> None:
        config = CONFIG.format(directory=self._directory, token_s=self._token_s)
        (self._directory / "keystone.conf").write_text(config)
        keys = ["--keystone-user", str(os.geteuid()), "--keystone-group", str(os.getegid())]
        self._manage("db_sync")
        self._manage("fernet_setup", *keys)
        self._manage("credential_setup", *keys)
        self._bootstrap()
        self.start()
        self._populate()

    def start(self) -> None:
        """Also again, after :meth:`stop`; returns when it answers."""
        self._process.start()
        self._process.until(lambda: answers(self.url))

    def stop(self) -> None:
        self._process.kill()

    def _bootstrap(self) -> None:
        urls = [f"--bootstrap-{kind}-url={self.url}" for kind in ("admin", "internal", "public")]
        region = f"--bootstrap-region-id={REGION}"
        self._manage("bootstrap", f"--bootstrap-password={PASSWORD}", region, *urls)

    def _manage(self, *arguments: str) -> None:
        config = f"--config-file={self._directory / 'keystone.conf'}"
        done = subprocess.run(
            [self._venv.program("keystone-manage"), config, *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _environment(self) -> dict[str, str]:
        return {
            **inside_environment(),
            "OS_KEYSTONE_CONFIG_FILES": str(self._directory / "keystone.conf"),
        }

    # --- what is in it ----------------------------------------------------------------------------

    def _populate(self) -> None:
        for entry in self._get("/roles")["roles"]:
            self._roles[entry["name"]] = entry["id"]
        for entry in self._get("/projects")["projects"]:
            self._projects[entry["name"]] = entry["id"]
        for entry in self._get("/users")["users"]:
            self._users[entry["name"]] = entry["id"]
        for user in USERS:
            if user != ADMIN:
                self.add_user(user)

    def add_user(self, user: User) -> None:
        """With password, project and roles; what is missing of them is made."""
        body = {"user": {"name": user.name, "password": PASSWORD, "domain_id": DOMAIN}}
        user_id = self._users[user.name] = self._post("/users", body)["user"]["id"]
        where = "/system"
        if user.project is not None:
            where = f"/projects/{self.add_project(user.project)}"
        for role in user.roles:
            self._session().put(f"{self.url}{where}/users/{user_id}/roles/{self.add_role(role)}")

    def add_project(self, name: str) -> str:
        """Its id; also when it is there."""
        if name not in self._projects:
            body = {"project": {"name": name, "domain_id": DOMAIN}}
            self._projects[name] = self._post("/projects", body)["project"]["id"]
        return self._projects[name]

    def add_role(self, name: str) -> str:
        """Its id; also when it is there."""
        if name not in self._roles:
            self._roles[name] = self._post("/roles", {"role": {"name": name}})["role"]["id"]
        return self._roles[name]

    def add_endpoint(
        self,
        name: str,
        kind: str,
        url: str,
        interfaces: Sequence[str] = ("public", "internal", "admin"),
    ) -> None:
        """An entry of the catalog, the same URL for each interface."""
        service = self._post("/services", {"service": {"name": name, "type": kind}})["service"]
        for interface in interfaces:
            endpoint = {"service_id": service["id"], "interface": interface, "url": url}
            self._post("/endpoints", {"endpoint": {**endpoint, "region_id": REGION}})

    @contextmanager
    def moved(self, kind: str, url: str) -> Iterator[None]:
        """The catalog's entry of this type leads elsewhere meanwhile."""
        (service,) = self._get(f"/services?type={kind}")["services"]
        endpoints = self._get(f"/endpoints?service_id={service['id']}")["endpoints"]
        try:
            for endpoint in endpoints:
                self._move(endpoint["id"], url)
            yield
        finally:
            for endpoint in endpoints:
                self._move(endpoint["id"], endpoint["url"])

    def _move(self, endpoint_id: str, url: str) -> None:
        body = {"endpoint": {"url": url}}
        self._session().patch(f"{self.url}/endpoints/{endpoint_id}", json=body)

    def _get(self, path: str) -> dict:
        return dict(self._session().get(self.url + path).json())

    def _post(self, path: str, body: dict) -> dict:
        return dict(self._session().post(self.url + path, json=body).json())

    # --- for its users ----------------------------------------------------------------------------

    def _session(self) -> Session:
        return self.session(ADMIN)

    def auth(self, user: User) -> v3.Password:
        scope = {"system_scope": "all"}
        if user.project is not None:
            scope = {"project_name": user.project, "project_domain_id": DOMAIN}
        return v3.Password(
            self.url, username=user.name, password=PASSWORD, user_domain_id=DOMAIN, **scope
        )

    def session(self, user: User) -> Session:
        """A new one, which asks for its token when it needs one."""
        return Session(self.auth(user), timeout=60)

    def token(self, user: User) -> str:
        """A new one."""
        found = self.session(user).get_token()
        assert found is not None
        return found

    def user_id(self, user: User) -> str:
        return self._users[user.name]

    def project_id(self, name: str | None) -> str:
        assert name is not None
        return self._projects[name]

    def environment(self, user: User) -> dict[str, str]:
        """For the ``openstack`` client, beside what else it needs."""
        scope = {"OS_SYSTEM_SCOPE": "all"}
        if user.project is not None:
            scope = {"OS_PROJECT_NAME": user.project, "OS_PROJECT_DOMAIN_ID": DOMAIN}
        return {
            "OS_AUTH_TYPE": "password",
            "OS_AUTH_URL": self.url,
            "OS_USERNAME": user.name,
            "OS_PASSWORD": PASSWORD,
            "OS_USER_DOMAIN_ID": DOMAIN,
            "OS_REGION_NAME": REGION,
            **scope,
        }


def inside_environment() -> dict[str, str]:
    """For processes in the cloud's virtual environment."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(INSIDE),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
    }


def gunicorn(venv: CloudVenv, port: int, application: str) -> list[str | Path]:
    """Kept connections outlive a client's pause: otherwise a request meets one just closed."""
    return [
        venv.program("gunicorn"),
        f"--bind=127.0.0.1:{port}",
        "--workers=1",
        "--threads=8",
        "--keep-alive=75",
        "--timeout=120",
        "--graceful-timeout=5",
        "--no-control-socket",
        application,
    ]


def answers(url: str) -> bool:
    """There is one that speaks HTTP, and no server error."""
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - of a server of ours
            return True
    except urllib.error.HTTPError as exc:
        return exc.code < 500
    except OSError:
        return False
