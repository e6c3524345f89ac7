# SPDX-License-Identifier: Apache-2.0
"""A real RabbitMQ from Debian's package: in a temporary directory, on free ports of the loopback
interface, with a port mapper of its own, ended by its process group."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.support.children import LASTING
from tests.support.ports import free_port
from tests.support.servers import MissingServer, Server

START_S = 120
STOP_S = 30


class RabbitMq(Server):
    """A context manager; ``url`` is for oslo.messaging. What was queued is lost with a stop."""

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self._distribution_port = free_port()
        self._mapper_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._mapper: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"rabbit://guest:guest@127.0.0.1:{self.port}/"

    def close(self) -> None:
        self.stop()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait()
            LASTING.discard(self._mapper.pid)
        super().close()

    def _set_up(self) -> None:
        self.start()

    def start(self) -> None:
        """Also again, after :meth:`stop`; returns when it takes connections."""
        if self._mapper is None:
            self._mapper = self._start_mapper()
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_server()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                cwd=self._directory,
                start_new_session=True,
            )
        LASTING.add(self._process.pid)
        until_s = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError((self._directory / "log").read_text(errors="replace"))
            time.sleep(0.1)

    def stop(self) -> None:
        """At once, with all its processes."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_S)
        LASTING.discard(process.pid)
        until_s = time.monotonic() + STOP_S
        while _session(process.pid):  # what it started is not ours to wait for
            assert time.monotonic() < until_s
            time.sleep(0.02)

    def _start_mapper(self) -> subprocess.Popen[bytes]:
        """The server would start one that outlives it."""
        command = ["epmd", "-address", "127.0.0.1", "-port", str(self._mapper_port)]
        mapper = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        LASTING.add(mapper.pid)
        return mapper

    def _environment(self) -> dict[str, str]:
        config = self._directory / "rabbitmq.conf"
        config.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nlog.console = true\nlog.file = false\n"
        )
        plugins = self._directory / "enabled_plugins"
        plugins.write_text("[].\n")
        cookie = self._directory / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text("tests-only")
            cookie.chmod(0o400)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._directory),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "tests@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self._directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._directory),
            "RABBITMQ_PID_FILE": str(self._directory / "pid"),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 -start_epmd false",
        }

    def _answers(self) -> bool:
        """It greets who speaks its protocol only when it is ready."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(connection.recv(1))
        except OSError:
            return False


def _session(leader: int) -> list[int]:
    """Processes of its session that live."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(") ")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def _server() -> Path:
    """Not the wrapper, which insists on its user and its own directories."""
    found = sorted(Path("/usr/lib/rabbitmq").glob("lib/rabbitmq_server-*/sbin/rabbitmq-server"))
    if not found:
        raise MissingServer("rabbitmq-server is not installed (Debian: rabbitmq-server)")
    return found[-1]
