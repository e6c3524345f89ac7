# SPDX-License-Identifier: Apache-2.0
"""What a client reads before it knows anything: the version documents."""

from __future__ import annotations

from typing import Any

from manila_backup.api import versions
from manila_backup.api.request import ApiRequest
from manila_backup.api.route import Route, RouteTable
from manila_backup.api.schemas import discovery as schemas


def _documents(request: ApiRequest) -> dict[str, Any]:
    root = request.base_url.removesuffix("/v2")
    return {"versions": [versions.version_document(root)]}


ROUTES: RouteTable = (
    Route(
        method="GET",
        path="/",
        unversioned=True,
        handler=_documents,
        status=300,
        response_schema=schemas.VERSIONS,
        summary="The versions of the API",
    ),
    Route(
        method="GET",
        path="/v2/",
        unversioned=True,
        handler=_documents,
        response_schema=schemas.VERSIONS,
        summary="The second version of the API, with its microversions",
    ),
)
