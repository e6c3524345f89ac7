# SPDX-License-Identifier: Apache-2.0
"""Handlers of ``/share-backups`` and its sub-resources."""

from __future__ import annotations

from typing import Any

from manila_backup.api import backups_service as service
from manila_backup.api import versions, views
from manila_backup.api import views_share_backups as view
from manila_backup.api.backup_options import read_options
from manila_backup.api.request import ApiRequest
from manila_backup.api.route import Action, Route, RouteTable
from manila_backup.api.schemas import share_backups as schemas
from manila_backup.db import backups, operations
from manila_backup.db.backups import (
    Backup,
    BackupDetail,
    BackupFilter,
    BackupSummary,
    Listed,
)
from manila_backup.policies import share_backups as policies
from manila_backup.types import RestoreMode

_EQUAL = ("name", "description", "status", "share_id", "topic")


def _find(request: ApiRequest, backup_id: str) -> Backup:
    """:raises BackupNotFound: there is none, or another project's; the answer is the same."""
    project_id = None
    if not request.allows(policies.GET_ALL_PROJECT):
        project_id = request.context.project_id
    with request.services.database.reader() as session:
        return backups.get(session, backup_id, project_id=project_id)


def _filter(request: ApiRequest) -> BackupFilter:
    query = request.query
    project_id = request.context.project_id
    if request.allows(policies.GET_ALL_PROJECT):
        # From others these parameters are ignored: clients send all_tenants with each look-up.
        if query.get("all_tenants") or query.get("all_projects"):
            project_id = None
        project_id = query.get("project_id", project_id)
    host = query.get("host") if request.allows(policies.GET_HOST) else None
    return BackupFilter(
        project_id=project_id,
        host=host,
        name_like=query.get("name~"),
        description_like=query.get("description~"),
        **{name: query.get(name) for name in _EQUAL},
    )


def _page(request: ApiRequest, kind: type[Listed]) -> list[Listed]:
    query = request.query
    with request.services.database.reader() as session:
        return backups.find(
            session,
            _filter(request),
            kind,
            sort_key=query.get("sort_key", "created_at"),
            descending=query.get("sort_dir", "desc") == "desc",
            limit=views.page_size(request),
            offset=query.get("offset", 0),
            marker=query.get("marker"),
        )


def index(request: ApiRequest) -> dict[str, Any]:
    return view.summaries(request, _page(request, BackupSummary))


def detail(request: ApiRequest) -> dict[str, Any]:
    return view.details(request, _page(request, BackupDetail))


def show(request: ApiRequest, backup_id: str) -> dict[str, Any]:
    return {"share_backup": view.detail(request, _find(request, backup_id))}


def create(request: ApiRequest) -> dict[str, Any]:
    wanted = request.body["share_backup"]
    backup = service.create(
        request.services,
        request.context,
        service.BackupRequest(
            share_id=wanted["share_id"],
            name=wanted.get("name"),
            description=wanted.get("description"),
            options=read_options(wanted.get("backup_options"), request.services.settings),
        ),
    )
    return {"share_backup": view.detail(request, backup)}


def update(request: ApiRequest, backup_id: str) -> dict[str, Any]:
    """``name`` wins over ``display_name``, ``description`` over ``display_description``."""
    wanted = request.body["share_backup"]
    changes = {
        column: wanted.get(column, wanted.get(f"display_{column}"))
        for column in ("name", "description")
        if column in wanted or f"display_{column}" in wanted
    }
    backup = _find(request, backup_id)
    if changes:
        request.services.database.write(
            lambda session: backups.describe(session, backup.id, changes)
        )
    return {"share_backup": view.detail(request, _find(request, backup_id))}


def delete(request: ApiRequest, backup_id: str) -> None:
    backup = _find(request, backup_id)
    service.delete(
        request.services,
        request.context,
        backup.id,
        any_status=request.allows(policies.DELETE_ANY_STATUS),
    )


def restore_to_source(request: ApiRequest, backup_id: str) -> dict[str, Any]:
    """Below 2.91: whatever the value is, the restore goes to the source share, as upstream."""
    return _restore(request, backup_id, None)


def restore(request: ApiRequest, backup_id: str) -> dict[str, Any]:
    return _restore(request, backup_id, request.body)


def _restore(request: ApiRequest, backup_id: str, target: str | None) -> dict[str, Any]:
    operation = service.restore(
        request.services,
        request.context,
        _find(request, backup_id),
        target_share_id=target,
        mode=RestoreMode.EXACT,
    )
    return {"restore": {"backup_id": operation.backup_id, "share_id": operation.share_id}}


