# SPDX-License-Identifier: Apache-2.0
"""An HTTP relay in front of a server, where tests let requests fail as networks and proxies do."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

TIMEOUT_S = 120.0
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class Fault(Enum):
    """What happens to a request instead of the server's answer."""

    CUT = auto()
    """The connection ends before the server hears of it."""

    LOSE = auto()
    """The server does it, then the connection ends without an answer."""

    REFUSE = auto()
    """503, and the server does not hear of it."""

    FAIL = auto()
    """The server does it, then 500 is answered."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A request; ``status`` is the server's answer, None where it was not asked."""

    method: str
    path: str
    headers: dict[str, str]
    status: int | None


class Relay:
    """A context manager. ``fault`` is asked per request with its number, from 1 on, its method and
    path; None lets it pass."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lock = threading.Lock()
        self._count = 0
        self.fault: Callable[[int, str, str], Fault | None] = lambda number, method, path: None
        self.seen: list[Seen] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def away(self) -> None:
        """From now on nothing comes through."""
        self.fault = lambda number, method, path: Fault.CUT

    def back(self) -> None:
        """From now on everything comes through; numbers start anew."""
        self.fault = lambda number, method, path: None
        with self._lock:
            self._count = 0

    def number(self) -> int:
        with self._lock:
            self._count += 1
            return self._count

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body=body or None, headers=headers)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _relay(self) -> None:
                _relayed(relay, self)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _relay

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


def _relayed(relay: Relay, handler: BaseHTTPRequestHandler) -> None:
    body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    fault = relay.fault(relay.number(), handler.command, handler.path)
    headers = dict(handler.headers.items())
    status, answered, content = None, [], b""
    if fault in {None, Fault.LOSE, Fault.FAIL}:
        passed = {key: value for key, value in headers.items() if key.lower() not in _HOP_BY_HOP}
        try:
            status, answered, content = relay.ask(handler.command, handler.path, passed, body)
        except OSError:
            fault = Fault.CUT
    relay.seen.append(
        Seen(method=handler.command, path=handler.path, headers=headers, status=status)
    )
    if fault in {Fault.CUT, Fault.LOSE}:
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)
        return
    if fault is not None:
        status, answered, content = (503 if fault is Fault.REFUSE else 500), [], b"{}"
    assert status is not None
    handler.send_response_only(status)
    for key, value in answered:
        if key.lower() not in _HOP_BY_HOP:
            handler.send_header(key, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
