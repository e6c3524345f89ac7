# SPDX-License-Identifier: Apache-2.0
"""What is done to a share's record, as pure functions: whoever keeps records hands them to its own
way of replacing a record in one step. None of them touches a disk.
"""

from __future__ import annotations

from dataclasses import replace

from manila_backup.context import RequestContext
from manila_backup.exception import Invalid, InvalidShare, ShareBusy, ShareNotFound
from manila_backup.share.local.records import LocalShare, ShareMark
from manila_backup.types import Share

DELETABLE_STATUSES = frozenset({"available", "error", "inactive"})
BUSY_TASK_STATES = frozenset(
    {
        "migration_starting",
        "migration_in_progress",
        "migration_completing",
        "migration_driver_starting",
        "migration_driver_in_progress",
        "migration_driver_phase1_done",
        "data_copying_starting",
        "data_copying_in_progress",
        "data_copying_completing",
        "data_copying_completed",
    }
)
HELD_STATUSES = frozenset(
    {
        "creating",
        "deleting",
        "error_deleting",
        "extending",
        "shrinking",
        "reverting",
        "migrating",
        "migrating_to",
        "server_migrating",
    }
)
"""Statuses that mean that something else is being done, or was half done, with the share."""


def as_seen(record: LocalShare, context: RequestContext, *, has_snapshots: bool) -> Share:
    """The share as the user of ``context`` sees it.

    :raises ShareNotFound: it is a private share of another project.
    """
    if not (context.is_admin or record.is_public or record.project_id == context.project_id):
        raise ShareNotFound(share_id=record.id)
    return Share(
        id=record.id,
        project_id=record.project_id,
        name=record.name,
        status=record.status,
        task_state=record.task_state,
        share_proto=record.share_proto,
        size_gib=record.size_gib,
        is_public=record.is_public,
        has_snapshots=has_snapshots,
        availability_zone=record.availability_zone,
    )


def marked(record: LocalShare, mark: ShareMark) -> LocalShare:
    """With the mark; the same operation may change what it is for.

    :raises ShareBusy: another operation, or something else, holds the share.
    """
    if record.mark is not None and record.mark.operation_id == mark.operation_id:
        return replace(record, mark=mark)
    if record.mark is not None:
        reason = f"operation {record.mark.operation_id} holds it"
        raise ShareBusy(share_id=record.id, reason=reason)
    if record.status in HELD_STATUSES:
        raise ShareBusy(share_id=record.id, reason=f"its status is {record.status}")
    refuse_task(record)
    return replace(record, mark=mark)


def unmarked(record: LocalShare, operation_id: str) -> LocalShare:
    """Without the mark of this operation; a mark of another stays."""
    if record.mark is None or record.mark.operation_id != operation_id:
        return record
    return replace(record, mark=None)


def refuse_task(share: LocalShare) -> None:
    """:raises ShareBusy: a task of the share itself is under way."""
    if share.task_state in BUSY_TASK_STATES:
        raise ShareBusy(share_id=share.id, reason=f"its task state is {share.task_state}.")


def refuse_unless_available(share: LocalShare) -> None:
    """Refuse a change of an unavailable share: the way of resizing and of taking snapshots.

    :raises InvalidShare: its status is another, or a backup operation holds it.
    :raises ShareBusy: a task of the share is under way.
    """
    status = share.status if share.mark is None else share.mark.status
    if status != "available":
        raise InvalidShare(reason=f"its status is {status}, it must be available.")
    refuse_task(share)


def resized(share: LocalShare, size_gib: int) -> LocalShare:
    """``share`` with another size.

    :raises InvalidShare: as :func:`refuse_unless_available`.
    :raises Invalid: the size is not one.
    """
    refuse_unless_available(share)
    if size_gib < 1:
        raise Invalid(reason=f"The size of a share must be positive, not {size_gib}.")
    return replace(share, size_gib=size_gib)


def being_removed(share: LocalShare, *, force: bool, has_snapshots: bool) -> LocalShare:
    """``share`` with the announcement of its removal.

    ``force`` passes over the status, never over an operation or task that holds the share.
    :raises InvalidShare: the status does not allow it, or there are snapshots.
    :raises ShareBusy: a task of the share holds it.
    """
    if share.mark is not None:
        raise InvalidShare(reason=f"its status is {share.mark.status}.")
    if not force and share.status not in DELETABLE_STATUSES:
        raise InvalidShare(reason=f"its status is {share.status}.")
    if has_snapshots:
        raise InvalidShare(reason="it still has snapshots.")
    refuse_task(share)
    return replace(share, status="deleting", removing=True)
