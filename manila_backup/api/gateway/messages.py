# SPDX-License-Identifier: Apache-2.0
"""``/messages``: Manila's user messages and ours as one list.

Ours are few: a project has one per operation that did not go well in the last 30 days. So all of
them that match are read, and of Manila's only those that can be on the page: in the merged list a
message of Manila's stands at most as many places further on as there are messages of ours.
"""

from __future__ import annotations

import heapq
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from manila_backup.api.gateway.own import OwnApi
from manila_backup.api.gateway.relay import Fetched, Relay
from manila_backup.api.gateway.request import GatewayRequest
from manila_backup.api.versions import Version

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

SINCE = (2, 37)
_PAGE = 1000
"""Most messages that either side gives at once."""
_PAGING = ("limit", "offset", "marker")


class Messages:
    def __init__(self, relay: Relay, own: OwnApi) -> None:
        self._relay = relay
        self._own = own

    def answer(self, request: GatewayRequest, manila_max: Version | None) -> WSGIApplication | None:
        """None: to be passed on as it is; always so when our database is away."""
        if request.version < SINCE:
            return None
        match request.method, request.target.below:
            case "GET", ("messages",):
                return self._listing(request, manila_max)
            case ((("GET" | "DELETE") as method), ("messages", message_id)):
                return self._one(request, method, message_id)
        return None

    def _one(self, request: GatewayRequest, method: str, message_id: str) -> WSGIApplication | None:
        """Ours if we have it: ids of both are random."""
        path = f"{request.target.prefix}/messages/{quote(message_id, safe='', errors='replace')}"
        shown = self._own.ask(request, "GET", path)
        if shown.status_code != 200:
            return None
        return shown if method == "GET" else self._own.ask(request, method, path)

    def _listing(
        self, request: GatewayRequest, manila_max: Version | None
    ) -> WSGIApplication | None:
        page = _page(request)
        if page is None:
            return None
        ours = self._ours(request)
        if not ours:
            return None
        offset, limit = page
        # Number ``start`` of Manila's is number ``start`` of the merged list, or up to len(ours)
        # later: no earlier one can be on the page. So list index 0 below is number ``start``, but
        # for ours that belong before it, of which none can be on the page either.
        start = max(0, offset - len(ours))
        last = None if limit is None else offset + limit
        fetched, theirs = self._theirs(request, manila_max, start, last)
        if theirs is None:
            return fetched
        shown = _merge(request, theirs, ours)[offset - start :][:limit]
        return _answer(request, fetched, shown, offset, limit)

    def _theirs(
        self, request: GatewayRequest, manila_max: Version | None, start: int, last: int | None
    ) -> tuple[Fetched, list[dict[str, Any]] | None]:
        """Manila's messages number ``start`` to ``last``, and one of its answers; None instead of
        messages if it gives none."""
        found: list[dict[str, Any]] = []
        while True:
            end = None if last is None else min(last, start + len(found) + _PAGE)
            line = _line(request, start + len(found), end)
            fetched = self._relay.fetch(request, manila_max, line=line)
            body = fetched.json() if fetched.ok else None
            rows = body.get("messages") if isinstance(body, dict) else None
            if not isinstance(rows, list):
                return fetched, None
            wanted = None if end is None else end - start - len(found)
            found += rows
            if end is None or end == last or len(rows) != wanted:
                return fetched, found

    def _ours(self, request: GatewayRequest) -> list[dict[str, Any]]:
        """All that match, sorted as is asked for; none if they cannot be read."""
        found: list[dict[str, Any]] = []
        pairs = [pair for pair in request.query_pairs if pair[0] not in _PAGING]
        while True:
            query = urlencode([*pairs, ("limit", _PAGE), ("offset", len(found))])
            answer = self._own.ask(request, "GET", f"{request.target.prefix}/messages", query=query)
            if answer.status_code != 200:
                return []
            body = json.loads(answer.get_data())
            found += body["messages"]
            if not body["messages"] or "messages_links" not in body:
                return found


def _page(request: GatewayRequest) -> tuple[int, int | None] | None:
    """(offset, limit); None for what Manila refuses, in its own words."""
    numbers = []
    for name in ("offset", "limit"):
        value = request.query.get(name, "0").strip()
        if not (value.isascii() and value.isdigit() and len(value) < 10):
            return None
        numbers.append(int(value))
    offset, limit = numbers
    return offset, limit if "limit" in request.query else None


def _line(request: GatewayRequest, start: int, end: int | None) -> str:
    """For Manila's messages number ``start`` to ``end``."""
    pairs = [pair for pair in request.query_pairs if pair[0] not in _PAGING]
    if start:
        pairs.append(("offset", str(start)))
    if end is not None:
        pairs.append(("limit", str(end - start)))
    query = f"?{urlencode(pairs)}" if pairs else ""
    return request.target.path + query


def _merge(
    request: GatewayRequest, theirs: list[dict[str, Any]], ours: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Both in the order that is asked for."""
    key_name = request.query.get("sort_key", "created_at")

    def key(message: dict[str, Any]) -> str:
        return str(message.get(key_name) or "")

    descending = request.query.get("sort_dir", "desc") != "asc"
    return list(heapq.merge(theirs, ours, key=key, reverse=descending))


def _answer(
    request: GatewayRequest,
    fetched: Fetched,
    shown: list[dict[str, Any]],
    offset: int,
    limit: int | None,
) -> Fetched:
    body: dict[str, Any] = {"messages": shown}
    if limit and len(shown) == limit:
        last = str(shown[-1].get("id"))
        links = shown[-1].get("links") or [{}]
        collection = str(links[0].get("href", "")).rpartition("/")[0]
        query = request.query | {"offset": str(offset + limit), "marker": last}
        body["messages_links"] = [{"rel": "next", "href": f"{collection}?{urlencode(query)}"}]
    return fetched.with_json(body)
