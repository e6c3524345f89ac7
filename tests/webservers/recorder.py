# SPDX-License-Identifier: Apache-2.0
"""A small HTTP server that stands where Manila or our API stands; it writes down what comes."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

WAIT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request, as it came."""

    line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


@dataclass(kw_only=True)
class Recorder:
    """``piece`` is set when the first piece of a body has come; an answer whose path ends in
    ``/stream`` goes on when ``go_on`` is set."""

    name: str
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    piece: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    recorder: Recorder

    def handle_error(self, request: object, client_address: object) -> None:
        """Web servers that end reset the connections that they kept."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = WAIT_S

    def handle_any(self) -> None:
        recorder = cast(_Server, self.server).recorder
        body = self._body(recorder)
        recorder.seen.append(
            Seen(line=self.requestline, headers=tuple(self.headers.items()), body=body)
        )
        if self.requestline.split(" ")[1].endswith("/stream"):
            self._stream(recorder)
        else:
            self._plain(recorder, body)

    def _body(self, recorder: Recorder) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
            recorder.piece.set()
        self.rfile.readline()
        return found

    def _plain(self, recorder: Recorder, body: bytes) -> None:
        answer = json.dumps({"side": recorder.name, "bytes": len(body)}).encode()
        self.send_response(202, "Accepted")
        self.send_header("X-Side", recorder.name)
        self.send_header("X-Twice", "one")
        self.send_header("X-Twice", "two")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    def _stream(self, recorder: Recorder) -> None:
        self.send_response(200)
        self.send_header("X-Side", recorder.name)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nfirst\r\n")
        assert recorder.go_on.wait(WAIT_S)
        self.wfile.write(b"4\r\nlast\r\n0\r\n\r\n")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = handle_any

    def log_message(self, format: str, *args: object) -> None:
        """Not to standard error."""


@contextmanager
def recording(name: str) -> Iterator[Recorder]:
    recorder = Recorder(name=name)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.recorder = recorder
    recorder.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield recorder
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
