# SPDX-License-Identifier: Apache-2.0
"""What a request is for: its path, read in the one way that both Manila and we must read it in.

Servers, frameworks and proxies disagree about ``//``, ``/../``, ``%2F`` and the like: one resolves
or merges what another takes literally. A path that could be read in two ways could reach Manila's
shares past our refusals, or our routes past Manila's; and none of Manila's resources needs one. So
there is a single reading, and a path that allows another is a 404.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from manila_backup import exception
from manila_backup.api.errors import HttpError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

COLLECTIONS = frozenset(
    {
        "share-backups",
        "shares",
        "snapshots",
        "share-instances",
        "share-transfers",
        "share-group-snapshots",
        "quota-sets",
        "limits",
        "messages",
        # Up to version 2.6 of Manila's API.
        "share_instances",
        "os-share-unmanage",
    }
)
"""First path segments, below version and project, that are more than passed on."""

_VERSIONS = ("v1", "v2")
_FORMATS = (".json", ".xml")
_SAFE = "/!$&'()*+,;=:@~-._"
_TARGET = re.compile(r"[\x21\x22\x24-\x7e]*")  # printable ASCII, no space, no '#'
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """``path`` and ``query`` as the client wrote them, without the prefix that our application is
    mounted under; ``path`` begins with a slash.

    ``below`` are the decoded segments below version and project, the last one without Manila's
    ``.json`` or ``.xml``; empty if the first of them is not in :data:`COLLECTIONS`.
    ``prefix`` is the part of ``path`` above them: ``/v2`` or ``/v2/<project>``.
    ``authority`` is the host of a request in absolute form, which then counts instead of the
    Host header (RFC 9112, 3.2.2).
    """

    path: str
    query: str
    prefix: str
    below: tuple[str, ...]
    authority: str | None = None

    @property
    def line(self) -> str:
        """Path and query as they stand in a request line."""
        return f"{self.path}?{self.query}" if self.query else self.path


def read(environ: WSGIEnvironment) -> Target:
    """The target of a WSGI request.

    The server's copy of the request line is used where there is one (``REQUEST_URI`` or
    ``RAW_URI``), as long as it says the same as ``PATH_INFO``; behind rewriting it may not, and
    then ``PATH_INFO`` counts, as it does for every application.

    :raises HttpError: 400, the request line is malformed.
    :raises NotFound: the path could be read in more than one way.
    """
    query = environ.get("QUERY_STRING", "")
    mount = environ.get("SCRIPT_NAME", "").rstrip("/")
    path_info = environ.get("PATH_INFO", "")
    raw = environ.get("REQUEST_URI") or environ.get("RAW_URI") or ""
    path, authority = _split(raw)
    if raw and _same(path, mount + path_info):
        segments = path.split("/")[1 + mount.count("/") :]
        path = "/" + "/".join(segments)
    else:
        path = quote(path_info.encode("latin-1"), safe=_SAFE) or "/"
    if not _TARGET.fullmatch(path) or not _TARGET.fullmatch(query):
        raise HttpError(400, "malformed_target", "The request line is malformed.")
    prefix, below = _below(path)
    return Target(path=path, query=query, prefix=prefix, below=below, authority=authority)


def _split(raw: str) -> tuple[str, str | None]:
    """Path, and authority of a target in absolute form."""
    if raw.startswith("/") or "://" not in raw:
        return raw.partition("?")[0], None
    try:
        parts = urlsplit(raw)
    except ValueError:
        raise HttpError(400, "malformed_target", "The request line is malformed.") from None
    return parts.path or "/", parts.netloc


def _same(raw_path: str, decoded: str) -> bool:
    """Whether the server has made this of ``raw_path``. Some keep encoded slashes encoded, and some
    (cheroot) leave the path of an OPTIONS request as it is."""
    ours = unquote(raw_path, encoding="latin-1")
    return decoded in (raw_path, ours, ours or "/") or (
        "%2f" in raw_path.lower() and unquote(decoded, encoding="latin-1") == ours
    )


def _below(path: str) -> tuple[str, tuple[str, ...]]:
    """:raises NotFound:"""
    raw = path.split("/")[1:]
    if raw[-1] == "":
        raw.pop()
    decoded = [unquote(segment, errors="surrogateescape") for segment in raw]
    for segment in decoded:
        if segment in {"", ".", ".."} or "/" in segment or _CONTROL.search(segment):
            raise exception.NotFound()
    if len(decoded) < 2 or decoded[0] not in _VERSIONS:
        return path, ()
    for fmt in _FORMATS:
        decoded[-1] = decoded[-1].removesuffix(fmt) or decoded[-1]
    if decoded[1] in COLLECTIONS:
        return f"/{raw[0]}", tuple(decoded[1:])
    if len(decoded) > 2 and decoded[2] in COLLECTIONS:
        return f"/{raw[0]}/{raw[1]}", tuple(decoded[2:])
    return path, ()
