# SPDX-License-Identifier: Apache-2.0
"""How backups and their operations are shown. The keys of a backup are exactly upstream's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from manila_backup.api import versions, views
from manila_backup.api.request import ApiRequest
from manila_backup.db.backups import Backup, BackupDetail, BackupSummary
from manila_backup.db.clock import iso
from manila_backup.db.operations import Operation
from manila_backup.policies import share_backups as policies


def _summary(backup: Backup | BackupDetail | BackupSummary) -> dict[str, Any]:
    return {
        "id": backup.id,
        "name": backup.name,
        "share_id": backup.share_id,
        "status": str(backup.status),
    }


def detail(request: ApiRequest, backup: Backup) -> dict[str, Any]:
    return _detail(request, backup, with_host=request.allows(policies.GET_HOST))


def _detail(
    request: ApiRequest, backup: Backup | BackupDetail, *, with_host: bool
) -> dict[str, Any]:
    """Clients may check the key set strictly: nothing of ours is added here."""
    shown = _summary(backup) | {
        "description": backup.description,
        "size": backup.size_gib,
        "created_at": iso(backup.created_at_us),
        "updated_at": iso(backup.updated_at_us),
        "availability_zone": backup.availability_zone,
        "progress": str(backup.progress),
        "restore_progress": str(backup.restore_progress),
    }
    if request.version >= versions.BACKUP_TYPE:
        shown["backup_type"] = backup.backup_type
    if with_host:
        shown |= {"host": backup.host, "topic": backup.topic}
    return shown


def summaries(request: ApiRequest, page: Sequence[BackupSummary]) -> dict[str, Any]:
    return _listing(request, page, [_summary(item) for item in page])


def details(request: ApiRequest, page: Sequence[BackupDetail]) -> dict[str, Any]:
    with_host = request.allows(policies.GET_HOST)
    return _listing(request, page, [_detail(request, one, with_host=with_host) for one in page])


def _listing(
    request: ApiRequest,
    page: Sequence[BackupSummary] | Sequence[BackupDetail],
    shown: list[dict[str, Any]],
) -> dict[str, Any]:
    body: dict[str, Any] = {"share_backups": shown}
    links = views.next_links(request, [item.id for item in page], by_marker=True)
    if links:
        body["share_backup_links"] = links
    return body


def operations(request: ApiRequest, rows: Sequence[Operation]) -> dict[str, Any]:
    with_host = request.allows(policies.GET_HOST)
    return {"operations": [_operation(row, with_host=with_host) for row in rows]}


def _operation(row: Operation, *, with_host: bool) -> dict[str, Any]:
    shown = {
        "id": row.id,
        "kind": row.kind.value,
        "status": row.status.value,
        "phase": row.phase and row.phase.value,
        "share_id": row.share_id,
        "mode": row.mode and row.mode.value,
        "progress": row.progress,
        "progress_source": row.progress_source,
        "counters": asdict(row.counters),
        "fail_reason": row.fail_reason,
        "cancel_requested": row.cancel_requested,
        "attempts": row.attempts,
        "request_id": row.request_id,
        "created_at": iso(row.created_at_us),
        "started_at": iso(row.started_at_us),
        "updated_at": iso(row.updated_at_us),
        "finished_at": iso(row.finished_at_us),
    }
    if with_host:
        shown["host"] = row.host
    return shown
