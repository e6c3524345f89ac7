# SPDX-License-Identifier: Apache-2.0
"""Connections to Manila: urllib3's, one request at a time each, kept for reuse.

urllib3's pool is not used, since it normalises the percent-encoding of paths; its connections send
what they are given.
"""

from __future__ import annotations

import ssl
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from oslo_log import log as logging
from urllib3 import HTTPHeaderDict
from urllib3 import exceptions as urllib3_exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError

from manila_backup.api.errors import HttpError
from manila_backup.api.gateway.options import GatewaySettings
from manila_backup.api.gateway.request import BLOCK_BYTES

if TYPE_CHECKING:
    from urllib3.response import HTTPResponse

LOG = logging.getLogger(__name__)

REUSED_FOR = frozenset({"GET", "HEAD"})
"""Methods sent over a connection that was used before. Manila may close it at that very moment;
then it is not known whether it has seen the request, and only these may be sent twice."""


class UpstreamError(HttpError):
    """Manila cannot be asked, or does not answer as it should."""


def _too_slow(error: Exception) -> UpstreamError:
    LOG.warning("Manila does not answer in time: %s", error)
    return UpstreamError(504, "manila_too_slow", "Manila did not answer in time.")


def _away(error: Exception) -> UpstreamError:
    LOG.warning("Manila cannot be reached: %s", error)
    return UpstreamError(503, "manila_away", "Manila is not available; please try again later.")


def _no_answer(error: Exception) -> UpstreamError:
    LOG.warning("Manila has broken off, or what it answers is no HTTP: %s", error)
    return UpstreamError(502, "manila_broken", "Manila gave no valid answer.")


class BrokenTransfer(Exception):
    """Manila has broken off in the middle of a body. Whoever passes it on must break off too."""


class Exchange:
    """An answer of Manila's, its body unread. To be read to its end or closed by whoever has it."""

    def __init__(
        self, upstream: Upstream, connection: HTTPConnection, response: HTTPResponse
    ) -> None:
        self.status = response.status
        self.reason = response.reason or ""
        self.headers: HTTPHeaderDict = response.headers
        self._upstream = upstream
        self._connection: HTTPConnection | None = connection
        self._response = response

    def blocks(self) -> Iterator[bytes]:
        """As they come; never decompressed.

        :raises BrokenTransfer: it ended early, or took too long.
        """
        response = self._response
        try:
            if response.chunked:
                yield from response.read_chunked(BLOCK_BYTES, decode_content=False)
            else:
                while block := response.read1(BLOCK_BYTES, decode_content=False):
                    yield block
        except (HTTPError, HTTPException, OSError) as error:
            raise BrokenTransfer(str(error)) from error
        self._give_back()

    def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._upstream.keep(connection)

    def close(self) -> None:
        """Idempotent; a connection whose body was not read to its end is not used again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Upstream:
    """The one Manila. Shared by all threads of the server; not to be inherited by a fork."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        parts = urlsplit(settings.endpoint)
        self.mount = parts.path
        """What stands before ``/v2`` in Manila's URL; no slash at its end."""
        self.host = parts.netloc
        self._hostname = parts.hostname or ""
        self._is_tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._is_tls else 80)
        self._context = _tls_context(settings) if self._is_tls else None
        self._idle: deque[HTTPConnection] = deque()
        self._lock = threading.Lock()

    def open(
        self,
        method: str,
        line: str,
        headers: HTTPHeaderDict,
        body: Iterable[bytes] | None = None,
    ) -> Exchange:
        """Send a request and wait for the head of the answer.

        :param line: path and query as they are to stand in the request line, below Manila's URL.
        :param headers: with Content-Length if the body's is known; without it goes in chunks.
        :raises UpstreamError: 502, 503 or 504.
        :raises ClientGone: from ``body``.
        """
        if body is None and method in REUSED_FOR:
            connection = self._idle_one()
            if connection is not None:
                try:
                    return self._ask(connection, method, line, headers, None)
                except UpstreamError as error:
                    if error.status != 502:
                        raise
        return self._ask(self._connect(), method, line, headers, body)

    def _ask(
        self,
        connection: HTTPConnection,
        method: str,
        line: str,
        headers: HTTPHeaderDict,
        body: Iterable[bytes] | None,
    ) -> Exchange:
        try:
            self._send(connection, method, line, headers, body)
            response = connection.getresponse()
        except (HTTPError, HTTPException, OSError, ValueError) as error:
            connection.close()
            raise (_too_slow if _is_timeout(error) else _no_answer)(error) from error
        except BaseException:
            connection.close()
            raise
        return Exchange(self, connection, response)

    def _send(
        self,
        connection: HTTPConnection,
        method: str,
        line: str,
        headers: HTTPHeaderDict,
        body: Iterable[bytes] | None,
    ) -> None:
        try:
            connection.request(
                method,
                self.mount + line,
                body=body,
                headers=headers,
                preload_content=False,
                decode_content=False,
            )
        except (BrokenPipeError, ConnectionResetError):
            # It may have refused the body before it had read all of it: the answer says why.
            if body is None:
                raise

    def _idle_one(self) -> HTTPConnection | None:
        """The one that was used last, so that surplus ones grow old. None if all have died."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.is_connected:
                return connection
            connection.close()

    def keep(self, connection: HTTPConnection) -> None:
        """Take a connection back whose answer has been read to its end."""
        with self._lock:
            if connection.is_connected and len(self._idle) < self._settings.max_idle_connections:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self) -> HTTPConnection:
        """:raises UpstreamError: 503 or 504."""
        timeout_s = self._settings.connect_timeout_s
        connection: HTTPConnection
        if self._context is None:
            connection = HTTPConnection(self._hostname, self._port, timeout=timeout_s)
        else:
            connection = HTTPSConnection(
                self._hostname,
                self._port,
                timeout=timeout_s,
                ssl_context=self._context,
                assert_hostname=False if self._settings.insecure else None,
            )
        try:
            connection.connect()
        except (HTTPError, OSError) as error:
            connection.close()
            raise (_too_slow if _is_timeout(error) else _away)(error) from error
        connection.timeout = self._settings.read_timeout_s
        return connection

    def close(self) -> None:
        """Close what is idle."""
        with self._lock:
            idle, self._idle = self._idle, deque()
        for connection in idle:
            connection.close()


def _is_timeout(error: BaseException) -> bool:
    """urllib3's, or the socket's own. What cannot be connected to at all counts with urllib3 as
    what takes too long."""
    if isinstance(error, NewConnectionError):
        return False
    return isinstance(error, urllib3_exceptions.TimeoutError | TimeoutError)


def _tls_context(settings: GatewaySettings) -> ssl.SSLContext:
    """:raises OSError: the file of authorities cannot be read."""
    context = ssl.create_default_context(cafile=settings.cafile)
    if settings.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
