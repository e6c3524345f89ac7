# SPDX-License-Identifier: Apache-2.0
"""Which headers go on, in both directions (RFC 9110, section 7.6)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from urllib3 import HTTPHeaderDict
from urllib3.util import SKIP_HEADER

from manila_backup.api.errors import HttpError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

PSEUDONYM = "manila-backup"
"""Our name in Via, by which a request that comes back to us is known."""

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""For the next hop only. The message is framed anew by the libraries on both sides."""

_NEVER = HOP_BY_HOP | {"content-length", "content-type", "expect", "host"}
"""Set from what the server has made of them. Whether a body is expected (``Expect``) is settled
between the client and our server."""

_FORWARDED = frozenset(
    {
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-proto",
        "x-real-ip",
    }
)


def named_in_connection(values: Iterable[str]) -> frozenset[str]:
    return frozenset(
        name.strip().lower() for value in values for name in value.split(",") if name.strip()
    )


def of_request(
    environ: WSGIEnvironment, host: str | None, *, authority: str | None, trust_forwarded: bool
) -> HTTPHeaderDict:
    """The headers that Manila gets, without those that frame the body.

    Names come in the spelling ``X-Auth-Token``: WSGI keeps neither the client's nor duplicates,
    which the server has joined by commas.

    :param host: what to send as Host; None means what the client sent.
    :param authority: the host in a request line in absolute form.
    :param trust_forwarded: whether whoever connects to us may say for whom; otherwise what he says
        about that is dropped, as any client could.
    :raises HttpError: 502, the request has been here already.
    """
    asked = authority or environ.get("HTTP_HOST") or _own_host(environ)
    dropped = _NEVER | named_in_connection([environ.get("HTTP_CONNECTION", "")])
    if not trust_forwarded:
        dropped |= _FORWARDED
    headers = HTTPHeaderDict({"Host": host or asked})
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            name = key[5:].replace("_", "-").title()
            if name.lower() not in dropped:
                headers.add(name, value)
    if environ.get("CONTENT_TYPE"):
        headers["Content-Type"] = environ["CONTENT_TYPE"]
    _say_nothing_of_our_own(headers)
    _add_forwarded(headers, environ, asked)
    _add_via(headers)
    return headers


def _own_host(environ: WSGIEnvironment) -> str:
    return f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"


def _say_nothing_of_our_own(headers: HTTPHeaderDict) -> None:
    for name in ("Accept-Encoding", "User-Agent"):
        if name not in headers:
            headers[name] = SKIP_HEADER


def _add_forwarded(headers: HTTPHeaderDict, environ: WSGIEnvironment, asked: str) -> None:
    """What the proxy in front of us has said stays; the first one knows the client."""
    peer = environ.get("REMOTE_ADDR")
    if peer:
        before = headers.get("X-Forwarded-For")
        headers["X-Forwarded-For"] = f"{before}, {peer}" if before else peer
    if "Forwarded" in headers and peer:
        quoted = f'"[{peer}]"' if ":" in peer else peer
        headers["Forwarded"] = f"{headers['Forwarded']}, for={quoted}"
    headers.setdefault("X-Forwarded-Proto", environ.get("wsgi.url_scheme", "http"))
    headers.setdefault("X-Forwarded-Host", asked)
    mount = environ.get("SCRIPT_NAME", "").rstrip("/")
    if mount:
        headers["X-Forwarded-Prefix"] = headers.get("X-Forwarded-Prefix", "") + mount


def _add_via(headers: HTTPHeaderDict) -> None:
    before = headers.get("Via", "")
    if any(hop.split()[1:2] == [PSEUDONYM] for hop in before.split(",")):
        raise HttpError(
            502,
            "gateway_loop",
            "The request comes back to this service: manila_endpoint does not lead to a Manila.",
        )
    own = f"1.1 {PSEUDONYM}"
    headers["Via"] = f"{before}, {own}" if before else own


def of_response(headers: HTTPHeaderDict) -> list[tuple[str, str]]:
    """The headers that the client gets: all, duplicates too, but those of the hop."""
    dropped = HOP_BY_HOP | named_in_connection(headers.getlist("Connection"))
    return [(name, value) for name, value in headers.items() if name.lower() not in dropped]
