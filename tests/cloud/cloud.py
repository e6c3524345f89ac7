# SPDX-License-Identifier: Apache-2.0
"""A real cloud of shares on this machine: Keystone, RabbitMQ, MariaDB and Manila."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manilaclient import client as manilaclient
from manilaclient.v2.client import Client

from tests.acceptance.waiting import until
from tests.cloud.keystone import Keystone
from tests.cloud.manila import BACKEND, Manila, ManilaSettings
from tests.cloud.users import ADMIN, User
from tests.cloud.venv import CloudVenv, cloud_venv
from tests.support.databases import MariaDb
from tests.support.ports import free_port
from tests.support.rabbitmq import RabbitMq

CLIENT_VERSION = "2.88"
LOOK_EVERY_S = 0.3
SHARE_TYPE_SPECS = {
    "share_backend_name": BACKEND,
    "snapshot_support": "True",
    "create_share_from_snapshot_support": "True",
    "revert_to_snapshot_support": "True",
    "mount_snapshot_support": "True",
}


@dataclass(kw_only=True)
class Cloud:
    """To be had from :func:`cloud`. Everything listens on 127.0.0.1 only."""

    venv: CloudVenv
    keystone: Keystone
    manila: Manila
    mariadb: MariaDb
    bus: RabbitMq
    _clients: dict[User, Client] = field(default_factory=dict)

    # --- its services -----------------------------------------------------------------------------

    def stop(self, name: str) -> None:
        """``keystone``, ``db``, ``bus``, or one of Manila's services; in order."""
        self._stoppable(name).stop()

    def start(self, name: str) -> None:
        """Again; returns when it answers."""
        if name in self.manila.services:
            self.manila.start(name)
        else:
            self._stoppable(name).start()

    @contextmanager
    def stopped(self, *names: str) -> Iterator[None]:
        """Stopped meanwhile; runs again afterwards."""
        for name in names:
            self.stop(name)
        try:
            yield
        finally:
            for name in reversed(names):
                self.start(name)

    def _stoppable(self, name: str) -> Any:
        others = {"keystone": self.keystone, "db": self.mariadb, "bus": self.bus}
        return others.get(name) or self.manila.services[name]

    def create_database(self, name: str) -> str:
        """An empty one beside Manila's, also if it was there; its SQLAlchemy URL."""
        self.mariadb.execute(f"CREATE OR REPLACE DATABASE {name} CHARACTER SET utf8mb4")
        return database_url(self.mariadb, name)

    # --- its users --------------------------------------------------------------------------------

    def client(self, user: User) -> Client:
        """python-manilaclient, straight to Manila."""
        if user not in self._clients:
            self._clients[user] = manilaclient.Client(
                CLIENT_VERSION,
                session=self.keystone.session(user),
                service_catalog_url=self.manila.url,
            )
        return self._clients[user]

    # --- shares -----------------------------------------------------------------------------------

    def create_share(self, user: User, **values: Any) -> str:
        """An available one of the user's project; its id."""
        asked = {"share_proto": "NFS", "size": 1, "share_type": "default", **values}
        share_id = str(self.client(user).shares.create(**asked).id)
        self.until_share(share_id, "available")
        return share_id

    def until_share(self, share_id: str, status: str) -> None:
        self.until(lambda: self.share(share_id).status in {status, "error"}, f"{share_id} {status}")
        assert self.share(share_id).status == status

    @staticmethod
    def until(look: Callable[[], object], what: str) -> None:
        """Not as often as where looking costs nothing."""
        until(lambda: bool(look()), what, every_s=LOOK_EVERY_S, deadline_s=300)

    def share(self, share_id: str) -> Any:
        """As an administrator sees it."""
        return self.client(ADMIN).shares.get(share_id)

    def tree(self, share_id: str) -> Path:
        """The directory with the share's content."""
        locations = self.client(ADMIN).share_export_locations.list(share_id)
        return Path(locations[0].path.partition(":")[2])

    def in_force(self, share_id: str) -> set[tuple[str, str]]:
        """The rules as the share driver has them: (address, level)."""
        try:
            written = (self.manila.backend / "access" / share_id).read_text()
        except FileNotFoundError:
            return set()
        return {(to, level) for _, to, level in json.loads(written)}


@contextmanager
def cloud() -> Iterator[Cloud]:
    """A running one; about a minute to start, and minutes before where the virtual environment
    must be made first. Nothing is left at the end."""
    venv = cloud_venv()
    with ExitStack() as stack:
        found = _unstarted(venv)
        stack.callback(found.manila.close)
        _in_parallel(
            lambda: _tables(stack.enter_context(found.mariadb), found.manila),
            lambda: stack.enter_context(found.bus),
            lambda: stack.enter_context(found.keystone),
        )
        for kind in ("sharev2", "shared-file-system"):
            found.keystone.add_endpoint(f"manila-{kind}", kind, found.manila.url)
        # Before the servers that it uses.
        stack.callback(found.manila.stop)
        found.manila.start(*found.manila.services)
        found.client(ADMIN).share_types.create(
            "default", spec_driver_handles_share_servers=False, extra_specs=dict(SHARE_TYPE_SPECS)
        )
        yield found


def _unstarted(venv: CloudVenv) -> Cloud:
    mariadb, bus, keystone = MariaDb(), RabbitMq(), Keystone(venv)
    settings = ManilaSettings(
        root=Path(tempfile.mkdtemp(prefix="manila-")),
        venv=venv,
        keystone=keystone,
        database=database_url(mariadb, "manila"),
        bus=bus.url,
        port=free_port(),
    )
    return Cloud(venv=venv, keystone=keystone, manila=Manila(settings), mariadb=mariadb, bus=bus)


def _tables(mariadb: MariaDb, manila: Manila) -> None:
    mariadb.execute("CREATE DATABASE manila CHARACTER SET utf8mb3")
    manila.prepare()


def _in_parallel(*starts: Callable[[], object]) -> None:
    """All have ended when it returns; the first error is raised."""
    with ThreadPoolExecutor(len(starts)) as pool:
        futures = [pool.submit(start) for start in starts]
    for future in futures:
        future.result()


def database_url(mariadb: MariaDb, name: str) -> str:
    return f"mysql+pymysql://root@127.0.0.1:{mariadb.port}/{name}?charset=utf8mb4"
