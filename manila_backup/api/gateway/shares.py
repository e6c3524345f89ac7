# SPDX-License-Identifier: Apache-2.0
"""``GET /shares``: shares that we hold show that as their status.

Manila knows such a share as ``available`` (with a task state, once the mark is set); every other
status of Manila's is shown as it is, since it says more than ours: a share that is being deleted by
force is ``deleting``.

``?status=`` is asked of both. Manila filters by everything else, in its own order, and is asked for
the available shares; ours decide which of those have the status that is wanted. Pages are counted
over what remains, so with a status filter, and only while we hold any share, Manila's listing is
read from its beginning up to the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from manila_backup.api.gateway.busy import BusyShares
from manila_backup.api.gateway.ids import is_plain
from manila_backup.api.gateway.relay import Fetched, Relay
from manila_backup.api.gateway.request import GatewayRequest
from manila_backup.api.versions import Version
from manila_backup.states import ShareStatus

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

PAGE = 1000
"""Shares that Manila is asked for at a time; also its own default maximum."""

_OURS = frozenset(ShareStatus) - {ShareStatus.AVAILABLE}
_TRUE = frozenset({"1", "t", "true", "on", "y", "yes"})
_PAGING = ("limit", "offset", "marker")

Statuses = Mapping[str, ShareStatus]


class Shares:
    def __init__(self, relay: Relay, busy: BusyShares) -> None:
        self._relay = relay
        self._busy = busy

    def answer(self, request: GatewayRequest, manila_max: Version | None) -> WSGIApplication | None:
        """None: the request is to be passed on as it is."""
        if request.method != "GET":
            return None
        match request.target.below:
            case ("shares",):
                return self._listing(request, manila_max, detailed=False)
            case ("shares", "detail"):
                return self._listing(request, manila_max, detailed=True)
            case ("shares", share_id):
                return self._one(request, manila_max, share_id)
        return None

    def _one(
        self, request: GatewayRequest, manila_max: Version | None, share_id: str
    ) -> WSGIApplication | None:
        busy = self._busy.statuses()
        if not busy or (is_plain(share_id) and share_id not in busy):
            return None
        fetched = self._relay.fetch(request, manila_max)
        body = fetched.json() if fetched.ok else None
        share = body.get("share") if isinstance(body, dict) else None
        return fetched.with_json(body) if _overlay([share], busy) else fetched

    def _listing(
        self, request: GatewayRequest, manila_max: Version | None, *, detailed: bool
    ) -> WSGIApplication | None:
        busy = self._busy.statuses()
        if not busy:
            return None
        status = request.query.get("status", "").lower()
        if status in _OURS or status == ShareStatus.AVAILABLE:
            page = _page(request)
            if page is None:
                return None
            return _Filtered(self._relay, request, manila_max, busy, ShareStatus(status)).answer(
                page
            )
        if not detailed:
            return None
        fetched = self._relay.fetch(request, manila_max)
        body = fetched.json() if fetched.ok else None
        return fetched.with_json(body) if _overlay(_shares(body), busy) else fetched


def _shares(body: Any) -> list[Any]:
    found = body.get("shares") if isinstance(body, dict) else None
    return found if isinstance(found, list) else []


def _overlay(shares: list[Any], busy: Statuses) -> bool:
    """In place. :returns: whether anything was changed."""
    changed = False
    for share in shares:
        if isinstance(share, dict) and share.get("status") == ShareStatus.AVAILABLE:
            status = busy.get(str(share.get("id")))
            if status is not None:
                share["status"] = str(status)
                changed = True
    return changed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """``limit`` None: all of the rest."""

    offset: int
    limit: int | None


def _page(request: GatewayRequest) -> _Page | None:
    """None for what Manila refuses, in its own words."""
    numbers = {}
    for name in ("limit", "offset"):
        value = request.query.get(name, "0").strip()
        if not (value.isascii() and value.isdigit() and len(value) < 10):
            return None
        numbers[name] = int(value)
    return _Page(offset=numbers["offset"], limit=numbers["limit"] or None)


class _Refused(Exception):
    """Manila has refused to list; what it said goes to the client."""

    def __init__(self, fetched: Fetched) -> None:
        super().__init__()
        self.fetched = fetched


class _Filtered:
    """One listing with a status filter over shares of which some are ours."""

    def __init__(
        self,
        relay: Relay,
        request: GatewayRequest,
        manila_max: Version | None,
        busy: Statuses,
        wanted: ShareStatus,
    ) -> None:
        self._relay = relay
        self._request = request
        self._manila_max = manila_max
        self._busy = busy
        self._wanted = wanted
        self._counted = request.query.get("with_count", "").lower() in _TRUE
        self._template: Fetched | None = None

    def answer(self, page: _Page) -> Fetched:
        """:raises UpstreamError:"""
        last = None if page.limit is None else page.offset + page.limit
        found: list[dict[str, Any]] = []
        missing = {key for key, status in self._busy.items() if status is self._wanted}
        try:
            for share in self._rows():
                missing.discard(str(share.get("id")))
                if self._matches(share):
                    found.append(share)
                full = last is not None and len(found) >= last
                complete = self._wanted in _OURS and not missing
                if not self._counted and (full or complete):
                    break
        except _Refused as refused:
            return refused.fetched
        return self._body(page, found)

    def _matches(self, share: dict[str, Any]) -> bool:
        shown = self._busy.get(str(share.get("id")), ShareStatus.AVAILABLE)
        return shown is self._wanted

    def _rows(self) -> Iterator[dict[str, Any]]:
        """The available shares, in Manila's order, each once.

        :raises _Refused:
        """
        left_out = {"status", *_PAGING}
        pairs = [pair for pair in self._request.query_pairs if pair[0] not in left_out]
        seen: set[str] = set()
        offset = 0
        while True:
            query = [*pairs, ("status", "available"), ("limit", PAGE), ("offset", offset)]
            line = f"{self._request.target.path}?{urlencode(query)}"
            fetched = self._relay.fetch(self._request, self._manila_max, line=line)
            body = fetched.json() if fetched.ok else None
            if not isinstance(body, dict):
                raise _Refused(fetched)
            self._template = self._template or fetched
            rows = [row for row in _shares(body) if isinstance(row, dict)]
            for row in rows:
                # A share that was made meanwhile moves the later ones on.
                if str(row.get("id")) not in seen:
                    seen.add(str(row.get("id")))
                    yield row
            if not rows:
                return
            offset += len(rows)

    def _body(self, page: _Page, found: list[dict[str, Any]]) -> Fetched:
        assert self._template is not None  # noqa: S101 - the first page was there, or refused
        last = None if page.limit is None else page.offset + page.limit
        shown = found[page.offset : last]
        _overlay(shown, self._busy)
        body: dict[str, Any] = {"shares": shown}
        template = self._template.json()
        if "count" in template:
            body["count"] = len(found)
        if page.limit and len(shown) == page.limit:
            body["shares_links"] = [{"rel": "next", "href": self._next(page, shown[-1])}]
        return self._template.with_json(body)

    def _next(self, page: _Page, last: dict[str, Any]) -> str:
        """As Manila's, which names the last share as the marker; and, since Manila does not look
        at markers of shares, with the offset that leads on."""
        links = last.get("links") or [{}]
        collection = str(links[0].get("href", "")).rpartition("/")[0]
        query = self._request.query | {
            "offset": str(page.offset + (page.limit or 0)),
            "marker": str(last.get("id")),
        }
        return f"{collection}?{urlencode(query)}"
