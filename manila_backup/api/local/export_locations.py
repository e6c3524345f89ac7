# SPDX-License-Identifier: Apache-2.0
"""``/shares/{id}/export_locations``: the directory that the share is, or what clients mount."""

from __future__ import annotations

import uuid
from typing import Any

from manila_backup.api.local import responses
from manila_backup.api.local.service import LocalShares
from manila_backup.api.request import ApiRequest
from manila_backup.api.route import Route, RouteTable
from manila_backup.exception import NotFound
from manila_backup.policies import shares as policies
from manila_backup.share.local.records import LocalShare

_NAMESPACE = uuid.UUID("3e8b1d6e-7f2c-4b71-9a3b-5a0f35b0c6a4")


class ExportLocationNotFound(NotFound):
    message = "Export location {location_id} could not be found."


def location_id(share_id: str) -> str:
    """Every share has one location, whose id follows from the share's."""
    return str(uuid.uuid5(_NAMESPACE, share_id))


class ExportLocations:
    """Handlers; the routes are bound methods of one instance."""

    def __init__(self, local: LocalShares) -> None:
        self._local = local

    def index(self, request: ApiRequest, share_id: str) -> dict[str, Any]:
        share = self._local.own(request, share_id, policies.EXPORT_LOCATION_GET_ALL)
        return {"export_locations": [self._view(request, share)]}

    def show(self, request: ApiRequest, share_id: str, export_location_id: str) -> dict[str, Any]:
        share = self._local.own(request, share_id, policies.EXPORT_LOCATION_GET)
        if export_location_id != location_id(share_id):
            raise ExportLocationNotFound(location_id=export_location_id)
        return {"export_location": self._view(request, share)}

    def _view(self, request: ApiRequest, share: LocalShare) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "id": location_id(share.id),
            "path": self._local.store.location(share.id),
            "preferred": True,
            "created_at": share.created_at,
            "updated_at": None,
            "metadata": {},
        }
        if request.context.is_admin:
            shown |= {"is_admin_only": False, "share_instance_id": share.id}
        return shown

    def routes(self) -> RouteTable:
        path = "/shares/<id:share_id>/export_locations"
        return (
            Route(
                method="GET",
                path=path,
                handler=self.index,
                policy=policies.EXPORT_LOCATION_GET_ALL,
                response_schema=responses.EXPORT_LOCATIONS_RESPONSE,
                summary="List the export locations of a share",
            ),
            Route(
                method="GET",
                path=f"{path}/<id:export_location_id>",
                handler=self.show,
                policy=policies.EXPORT_LOCATION_GET,
                response_schema=responses.EXPORT_LOCATION_RESPONSE,
                summary="Show an export location of a share",
            ),
        )
