# SPDX-License-Identifier: Apache-2.0
"""Handler of ``/limits``: limits and use of the caller's own project."""

from __future__ import annotations

from typing import Any

from manila_backup.api import versions
from manila_backup.api.quota_sets import limits_of
from manila_backup.api.request import ApiRequest
from manila_backup.api.route import Route, RouteTable
from manila_backup.api.schemas import quota_sets as schemas
from manila_backup.policies import quota_sets as policies
from manila_backup.quota import ledger


def show(request: ApiRequest) -> dict[str, Any]:
    project_id = request.context.project_id
    absolute: dict[str, int] = {}
    if request.version >= versions.BACKUPS:
        with request.services.database.reader() as session:
            limits = limits_of(session, request, project_id)
            usage = ledger.usage(session, project_id)
        absolute = {
            "maxTotalShareBackups": limits[ledger.BACKUPS],
            "maxTotalBackupGigabytes": limits[ledger.GIGABYTES],
            "totalShareBackupsUsed": usage.backups,
            "totalBackupGigabytesUsed": usage.backup_gigabytes,
        }
    return {"limits": {"rate": [], "absolute": absolute}}


ROUTES: RouteTable = (
    Route(
        method="GET",
        path="/limits",
        handler=show,
        policy=policies.LIMITS,
        response_schema=schemas.LIMITS_RESPONSE,
        summary="Show limits and use of the own project",
    ),
)
