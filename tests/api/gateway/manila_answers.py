# SPDX-License-Identifier: Apache-2.0
"""Answers of the upstream server that have the form and the rules of Manila's."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.api.gateway.upstream_server import Handler, Seen
from tests.api.harness import P1

MAXIMUM = "2.99"


def share(number: int, **values: Any) -> dict[str, Any]:
    share_id = str(uuid.UUID(int=number))
    return {
        "id": share_id,
        "name": f"share-{number}",
        "status": "available",
        "project_id": P1,
        "size": 1,
        "links": [{"rel": "self", "href": f"http://client.example.org/v2/shares/{share_id}"}],
        **values,
    }


def message(number: int, created_at: str, **values: Any) -> dict[str, Any]:
    message_id = str(uuid.UUID(int=number))
    return {
        "id": message_id,
        "project_id": P1,
        "created_at": created_at,
        "message_level": "ERROR",
        "request_id": None,
        "user_message": "theirs",
        "links": [{"rel": "self", "href": f"http://client.example.org/v2/messages/{message_id}"}],
        **values,
    }


@dataclass(kw_only=True)
class ManilaAnswers:
    """To be the ``answer`` of a server. ``hidden`` are shares that the caller may not see;
    ``fail`` is a status with which everything but discovery is answered."""

    shares: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    quotas: dict[str, Any] = field(default_factory=lambda: {"shares": 50, "backups": 777})
    maximum: str = MAXIMUM
    hidden: set[str] = field(default_factory=set)
    group: set[str] = field(default_factory=set)
    transfers: dict[str, str] = field(default_factory=dict)
    fail: int | None = None

    def __call__(self, handler: Handler, seen: Seen) -> None:
        parts = urlsplit(seen.line)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        segments = unquote(parts.path).strip("/").split("/")[1:]
        if segments[:1] == [P1]:
            segments = segments[1:]
        if not segments:
            handler.json(300, self.versions())
        elif self.fail is not None:
            handler.json(self.fail, {"forbidden": {"code": self.fail, "message": "Manila says"}})
        else:
            self._noun(handler, seen, segments, query)

    def versions(self) -> dict[str, Any]:
        entry = {"id": "v2.0", "version": self.maximum, "min_version": "2.0", "status": "CURRENT"}
        return {"versions": [entry]}

    def _noun(
        self, handler: Handler, seen: Seen, segments: list[str], query: dict[str, str]
    ) -> None:
        match seen.method, segments:
            case "GET", ["shares"]:
                self._list_shares(handler, query, ("id", "name", "links"))
            case "GET", ["shares", "detail"]:
                self._list_shares(handler, query, None)
            case "GET", ["shares", found]:
                self._share(handler, found)
            case "GET", ["share-transfers", found] if found in self.transfers:
                handler.json(200, {"transfer": {"resource_id": self.transfers[found]}})
            case "GET", ["share_instances", found]:
                handler.json(200, {"share_instance": {"id": found, "share_id": found[5:]}})
            case "GET", ["messages"]:
                self._list_messages(handler, query)
            case "GET", ["limits"]:
                absolute = {"maxTotalShares": 50, "maxTotalShareBackups": 777}
                handler.json(200, {"limits": {"rate": [], "absolute": absolute}})
            case "GET", ["quota-sets", project, *_]:
                handler.json(200, {"quota_set": {"id": project, **self.quotas}})
            case "PUT", ["quota-sets", _]:
                self.quotas |= json.loads(seen.body)["quota_set"]
                handler.json(200, {"quota_set": self.quotas})
            case _:
                handler.json(202, {"done": seen.method})

    def _share(self, handler: Handler, found: str) -> None:
        """As MySQL does, ids are found in upper case too, or with spaces at their end."""
        for row in self.shares:
            if row["id"] == found.lower().rstrip() and row["id"] not in self.hidden:
                handler.json(200, {"share": row}, (("X-Manila", "yes"), ("ETag", '"1"')))
                return
        handler.json(404, {"itemNotFound": {"code": 404, "message": "no"}})

    def _list_shares(
        self, handler: Handler, query: dict[str, str], keys: tuple[str, ...] | None
    ) -> None:
        rows = [row for row in self.shares if row["id"] not in self.hidden]
        if "status" in query:
            rows = [row for row in rows if row["status"] == query["status"]]
        if "name" in query:
            rows = [row for row in rows if row["name"] == query["name"]]
        if "share_group_id" in query:
            rows = [row for row in rows if row["id"] in self.group]
        body: dict[str, Any] = {}
        if query.get("with_count") == "True":
            body["count"] = len(rows)
        page = _cut(rows, query)
        body["shares"] = [row if keys is None else {key: row[key] for key in keys} for row in page]
        handler.json(200, body, (("X-Manila", "yes"),))

    def _list_messages(self, handler: Handler, query: dict[str, str]) -> None:
        ascending = query.get("sort_dir") == "asc"
        rows = sorted(self.messages, key=lambda row: row["created_at"], reverse=not ascending)
        handler.json(200, {"messages": _cut(rows, query)})


def _cut(rows: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
    """Manila gives a thousand at most."""
    offset = int(query.get("offset", 0))
    limit = min(int(query.get("limit", 1000)), 1000)
    return rows[offset : offset + limit]
