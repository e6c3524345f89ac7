# SPDX-License-Identifier: Apache-2.0
"""Several API processes and data nodes on one database and, if there is one, one bus: processes of
their own, as an operator runs them, which tests stop, kill and start again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.acceptance.programs import BIN, Ended, run
from tests.acceptance.rest import Rest
from tests.acceptance.waiting import Watched, until
from tests.support.ports import free_port

CONFIG = """\
[DEFAULT]
host = {name}
data_node_address = {address}
share_provider = local
use_bus = {use_bus}
transport_url = {bus}
mount_directory = {root}/{name}/mounts
backup_mount_proto = path
backup_mount_export = {root}/store
{options}

[database]
connection = {database}

[local]
shares_directory = {root}/shares
bind_mounts = false

[api]
auth_strategy = noauth
listen_port = {port}
"""

OPTIONS = {
    "poll_interval_s": 0.5,
    "lease_s": 6,
    "reaper_interval_s": 2,
    "takeover_grace_s": 1,
    "retry_delay_s": 1,
    "max_attempts": 100,
    "copy_processes": 1,
    "copy_threads": 1,
}


@dataclass(kw_only=True)
class Member:
    """A service of the cluster; ``process`` None: it does not run."""

    program: str
    config: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.config.with_name("log")

    def start(self) -> None:
        assert self.process is None
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                [BIN / self.program, "--config-file", self.config],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )

    def processes(self) -> list[int]:
        """It and all that it has started, workers too, which have sessions of their own."""
        assert self.process is not None
        parents = _parents()
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def kill(self) -> None:
        """As when its machine loses power: all of its processes at once."""
        watched = Watched(self.processes())
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert watched.living(deadline_s=30) == []
        self._ended()

    def stop(self) -> None:
        """In order; takes everything with it."""
        assert self.process is not None
        watched = Watched(self.processes())
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(90)
        assert watched.living(deadline_s=30) == []
        assert status == 0, self.log.read_text()
        self._ended()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """It and its processes do nothing meanwhile."""
        pids = self.processes()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def _ended(self) -> None:
        assert self.process is not None
        self.process.wait()
        self.process = None


@dataclass(kw_only=True)
class Cluster:
    root: Path
    database: str
    bus: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    nodes: list[Member] = field(default_factory=list)
    apis: list[Member] = field(default_factory=list)

    def add_node(self, **options: Any) -> Member:
        number = len(self.nodes) + 1
        self.nodes.append(self._member("manila-backup-data", f"node{number}", number, options))
        return self.nodes[-1]

    def add_api(self) -> Member:
        number = len(self.apis) + 1
        self.apis.append(self._member("manila-backup-api", f"api{number}", 100 + number, {}))
        return self.apis[-1]

    def _member(self, program: str, name: str, number: int, options: dict[str, Any]) -> Member:
        port = free_port()
        lines = {**OPTIONS, **self.options, **options}
        (self.root / name).mkdir()
        config = self.root / name / "manila-backup.conf"
        config.write_text(
            CONFIG.format(
                name=name,
                address=f"127.0.1.{number}",
                use_bus=str(self.bus is not None).lower(),
                bus=self.bus or "",
                root=self.root,
                options="\n".join(f"{key} = {value}" for key, value in lines.items()),
                database=self.database,
                port=port,
            )
        )
        return Member(program=program, config=config, port=port)

    def rest(self, api: int = 0) -> Rest:
        return Rest(f"http://127.0.0.1:{self.apis[api].port}/v2")

    def manage(self, command: str, *arguments: str) -> Ended:
        config = (self.apis + self.nodes)[0].config
        return run(
            [BIN / "manila-backup-manage", "--config-file", config, *command.split(), *arguments]
        )

    def until_answering(self) -> None:
        for number in range(len(self.apis)):
            until(lambda: _answers(self.rest(number)), "an answer of the API")  # noqa: B023

    def until_up(self, count: int) -> None:
        """So many nodes have shown signs of life."""

        def up() -> bool:
            listed = self.manage("service list", "--format", "json")
            states = [row["State"] for row in listed.json]
            return states.count("up") == count

        until(up, f"{count} nodes")


@contextmanager
def running(
    root: Path, database: str, bus: str | None = None, *, nodes: int, apis: int = 1, **options: Any
) -> Iterator[Cluster]:
    """The members run and answer; what still runs at the end is stopped in order."""
    for name in ("store", "shares"):
        (root / name).mkdir(mode=0o700, exist_ok=True)
    cluster = Cluster(root=root, database=database, bus=bus, options=options)
    for _ in range(apis):
        cluster.add_api()
    for _ in range(nodes):
        cluster.add_node()
    synced = cluster.manage("db sync")
    assert synced.status == 0, synced.err
    try:
        for member in (*cluster.apis, *cluster.nodes):
            member.start()
        cluster.until_answering()
        cluster.until_up(nodes)
        yield cluster
    except BaseException:
        for member in (*cluster.nodes, *cluster.apis):
            print(f"--- {member.log}", member.log.read_text()[-5000:], sep="\n")
            if member.process is not None:
                member.kill()
        raise
    for member in (*cluster.nodes, *cluster.apis):
        if member.process is not None:
            member.stop()


def _answers(rest: Rest) -> bool:
    try:
        return rest.call("GET", "/share-backups").status == 200
    except OSError:
        return False


def _parents() -> dict[int, int]:
    """Of all processes of the machine."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(") ")[2].split()
                found[int(entry.name)] = int(fields[1])
    return found
