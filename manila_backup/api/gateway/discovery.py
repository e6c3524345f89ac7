# SPDX-License-Identifier: Apache-2.0
"""The version documents: Manila's, with the range widened as ``versions.py`` says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from oslo_log import log as logging
from urllib3 import HTTPHeaderDict

from manila_backup.api.gateway import versions
from manila_backup.api.gateway.headers import PSEUDONYM
from manila_backup.api.gateway.relay import Relay
from manila_backup.api.gateway.request import GatewayRequest
from manila_backup.api.gateway.upstream import BrokenTransfer, Upstream, UpstreamError
from manila_backup.api.versions import Version, text

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

LOG = logging.getLogger(__name__)

PATHS = frozenset({"/", "/v2", "/v2/"})

KNOWN_FOR_S = 300.0
"""How long Manila's maximum is taken for granted; an upgrade raises it."""
PAUSE_S = 5.0
"""How long Manila is not asked again after it did not say its maximum."""

MAX_DOCUMENT_BYTES = 1024 * 1024


def answer(request: GatewayRequest, relay: Relay) -> WSGIApplication | None:
    """Of a GET of one of :data:`PATHS`."""
    if request.method != "GET" or request.target.path not in PATHS:
        return None
    fetched = relay.fetch(request, None)
    document = fetched.json()
    return fetched.with_json(document) if _widen(document) else fetched


def _widen(document: Any) -> bool:
    """In place. :returns: whether anything was changed."""
    changed = False
    for entry in _entries(document):
        maximum = versions.parse(entry.get("version"))
        if maximum is not None and (2, 0) <= maximum < versions.WIDENED:
            entry["version"] = text(versions.WIDENED)
            changed = True
    return changed


def _entries(document: Any) -> list[dict[str, Any]]:
    found = document.get("versions") if isinstance(document, dict) else None
    entries = found if isinstance(found, list) else []
    return [entry for entry in entries if isinstance(entry, dict)]


class ManilaMaximum:
    """Manila's maximum version, asked of it when a request needs it.

    :param monotonic: the clock, in seconds.
    """

    def __init__(self, upstream: Upstream, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._upstream = upstream
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: Version | None = None
        self._until_s = float("-inf")

    def for_version(self, version: Version) -> Version | None:
        """The maximum, if it matters for this version; None also if Manila does not say it.

        :raises UpstreamError: Manila cannot be asked, and was not before.
        """
        if version <= (2, 0):
            return None
        with self._lock:
            if self._monotonic() < self._until_s:
                return self._known
        # Not under the lock: a Manila that hangs would let everybody wait for everybody.
        found = self._ask()
        with self._lock:
            self._known = found or self._known
            kept_s = KNOWN_FOR_S if found else PAUSE_S
            self._until_s = self._monotonic() + kept_s
            return self._known

    def _ask(self) -> Version | None:
        headers = HTTPHeaderDict(
            {
                "Host": self._upstream.host,
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Via": f"1.1 {PSEUDONYM}",
            }
        )
        try:
            exchange = self._upstream.open("GET", "/", headers)
            try:
                data = b"".join(exchange.blocks())
            finally:
                exchange.close()
            entries = _entries(json.loads(data))
        except UpstreamError:
            if self._known is None:
                raise
            return None
        except (BrokenTransfer, ValueError) as error:
            LOG.warning("Manila does not say its versions: %s", error)
            return None
        found = [versions.parse(entry.get("version")) for entry in entries]
        return max((version for version in found if version is not None), default=None)
