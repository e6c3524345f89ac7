# SPDX-License-Identifier: Apache-2.0
"""``/types``: the one share type there is."""

from __future__ import annotations

from typing import Any

from manila_backup.api.local import responses
from manila_backup.api.request import ApiRequest
from manila_backup.api.route import Route, RouteTable
from manila_backup.exception import NotFound
from manila_backup.policies import shares as policies
from manila_backup.share.local.records import DEFAULT_TYPE_ID, DEFAULT_TYPE_NAME


class ShareTypeNotFound(NotFound):
    message = "Share type {share_type_id} could not be found."


def _view() -> dict[str, Any]:
    required = {"driver_handles_share_servers": "False"}
    return {
        "id": DEFAULT_TYPE_ID,
        "name": DEFAULT_TYPE_NAME,
        "description": "Directories of this machine",
        "is_default": True,
        "share_type_access:is_public": True,
        "required_extra_specs": required,
        "extra_specs": required | {"snapshot_support": "True"},
    }


def _index(request: ApiRequest) -> dict[str, Any]:
    return {"share_types": [_view()]}


def _default(request: ApiRequest) -> dict[str, Any]:
    return {"share_type": _view()}


def _show(request: ApiRequest, share_type_id: str) -> dict[str, Any]:
    if share_type_id != DEFAULT_TYPE_ID:
        raise ShareTypeNotFound(share_type_id=share_type_id)
    return {"share_type": _view()}


def _extra_specs(request: ApiRequest, share_type_id: str) -> dict[str, Any]:
    return {"extra_specs": _show(request, share_type_id)["share_type"]["extra_specs"]}


ROUTES: RouteTable = (
    Route(
        method="GET",
        path="/types",
        handler=_index,
        policy=policies.TYPE_GET_ALL,
        response_schema=responses.TYPES_RESPONSE,
        summary="List share types",
    ),
    Route(
        method="GET",
        path="/types/default",
        handler=_default,
        policy=policies.TYPE_GET,
        response_schema=responses.TYPE_RESPONSE,
        summary="Show the default share type",
    ),
    Route(
        method="GET",
        path="/types/<id:share_type_id>",
        handler=_show,
        policy=policies.TYPE_GET,
        response_schema=responses.TYPE_RESPONSE,
        summary="Show a share type",
    ),
    Route(
        method="GET",
        path="/types/<id:share_type_id>/extra_specs",
        handler=_extra_specs,
        policy=policies.TYPE_GET,
        response_schema=responses.EXTRA_SPECS_RESPONSE,
        summary="Show the extra specifications of a share type",
    ),
)
