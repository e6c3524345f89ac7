# SPDX-License-Identifier: Apache-2.0
"""The real, unmodified ``openstack`` client in a process of its own, against a real HTTP server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cheroot import wsgi

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_SESSION = """
import contextlib, io, json, sys
from openstackclient import shell
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = shell.main(json.loads(line))
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""
"""Takes one argv per line, so that the seconds of the client's start are spent once."""


@contextmanager
def serving(app: WSGIApplication) -> Iterator[str]:
    """Serve ``app`` on a free port of the loopback; its URL."""
    server = wsgi.Server(("127.0.0.1", 0), app, numthreads=2)
    server.prepare()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.bind_addr[1]}"
    finally:
        server.stop()
        thread.join()


class CommandFailed(AssertionError):
    """The client has ended with an error; its text is what the user sees."""


class OpenStack:
    """A session of ``openstack share ...`` commands."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, *argv: str) -> str:
        """What the command prints.

        :raises CommandFailed: with what it says.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(argv) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the client's process has ended"
        code, out, err = json.loads(answer)
        if code != 0:
            raise CommandFailed(err + out)
        return str(out)

    def share(self, *argv: str) -> Any:
        """Of ``openstack share <argv> -f json``: the value; None if it prints nothing."""
        return json.loads(self.run("share", *argv, "-f", "json"))

    def do(self, *argv: str) -> None:
        """``openstack share <argv>`` of a command that prints nothing."""
        self.run("share", *argv)


@contextmanager
def openstack(url: str) -> Iterator[OpenStack]:
    """A client without authentication, as a user of the standalone service sets it up."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "OS_AUTH_TYPE": "none",
        "OS_ENDPOINT": f"{url}/v2",
        "OS_SHARE_API_VERSION": "2.98",
    }
    with subprocess.Popen(
        [sys.executable, "-c", _SESSION],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        yield OpenStack(process)
