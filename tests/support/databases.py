# SPDX-License-Identifier: Apache-2.0
"""Real database servers for tests: MariaDB and PostgreSQL from Debian's packages, each in a
temporary directory, on a free port of the loopback interface, ended by pid.

They do not wait for the disk: a test that is about durability starts one of its own.
"""

from __future__ import annotations

import abc
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tests.support.children import LASTING
from tests.support.ports import free_port
from tests.support.servers import MissingServer, Server

START_S = 60
STOP_S = 30
NAME = "manila_backup"


class DatabaseServer(Server):
    """A context manager; ``url`` leads to an empty database in it, with SQLAlchemy."""

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abc.abstractmethod
    def url(self) -> str: ...

    def _set_up(self) -> None:
        self._prepare()
        self.start()
        self._create()

    # --- a server's life --------------------------------------------------------------------------

    def start(self) -> None:
        """Also again, after :meth:`stop`; answers when it answers."""
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        LASTING.add(self._process.pid)
        until_s = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError((self._directory / "log").read_text(errors="replace"))
            time.sleep(0.05)

    def stop(self) -> None:
        """In order: what was committed is there after the next start."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(self._stop_signal)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        LASTING.discard(process.pid)

    _stop_signal = signal.SIGTERM

    def _answers(self) -> bool:
        engine = create_engine(self._maintenance_url)
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except OperationalError:
            return False
        finally:
            engine.dispose()
        return True

    def execute(self, *statements: str) -> None:
        """As the administrator, each committed by itself."""
        engine = create_engine(self._maintenance_url, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                for statement in statements:
                    connection.execute(text(statement))
        finally:
            engine.dispose()

    # --- what they differ in ----------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def _maintenance_url(self) -> str: ...

    @abc.abstractmethod
    def _prepare(self) -> None: ...

    @abc.abstractmethod
    def _command(self) -> Sequence[str | Path]: ...

    @abc.abstractmethod
    def _create(self) -> None: ...


class MariaDb(DatabaseServer):
    """As it comes: what the service needs to be otherwise it asks for itself."""

    @property
    def url(self) -> str:
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{NAME}?charset=utf8mb4"

    @property
    def _maintenance_url(self) -> str:
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/mysql"

    def _prepare(self) -> None:
        _run(
            [
                _program("mariadb-install-db"),
                "--no-defaults",
                f"--datadir={self._directory / 'data'}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                *self._as_root(),
            ]
        )

    def _as_root(self) -> list[str]:
        return ["--user=root"] if os.geteuid() == 0 else []

    def _command(self) -> Sequence[str | Path]:
        return [
            _program("mariadbd"),
            "--no-defaults",
            f"--datadir={self._directory / 'data'}",
            f"--socket={self._directory / 'socket'}",
            f"--pid-file={self._directory / 'pid'}",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-lock-wait-timeout=5",
            "--max-connections=500",
            "--skip-name-resolve",
            *self._as_root(),
        ]

    def _create(self) -> None:
        self.execute(f"CREATE DATABASE {NAME} CHARACTER SET utf8mb4")


class PostgreSql(DatabaseServer):
    """It refuses to run as root: then as the user that Debian's package has made."""

    @property
    def url(self) -> str:
        return f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/{NAME}"

    @property
    def _maintenance_url(self) -> str:
        return f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/postgres"

    _stop_signal = signal.SIGINT  # the "fast" way: it does not wait for clients

    def _prepare(self) -> None:
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self._directory, user.pw_uid, user.pw_gid)
        data = self._directory / "data"
        _run([*_as_postgres(), _postgresql("initdb"), "-D", data, "-U", "postgres", "-A", "trust"])

    def _command(self) -> Sequence[str | Path]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "500",
            "lock_timeout": "5s",
        }
        command = [*_as_postgres(), _postgresql("postgres"), "-D", self._directory / "data"]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return command

    def _create(self) -> None:
        self.execute(f"CREATE DATABASE {NAME}")


SERVERS: dict[str, Callable[[], DatabaseServer]] = {"mariadb": MariaDb, "postgresql": PostgreSql}


def _as_postgres() -> list[str | Path]:
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise MissingServer(f"{name} is not installed (Debian: mariadb-server-core)")
    return found


def _postgresql(name: str) -> Path:
    """Debian keeps the programs of each version apart."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not found:
        raise MissingServer(f"{name} is not installed (Debian: postgresql)")
    return found[-1]


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
