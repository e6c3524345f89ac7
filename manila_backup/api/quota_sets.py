# SPDX-License-Identifier: Apache-2.0
"""Handlers of ``/quota-sets``: limits of projects, and what they use of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from manila_backup import exception
from manila_backup.api import versions
from manila_backup.api.request import ApiRequest
from manila_backup.api.route import Route, RouteTable
from manila_backup.api.schemas import quota_sets as schemas
from manila_backup.policies import quota_sets as policies
from manila_backup.quota import ledger
from manila_backup.quota.ledger import RESOURCES, UNLIMITED

QUOTA_SETS = (2, 7)
DETAIL = (2, 25)


def _authorize_for(request: ApiRequest, policy: str, project_id: str) -> None:
    """:raises PolicyNotAuthorized: the caller may not concern himself with that project."""
    request.authorize(policy, {"project_id": project_id})


def _view(request: ApiRequest, values: dict[str, Any], **more: Any) -> dict[str, Any]:
    shown = values if request.version >= versions.BACKUPS else {}
    return {"quota_set": more | shown}


def limits_of(session: Session, request: ApiRequest, quota_project_id: str) -> dict[str, int]:
    found = ledger.limits(session, quota_project_id, request.services.settings.quota_defaults)
    return {name: found.of(name) for name in RESOURCES}


def show(request: ApiRequest, quota_project_id: str) -> dict[str, Any]:
    _authorize_for(request, policies.SHOW, quota_project_id)
    with request.services.database.reader() as session:
        limits = limits_of(session, request, quota_project_id)
    return _view(request, limits, id=quota_project_id)


def detail(request: ApiRequest, quota_project_id: str) -> dict[str, Any]:
    """``reserved`` is always 0: a charge is made with its backup, there are no reservations."""
    _authorize_for(request, policies.SHOW, quota_project_id)
    with request.services.database.reader() as session:
        limits = limits_of(session, request, quota_project_id)
        usage = ledger.usage(session, quota_project_id)
    values = {
        name: {"limit": limits[name], "in_use": getattr(usage, name), "reserved": 0}
        for name in RESOURCES
    }
    return _view(request, values, id=quota_project_id)


def defaults(request: ApiRequest, quota_project_id: str) -> dict[str, Any]:
    _authorize_for(request, policies.SHOW, quota_project_id)
    limits = request.services.settings.quota_defaults
    return _view(request, {name: limits.of(name) for name in RESOURCES}, id=quota_project_id)


def update(request: ApiRequest, quota_project_id: str) -> dict[str, Any]:
    """Below what is used already only with ``force``."""
    _authorize_for(request, policies.UPDATE, quota_project_id)
    _refuse_parts_of_projects(request)
    wanted = request.body["quota_set"]
    limits = {name: int(wanted[name]) for name in RESOURCES if name in wanted}
    if not limits:
        raise exception.InvalidInput(
            field="quota_set", reason="must have at least one of backups, backup_gigabytes."
        )
    if request.version < versions.BACKUPS:
        raise exception.InvalidInput(
            field=f"quota_set.{next(iter(limits))}", reason="is known from version 2.80 on."
        )

    def change(session: Session) -> dict[str, int]:
        if not wanted.get("force", False):
            _refuse_below_usage(session, quota_project_id, limits)
        if request.dry_run:
            return limits
        for name, limit in limits.items():
            ledger.set_limit(session, quota_project_id, name, limit)
        return limits_of(session, request, quota_project_id)

    return _view(request, request.services.database.write(change))


def _refuse_below_usage(session: Session, quota_project_id: str, limits: dict[str, int]) -> None:
    usage = ledger.usage(session, quota_project_id)
    for name, limit in limits.items():
        used = getattr(usage, name)
        if limit != UNLIMITED and limit < used:
            raise exception.InvalidInput(
                field=f"quota_set.{name}",
                reason=f"{limit} is smaller than the {used} that are used already; force sets it "
                "nevertheless.",
            )


def _refuse_parts_of_projects(request: ApiRequest) -> None:
    """To ignore these would change the quota of the whole project instead."""
    for name in ("user_id", "share_type"):
        if name in request.query:
            raise exception.InvalidInput(
                field=name, reason="backup quotas are of projects, not of users or share types."
            )


def delete(request: ApiRequest, quota_project_id: str) -> None:
    _authorize_for(request, policies.DELETE, quota_project_id)
    _refuse_parts_of_projects(request)
    if request.dry_run:
        with request.services.database.reader() as session:
            ledger.usage(session, quota_project_id)
        return
    request.services.database.write(lambda session: ledger.reset_limits(session, quota_project_id))


_ONE = "/quota-sets/<id:quota_project_id>"

ROUTES: RouteTable = (
    Route(
        method="GET",
        path=_ONE,
        handler=show,
        policy=policies.SHOW,
        response_schema=schemas.RESPONSE,
        min_version=QUOTA_SETS,
        summary="Show the quotas of a project",
    ),
    Route(
        method="GET",
        path=f"{_ONE}/detail",
        handler=detail,
        policy=policies.SHOW,
        response_schema=schemas.DETAIL_RESPONSE,
        min_version=DETAIL,
        summary="Show the quotas of a project and their use",
    ),
    Route(
        method="GET",
        path=f"{_ONE}/defaults",
        handler=defaults,
        policy=policies.SHOW,
        response_schema=schemas.RESPONSE,
        min_version=QUOTA_SETS,
        summary="Show the default quotas",
    ),
    Route(
        method="PUT",
        path=_ONE,
        handler=update,
        policy=policies.UPDATE,
        body_schema=schemas.UPDATE,
        query_schema=schemas.QUERY,
        response_schema=schemas.UPDATE_RESPONSE,
        min_version=QUOTA_SETS,
        summary="Set the quotas of a project",
    ),
    Route(
        method="DELETE",
        path=_ONE,
        handler=delete,
        policy=policies.DELETE,
        query_schema=schemas.QUERY,
        status=202,
        min_version=QUOTA_SETS,
        summary="Give a project the default quotas again",
    ),
)
