# SPDX-License-Identifier: Apache-2.0
"""Apache, nginx and HAProxy from Debian's packages, each with a sample of ours: in a temporary
directory, on a free port of the loopback interface, ended by pid. What is changed in a sample are
its ports."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.children import LASTING
from tests.support.ports import free_port
from tests.support.servers import MissingServer, Server

ETC = Path(__file__).resolve().parents[2] / "etc"
START_S = 60
STOP_S = 30
PAUSE_S = 7.0
"""The client looks every 5 seconds; a busy machine takes a little more."""

NGINX = """\
daemon off;
user root;
worker_processes 1;
pid {directory}/pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/client;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {sample};
}}
"""

APACHE = """\
ServerRoot {directory}
ServerName 127.0.0.1
DefaultRuntimeDir {directory}
PidFile {directory}/pid
ErrorLog {directory}/error.log
User nobody
Group nogroup
StartServers 1
{modules}
Include {sample}
"""
_MODULES = ("mpm_event", "authz_core", "env", "headers", "proxy", "proxy_http", "rewrite")

HAPROXY = """\
global
    maxconn 200
"""


class WebServer(Server):
    """A context manager; ``port`` takes requests then.

    :param sample: below etc/, without its suffix, for example ``manila-backup``.
    """

    def __init__(self, program: str, sample: str, *, ours: int, manila: int) -> None:
        super().__init__()
        self.port = free_port()
        self._program = program
        suffix = "cfg" if program == "haproxy" else "conf"
        text = (ETC / program / f"{sample}.{suffix}").read_text()
        self._sample = self._directory / f"sample.{suffix}"
        self._sample.write_text(_rendered(text, self.port, ours, manila))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def _log(self) -> Path:
        return self._directory / "log"

    def said(self) -> str:
        logs = [path for path in self._directory.glob("*log") if path.is_file()]
        return "\n".join(path.read_text(errors="replace") for path in logs)

    def _set_up(self) -> None:
        self._directory.chmod(0o755)
        argv = {"nginx": self._nginx, "apache2": self._apache, "haproxy": self._haproxy}
        command = argv[self._program]()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )
        LASTING.add(self._process.pid)
        until_s = time.monotonic() + START_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError(self.said())
            time.sleep(0.05)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        LASTING.discard(process.pid)

    # --- each with the least of a configuration of its own ----------------------------------------

    def _write(self, text: str) -> Path:
        path = self._directory / "main.conf"
        path.write_text(text)
        return path

    def _nginx(self) -> Sequence[str | Path]:
        main = self._write(NGINX.format(directory=self._directory, sample=self._sample))
        return [_found("nginx", "nginx"), "-e", "stderr", "-c", main, "-p", self._directory]

    def _apache(self) -> Sequence[str | Path]:
        modules = Path("/usr/lib/apache2/modules")
        lines = [f"LoadModule {name}_module {modules}/mod_{name}.so" for name in _MODULES]
        main = self._write(
            APACHE.format(directory=self._directory, modules="\n".join(lines), sample=self._sample)
        )
        return [_found("apache2", "apache2"), "-DFOREGROUND", "-f", main]

    def _haproxy(self) -> Sequence[str | Path]:
        return [_found("haproxy", "haproxy"), "-db", "-f", self._write(HAPROXY), "-f", self._sample]


def _rendered(text: str, port: int, ours: int, manila: int) -> str:
    text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    text = text.replace("127.0.0.1:18786", f"127.0.0.1:{manila}")
    text = text.replace("127.0.0.1:8787", f"127.0.0.1:{ours}")
    found, count = re.subn(r"(?<=[ <])(\*:|:|)8786\b", f"127.0.0.1:{port}", text)
    assert count >= 1
    return found + "\n"


def _found(program: str, package: str) -> str:
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise MissingServer(f"{program} is not installed (Debian: {package})")
    return found


def keeps_connection(port: int, path: str) -> bool:
    """Whether a connection still answers after the pause of a client that waits, and a bit."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        connection.getresponse().read()
        before = connection.sock
        time.sleep(PAUSE_S)
        connection.request("GET", path)
        connection.getresponse().read()
        return connection.sock is before
    finally:
        connection.close()
