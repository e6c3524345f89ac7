# SPDX-License-Identifier: Apache-2.0
"""A small HTTP server in Manila's place: records what it is sent, byte for byte, and answers what
the test says, be it wrong, late or cut off.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BLOCK = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request. ``line`` is the target as it stood in the request line."""

    method: str
    line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(found) < 2, found
        return found[0] if found else None


class Handler(BaseHTTPRequestHandler):
    """``answer`` of the server is called for every request, with this and what was seen."""

    protocol_version = "HTTP/1.1"
    server: Server

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _serve(self) -> None:
        _, line, _ = self.raw_requestline.decode("latin-1").split(" ")
        keep = self.server.keep_bodies
        body = b"".join(self.blocks()) if keep else str(sum(map(len, self.blocks()))).encode()
        seen = Seen(
            method=self.command,
            line=line,
            headers=tuple((name, str(value)) for name, value in self.headers.items()),
            body=body,
            connection=self.client_address[1],
        )
        self.server.seen.append(seen)
        self.server.answer(self, seen)

    def blocks(self) -> Iterator[bytes]:
        """The request's body as it comes."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                assert self.rfile.readline() == b"\r\n"
            assert self.rfile.readline() == b"\r\n"
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            block = self.rfile.read(min(left, BLOCK))
            if not block:
                return
            left -= len(block)
            yield block

    def reply(
        self,
        status: int,
        body: bytes = b"",
        headers: tuple[tuple[str, str], ...] = (),
        reason: str = "Fine",
        *,
        length: bool = True,
    ) -> None:
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
        if length:
            lines.append(f"Content-Length: {len(body)}")
        self.raw("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def json(self, status: int, body: Any, headers: tuple[tuple[str, str], ...] = ()) -> None:
        content_type = ("Content-Type", "application/json")
        self.reply(status, json.dumps(body).encode(), (content_type, *headers))

    def raw(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()

    def hang_up(self) -> None:
        self.close_connection = True
        _hang_up(self.connection)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


Answer = Callable[[Handler, Seen], None]


def anything(handler: Handler, seen: Seen) -> None:
    handler.json(200, {"anything": True})


class Server(ThreadingHTTPServer):
    """``release`` ends what :meth:`wait` waits for."""

    # A thread per connection, with which stop() waits.
    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[Seen] = []
        self.answer: Answer = anything
        self.keep_bodies = True
        self.release = threading.Event()
        self.connections: set[socket.socket] = set()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that break are what the tests are about."""

    def stop(self) -> None:
        self.release.set()
        self.shutdown()
        self._thread.join()
        for connection in list(self.connections):
            _hang_up(connection)
        self.server_close()

    def lines(self) -> list[str]:
        """What was asked for, but for the versions, which the gateway asks for by itself."""
        return [f"{seen.method} {seen.line}" for seen in self.seen if seen.line != "/"]
