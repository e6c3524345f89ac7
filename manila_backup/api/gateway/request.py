# SPDX-License-Identifier: Apache-2.0
"""One request at the gateway, and its body, which is streamed unless somebody has to look at it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from manila_backup.api.errors import HttpError
from manila_backup.api.gateway import target as targets
from manila_backup.api.gateway import versions
from manila_backup.api.gateway.target import Target
from manila_backup.api.versions import Version

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

BLOCK_BYTES = 64 * 1024


class ClientGone(Exception):
    """The client has sent less than it announced; there is nobody left to answer."""


class RequestBody:
    """What follows the headers: of known length, in chunks, or nothing.

    Read once, either by :meth:`blocks` or by :meth:`buffered`.
    """

    def __init__(self, environ: WSGIEnvironment) -> None:
        """:raises HttpError: 400 or 411, its length can be read in two ways, or in none."""
        length = environ.get("CONTENT_LENGTH") or None
        self.chunked = bool(environ.get("HTTP_TRANSFER_ENCODING"))
        if self.chunked and length is not None:
            raise HttpError(
                400,
                "ambiguous_length",
                "A request cannot have both Content-Length and Transfer-Encoding.",
            )
        if length is not None and not (length.isascii() and length.isdigit()):
            raise HttpError(400, "malformed_length", "The Content-Length is malformed.")
        if self.chunked and not environ.get("wsgi.input_terminated"):
            raise HttpError(411, "length_required", "A Content-Length is needed.")
        self.length = None if length is None else int(length)
        self._input = environ["wsgi.input"]
        self._unread = self.length or 0
        self._ended = not self.chunked and not self._unread
        self._buffer: bytes | None = None

    @property
    def expected(self) -> bool:
        """Whether the client has announced a body, be it empty."""
        return self.chunked or self.length is not None

    def _read(self, size_bytes: int) -> bytes:
        """At least a byte, unless the body has ended."""
        if self._ended:
            return b""
        wanted = size_bytes if self.chunked else min(size_bytes, self._unread)
        try:
            block: bytes = self._input.read(wanted)
        except (OSError, ValueError) as error:
            raise ClientGone(str(error)) from error
        if not self.chunked:
            self._unread -= len(block)
            if not block:
                raise ClientGone(f"{self._unread} bytes of the body are missing")
            self._ended = not self._unread
        elif not block:
            self._ended = True
        return block

    def blocks(self) -> Iterator[bytes]:
        """:raises ClientGone:"""
        if self._buffer:
            yield self._buffer
        while block := self._read(BLOCK_BYTES):
            yield block

    def buffered(self, limit_bytes: int) -> bytes:
        """All of it; it can be streamed on nevertheless.

        :raises HttpError: 413, it is longer.
        """
        if self._buffer is None:
            parts, size = [], 0
            while block := self._read(BLOCK_BYTES):
                parts.append(block)
                size += len(block)
                if size > limit_bytes:
                    raise HttpError(
                        413,
                        "body_too_large",
                        f"Request is too large. At most {limit_bytes} bytes are accepted.",
                    )
            self._buffer = b"".join(parts)
        return self._buffer

    def drain(self) -> None:
        """Take what nobody has read off the connection, so that it is not read as a request."""
        while self._read(BLOCK_BYTES):
            pass


def drain(environ: WSGIEnvironment) -> None:
    """Take a body off the connection whose length we do not trust, as far as the server knows where
    it ends; the rest would be read as the next request.

    :raises ClientGone:
    """
    if environ.get("wsgi.input_terminated"):
        try:
            while environ["wsgi.input"].read(BLOCK_BYTES):
                pass
        except (OSError, ValueError) as error:
            raise ClientGone(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class GatewayRequest:
    """``body_limit_bytes`` is how much is read of a body that has to be looked at."""

    environ: WSGIEnvironment
    target: Target
    body: RequestBody
    body_limit_bytes: int

    @property
    def method(self) -> str:
        return str(self.environ["REQUEST_METHOD"])

    @property
    def version(self) -> Version:
        """2.0 if none is asked for, or none that is one: Manila refuses what is not."""
        return versions.asked(self.environ) or (2, 0)

    @cached_property
    def query(self) -> dict[str, str]:
        """As Manila reads it: the last one of several with the same name counts."""
        return dict(self.query_pairs)

    @property
    def query_pairs(self) -> list[tuple[str, str]]:
        return parse_qsl(self.target.query, keep_blank_values=True)

    def json(self) -> Any:
        """The body; None if it is not JSON, which Manila will say in its own words."""
        import json

        try:
            return json.loads(self.body.buffered(self.body_limit_bytes).decode("utf-8"))
        except (ValueError, RecursionError):
            return None


def read(environ: WSGIEnvironment, body: RequestBody, body_limit_bytes: int) -> GatewayRequest:
    """:raises HttpError: :raises NotFound: see :func:`manila_backup.api.gateway.target.read`."""
    return GatewayRequest(
        environ=environ,
        target=targets.read(environ),
        body=body,
        body_limit_bytes=body_limit_bytes,
    )