def create_restore(request: ApiRequest, backup_id: str) -> dict[str, Any]:
    wanted = request.body["restore"]
    mode = RestoreMode(wanted.get("mode", RestoreMode.EXACT))
    operation = service.restore(
        request.services,
        request.context,
        _find(request, backup_id),
        target_share_id=wanted.get("target_share_id"),
        mode=mode,
    )
    return {
        "restore": {
            "backup_id": operation.backup_id,
            "share_id": operation.share_id,
            "mode": mode.value,
            "operation_id": operation.id,
        }
    }


def reset_status(request: ApiRequest, backup_id: str) -> None:
    backup = _find(request, backup_id)
    service.reset_status(request.services, backup, request.body["status"])


def cancel(request: ApiRequest, backup_id: str) -> None:
    service.cancel(request.services, _find(request, backup_id).id)


def list_operations(request: ApiRequest, backup_id: str) -> dict[str, Any]:
    backup = _find(request, backup_id)
    with request.services.database.reader() as session:
        found = operations.of_backup(session, backup.id)
    return view.operations(request, found)


_ALL = "/share-backups"
_ONE = "/share-backups/<id:backup_id>"
_EXPERIMENTAL: dict[str, Any] = {"min_version": versions.BACKUPS, "experimental": True}

_ACTIONS = (
    Action(
        name="restore",
        handler=restore_to_source,
        policy=policies.RESTORE,
        value_schema=schemas.RESTORE_TO_SOURCE,
        max_version=(2, 90),
        response_schema=schemas.RESTORE_RESPONSE,
        summary="Restore a backup to its share",
        **_EXPERIMENTAL,
    ),
    Action(
        name="restore",
        handler=restore,
        policy=policies.RESTORE,
        value_schema=schemas.RESTORE,
        response_schema=schemas.RESTORE_RESPONSE,
        summary="Restore a backup to its share or to another",
        min_version=versions.RESTORE_TO_TARGET,
        experimental=True,
    ),
    Action(
        name="reset_status",
        handler=reset_status,
        policy=policies.RESET_STATUS,
        value_schema=schemas.RESET_STATUS,
        summary="Set the status of a backup by hand",
        **_EXPERIMENTAL,
    ),
    Action(
        name="cancel",
        handler=cancel,
        policy=policies.CANCEL,
        value_schema=schemas.CANCEL,
        summary="Cancel the create or restore of a backup",
        **_EXPERIMENTAL,
    ),
)

ROUTES: RouteTable = (
    Route(
        method="GET",
        path=_ALL,
        handler=index,
        policy=policies.GET_ALL,
        query_schema=schemas.LIST_QUERY,
        response_schema=schemas.LIST_RESPONSE,
        summary="List backups",
        **_EXPERIMENTAL,
    ),
    Route(
        method="GET",
        path=f"{_ALL}/detail",
        handler=detail,
        policy=policies.GET_ALL,
        query_schema=schemas.LIST_QUERY,
        response_schema=schemas.DETAIL_LIST_RESPONSE,
        summary="List backups with details",
        **_EXPERIMENTAL,
    ),
    Route(
        method="POST",
        path=_ALL,
        handler=create,
        policy=policies.CREATE,
        body_schema=schemas.CREATE,
        status=202,
        response_schema=schemas.DETAIL_RESPONSE,
        summary="Back a share up",
        **_EXPERIMENTAL,
    ),
    Route(
        method="GET",
        path=_ONE,
        handler=show,
        policy=policies.GET,
        response_schema=schemas.DETAIL_RESPONSE,
        summary="Show a backup",
        **_EXPERIMENTAL,
    ),
    Route(
        method="PUT",
        path=_ONE,
        handler=update,
        policy=policies.UPDATE,
        body_schema=schemas.UPDATE,
        response_schema=schemas.DETAIL_RESPONSE,
        summary="Set name and description of a backup",
        **_EXPERIMENTAL,
    ),
    Route(
        method="DELETE",
        path=_ONE,
        handler=delete,
        policy=policies.DELETE,
        status=202,
        summary="Delete a backup",
        **_EXPERIMENTAL,
    ),
    Route(
        method="POST",
        path=f"{_ONE}/action",
        actions=_ACTIONS,
        status=202,
        summary="Act on a backup",
        **_EXPERIMENTAL,
    ),
    Route(
        method="GET",
        path=f"{_ONE}/operations",
        handler=list_operations,
        policy=policies.OPERATIONS,
        response_schema=schemas.OPERATIONS_RESPONSE,
        summary="The newest hundred operations of a backup, newest first",
        **_EXPERIMENTAL,
    ),
    Route(
        method="POST",
        path=f"{_ONE}/restores",
        handler=create_restore,
        policy=policies.RESTORE,
        body_schema=schemas.RESTORES,
        status=202,
        response_schema=schemas.RESTORES_RESPONSE,
        summary="Restore a backup, choosing the mode",
        **_EXPERIMENTAL,
    ),
)
