# SPDX-License-Identifier: Apache-2.0
"""``/projects/{id}``: as much of Keystone as ``openstack share quota show PROJECT`` asks for.

The client looks the project up before it asks for its quotas. Without Keystone a project is
whatever a token names, so each project that the caller may know of is there.
"""

from __future__ import annotations

from typing import Any

from manila_backup.api.request import ApiRequest
from manila_backup.api.route import Route, RouteTable
from manila_backup.api.schemas.common import BOOLEAN, exact, wrapped
from manila_backup.policies import quota_sets as policies

_STRING: dict[str, Any] = {"type": "string"}
_PROJECT = exact({"id": _STRING, "name": _STRING, "domain_id": _STRING, "enabled": BOOLEAN})


def _show(request: ApiRequest, shown_project_id: str) -> dict[str, Any]:
    request.authorize(policies.SHOW, {"project_id": shown_project_id})
    return {
        "project": {
            "id": shown_project_id,
            "name": shown_project_id,
            "domain_id": "default",
            "enabled": True,
        }
    }


ROUTES: RouteTable = (
    Route(
        method="GET",
        path="/projects/<id:shown_project_id>",
        handler=_show,
        policy=policies.SHOW,
        response_schema=wrapped("project", _PROJECT),
        summary="Show a project, as Keystone would",
    ),
)
