# SPDX-License-Identifier: Apache-2.0
"""From a request to Manila and back: passed on as a stream, or fetched whole to be completed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from urllib3 import HTTPHeaderDict
from werkzeug.wsgi import ClosingIterator

from manila_backup.api.gateway import headers as gateway_headers
from manila_backup.api.gateway import versions
from manila_backup.api.gateway.request import GatewayRequest
from manila_backup.api.gateway.upstream import (
    BrokenTransfer,
    Exchange,
    Upstream,
    UpstreamError,
)
from manila_backup.api.versions import Version

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MAX_FETCHED_BYTES = 256 * 1024 * 1024
"""Longest answer that is completed; about 100,000 shares in detail."""

_CONDITIONS = ("If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since", "Range")
_OF_THE_BYTES = frozenset({"content-length", "etag", "content-md5", "digest", "last-modified"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A whole answer of Manila's; a WSGI application that gives it to the client."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        """None if it is not JSON: then there is nothing to complete."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def with_json(self, body: Any) -> Fetched:
        """The same answer with another body."""
        kept = [pair for pair in self.headers if pair[0].lower() not in _OF_THE_BYTES]
        data = json.dumps(body).encode()
        return replace(self, headers=(*kept, ("Content-Length", str(len(data)))), body=data)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(f"{self.status} {self.reason}", list(self.headers))
        return [self.body] if environ["REQUEST_METHOD"] != "HEAD" else []


class Relay:
    """Asks Manila.

    :param host: what Manila gets as Host; None means what the client sent.
    :param trust_forwarded: see :func:`manila_backup.api.gateway.headers.of_request`.
    """

    def __init__(self, upstream: Upstream, host: str | None, *, trust_forwarded: bool) -> None:
        self._upstream = upstream
        self._host = host
        self._trust_forwarded = trust_forwarded

    def _headers(self, request: GatewayRequest) -> HTTPHeaderDict:
        return gateway_headers.of_request(
            request.environ,
            self._host,
            authority=request.target.authority,
            trust_forwarded=self._trust_forwarded,
        )

    def passed_on(self, request: GatewayRequest, manila_max: Version | None) -> WSGIApplication:
        """The answer to the request as it is, streaming in both directions.

        :param manila_max: Manila's maximum version, if the request asks for more than that.
        :raises UpstreamError: :raises ClientGone:
        """
        headers = self._headers(request)
        if manila_max is not None:
            versions.clamp(headers, manila_max)
        body = request.body
        if body.length is not None:
            headers["Content-Length"] = str(body.length)
        exchange = self._upstream.open(
            request.method,
            request.target.line,
            headers,
            body.blocks() if body.expected else None,
        )
        try:
            # Manila may have answered before the end.
            body.drain()
        except BaseException:
            exchange.close()
            raise
        return _streamed(exchange)

    def fetch(
        self,
        request: GatewayRequest,
        manila_max: Version | None,
        *,
        method: str = "GET",
        line: str | None = None,
        body: bytes | None = None,
    ) -> Fetched:
        """A whole answer, asked for with the caller's headers and at the client's version.

        :param line: path and query; None means the request's own.
        :raises UpstreamError: 502 too for an answer that is longer than can be completed.
        """
        headers = self._headers(request)
        if manila_max is not None:
            versions.clamp(headers, manila_max)
        for name in _CONDITIONS:
            headers.discard(name)
        headers["Accept-Encoding"] = "identity"
        if body is None:
            headers.discard("Content-Type")
        else:
            headers["Content-Length"] = str(len(body))
        exchange = self._upstream.open(
            method,
            request.target.line if line is None else line,
            headers,
            None if body is None else [body],
        )
        try:
            data = _read_all(exchange)
        finally:
            exchange.close()
        return Fetched(
            status=exchange.status,
            reason=exchange.reason,
            headers=tuple(gateway_headers.of_response(exchange.headers)),
            body=data,
        )


def _read_all(exchange: Exchange) -> bytes:
    parts, size = [], 0
    try:
        for block in exchange.blocks():
            parts.append(block)
            size += len(block)
            if size > MAX_FETCHED_BYTES:
                raise UpstreamError(502, "manila_too_long", "Manila's answer is too long.")
    except BrokenTransfer:
        raise UpstreamError(502, "manila_broken", "Manila broke off in its answer.") from None
    return b"".join(parts)


def _streamed(exchange: Exchange) -> WSGIApplication:
    """The server calls this at once, in the same thread; the body is read as it is sent on."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        headers = gateway_headers.of_response(exchange.headers)
        if exchange.headers.get("Transfer-Encoding"):
            # The length is not to be believed beside it (RFC 9112, 6.3).
            headers = [pair for pair in headers if pair[0].lower() != "content-length"]
        start_response(f"{exchange.status} {exchange.reason}", headers)
        # An exception from in there makes the server close the connection: the client sees that the
        # transfer is broken, since neither the length nor the last chunk is reached.
        return ClosingIterator(exchange.blocks(), exchange.close)

    return answer
