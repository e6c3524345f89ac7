# SPDX-License-Identifier: Apache-2.0
"""A Manila whose manila-data has our class as its ``backup_driver``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, text

from tests.acceptance.programs import BIN, Ended, run
from tests.acceptance.waiting import until
from tests.cloud.cloud import Cloud, database_url
from tests.cloud.process import Process
from tests.cloud.users import DEMO, User
from tests.cloud.venv import CHECKOUT

ADDRESS = "127.0.0.1"
DATA = "manila-data"

CONFIG = """\
[DEFAULT]
backup_driver = manila_backup.adapter.driver.ManilaBackupDriver
data_node_access_ips = {address}
data_access_wait_access_rules_timeout = 15
backup_continue_update_interval = 1
restore_continue_update_interval = 1
periodic_interval = 1
periodic_fuzzy_delay = 0

[manila_backup]
backup_mount_export = {root}/store
backup_mount_proto = bind
share_mount_proto = bind
work_directory = {root}/work
state_directory = {root}/state
root_helper = {rootwrap} {root}/rootwrap.conf
"""

ROOTWRAP = """\
[DEFAULT]
filters_path = {filters}
exec_dirs = {root}/bin
"""


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """``root`` has the store, the adapter's directories and its configuration."""

    cloud: Cloud
    root: Path

    @property
    def process(self) -> Process:
        return self.cloud.manila.services[DATA]

    @property
    def store(self) -> Path:
        return self.root / "store"

    def openstack(self, user: User, *arguments: str) -> Ended:
        """The client, straight to Manila's own API."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        env = {**kept, **self.cloud.keystone.environment(user), "PYTHONWARNINGS": "ignore"}
        return run([BIN / "openstack", *arguments], env=env)

    def backup(self, *arguments: str, user: User = DEMO) -> None:
        """``openstack share backup ...``, which must be accepted."""
        ended = self.openstack(user, "share", "backup", *arguments)
        assert ended.status == 0, ended.err

    def create(self, share_id: str, user: User = DEMO) -> str:
        """The id of a new backup; it is not made yet."""
        command = ("share", "backup", "create", share_id, "-f", "value", "-c", "id")
        ended = self.openstack(user, *command)
        assert ended.status == 0, ended.err
        return ended.out.strip()

    def created(self, share_id: str, user: User = DEMO) -> str:
        """The id of a new backup, available."""
        backup_id = self.create(share_id, user)
        self.until_backup(backup_id, "available")
        return backup_id

    def row(self, backup_id: str) -> dict[str, Any]:
        """A backup as Manila's database has it: status, progress, fail_reason, ..."""
        query = text("SELECT * FROM share_backups WHERE id = :id")
        with self._connected() as connection:
            return dict(connection.execute(query, {"id": backup_id}).mappings().one())

    def update(self, table: str, row_id: str, **values: str) -> None:
        """Manila's row, past Manila."""
        changes = ", ".join(f"{name} = :{name}" for name in values)
        query = text(f"UPDATE {table} SET {changes} WHERE id = :row_id")  # noqa: S608
        with self._connected() as connection:
            connection.execute(query, {"row_id": row_id, **values})
            connection.commit()

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        engine = create_engine(database_url(self.cloud.mariadb, "manila"))
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()

    def until_backup(self, backup_id: str, status: str) -> None:
        """And its share is not busy with it."""
        until(lambda: self.row(backup_id)["status"] == status, f"{backup_id} {status}")

    def log(self) -> str:
        """All that manila-data has said."""
        return (self.cloud.manila.backend.parent / "log" / "manila-data.log").read_text()

    def worker(self) -> int | None:
        """The process group of a worker that has its task, if there is one."""
        for record in (self.root / "work" / "workers").glob("*"):
            with suppress(OSError, ValueError):
                return int(json.loads(record.read_text())["pid"])
        return None

    def runners(self) -> list[int]:
        """The processes that work as root for manila-data, rootwrap's included."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes().split(b"\0")
                ours = str(self.root).encode() in b" ".join(command)
                if ours and any(word.endswith(b"manila-backup-adapter") for word in command):
                    found.append(int(entry.name))
        return found

    def left(self) -> list[str]:
        """What of any operation is still there, but for rows that wait to be seen settled."""
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        found = [line for line in mounts if str(self.root) in line]
        for name in ("work/mounts", "work/workers"):
            if (self.root / name).exists():
                found += [str(path) for path in (self.root / name).iterdir()]
        return found

    def stored(self) -> list[str]:
        """Directories of backups in the store."""
        return [path.name for path in self.store.glob("*/*")]

    def kill(self, *, with_runners: bool = False) -> None:
        """manila-data and the process it has forked, at once, as the kernel's OOM killer does;
        ``with_runners``: also what works as root for it, as the end of a container does.
        """
        if with_runners:
            for pid in self.runners():
                os.kill(pid, signal.SIGKILL)
        self.process.kill()

    def start(self, **environment: str) -> None:
        """With more variables in its environment than it has otherwise."""
        process, env = self.process, self.process.env
        process.env = {**env, **environment}
        try:
            self.cloud.start(DATA)
        finally:
            process.env = env


@contextmanager
def adapted(cloud: Cloud) -> Iterator[Adapted]:
    """manila-data is what it was before, at the end."""
    root = Path(tempfile.mkdtemp(prefix="adapter-"))
    process = cloud.manila.services[DATA]
    argv, env = process.argv, process.env
    try:
        found = Adapted(cloud=cloud, root=root)
        config = _configure(found)
        cloud.stop(DATA)
        process.argv = [*argv, "--config-file", config]
        process.env = {**env, "PYTHONPATH": os.pathsep.join((env["PYTHONPATH"], str(CHECKOUT)))}
        cloud.start(DATA)
        yield found
    finally:
        cloud.stop(DATA)
        process.argv, process.env = argv, env
        cloud.start(DATA)
        _remove(root)


def _configure(found: Adapted) -> Path:
    root = found.root
    for name in ("store", "bin"):
        (root / name).mkdir()
    venv = found.cloud.venv
    program = root / "bin" / "manila-backup-adapter"
    program.write_text(
        f"#!{venv.program('python')} -P\n"
        "import sys\n"
        "from manila_backup.adapter.runner import main\n"
        "sys.exit(main())\n"
    )
    program.chmod(0o755)
    filters = CHECKOUT / "etc" / "rootwrap.d"
    (root / "rootwrap.conf").write_text(ROOTWRAP.format(filters=filters, root=root))
    config = root / "manila.conf"
    rootwrap = venv.program("manila-rootwrap")
    config.write_text(CONFIG.format(address=ADDRESS, root=root, rootwrap=rootwrap))
    return config


def _remove(root: Path) -> None:
    """Also what a test that failed has left mounted."""
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        point = line.split(" ")[1]
        if point.startswith(f"{root}/"):
            with suppress(subprocess.CalledProcessError):
                subprocess.run(["umount", "--lazy", point], check=True, stdout=sys.stderr)
    shutil.rmtree(root)
