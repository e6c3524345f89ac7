# SPDX-License-Identifier: Apache-2.0
"""Helpers of all views: links to the next page."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from manila_backup.api.request import ApiRequest


def page_size(request: ApiRequest) -> int:
    """How many items the page may have. 0, as none, means as many as the service allows."""
    return min(request.query.get("limit") or max_limit(request), max_limit(request))


def max_limit(request: ApiRequest) -> int:
    return request.services.settings.max_limit


def next_links(request: ApiRequest, ids: Sequence[str], *, by_marker: bool) -> list[dict[str, str]]:
    """A link to the next page if this one is full; empty for a page that the caller did not limit
    and that has fewer items than the service allows.

    :param by_marker: whether the listing takes ``marker``; otherwise the offset moves on.
    """
    size = page_size(request)
    if not ids or len(ids) < size:
        return []
    arguments = dict(request.arguments)
    if by_marker:
        # The marker says where to go on; an offset would count from there once more.
        arguments.pop("offset", None)
        arguments["marker"] = ids[-1]
    else:
        arguments["offset"] = str(request.query.get("offset", 0) + len(ids))
    return [{"rel": "next", "href": f"{request.url}?{urlencode(arguments)}"}]
