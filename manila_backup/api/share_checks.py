# SPDX-License-Identifier: Apache-2.0
"""What a share must be like to be backed up or restored to."""

from __future__ import annotations

from sqlalchemy.orm import Session

from manila_backup import exception
from manila_backup.api.context import usable_project
from manila_backup.api.options import Settings
from manila_backup.context import RequestContext
from manila_backup.db import busy_shares
from manila_backup.states import ShareStatus
from manila_backup.types import Share

FINISHED_TASK_STATES = frozenset(
    {
        "migration_success",
        "migration_error",
        "migration_cancelled",
        "data_copying_cancelled",
        "data_copying_error",
    }
)
"""Task states that hold a share no longer. Any other, also one that we do not know, holds it."""


def refuse_foreign(
    context: RequestContext, share: Share, what: str, *, owner: str | None = None
) -> None:
    """A share of another project that can be seen (it is public) is still not the caller's.

    :param owner: the project that the share has to belong to, for administrators too: a backup
        is never laid over a share of another project. None means the caller's project, and any
        for an administrator.
    :raises Forbidden:
    """
    if owner is None:
        allowed = context.is_admin or share.project_id == context.project_id
    else:
        allowed = share.project_id == owner
    if not allowed:
        raise exception.Forbidden(
            reason=f"Share {share.id} belongs to another project and cannot be {what}."
        )
    if not usable_project(share.project_id):
        raise exception.InvalidShare(
            reason=f"The project of share {share.id} cannot name a directory in the store."
        )


def refuse_soft_deleted(share: Share) -> None:
    """:raises Forbidden:"""
    if share.is_soft_deleted:
        raise exception.Forbidden(reason=f"Share {share.id} has been soft deleted.")


def refuse_held(
    session: Session, share_id: str, *, for_restore: bool = False
) -> ShareStatus | None:
    """Refuse a share that one of our operations holds.

    :returns: ``backup_restoring_error`` if that is the share's status; only for a restore.
    :raises InvalidShare: an operation is queued or running; or a backup is asked for of content
        that a failed restore left half done.
    """
    held = busy_shares.get(session, share_id)
    if held is None:
        return None
    if held.status is not ShareStatus.BACKUP_RESTORING_ERROR:
        # In our eyes the share is not available, and upstream's status for that is 400; 409 is for
        # the tasks of others.
        raise exception.InvalidShare(
            reason=f"Share {share_id} is in '{held.status}' state, but it must be in 'available' "
            "state."
        )
    if not for_restore:
        raise exception.InvalidShare(
            reason=f"Share {share_id} is in '{held.status}' state, but it must be in 'available' "
            "state to create a backup. Restore a backup to it, or have its status reset."
        )
    return held.status


def refuse_unfit_for_backup(share: Share, settings: Settings) -> None:
    """:raises InvalidShare: :raises ShareBusy:"""
    _refuse_task(share)
    if share.status != "available":
        raise exception.InvalidShare(
            reason=f"Share {share.id} is in '{share.status}' state, but it must be in 'available' "
            "state to create a backup."
        )
    if share.has_snapshots and settings.refuse_shares_with_snapshots:
        raise exception.InvalidShare(
            reason=f"Cannot backup share {share.id} while it has snapshots."
        )
    if share.has_replicas:
        raise exception.InvalidShare(
            reason=f"Cannot backup share {share.id} while it has replicas."
        )
    _refuse_protocol(share, settings)


def refuse_unfit_for_restore(share: Share, settings: Settings, *, size_gib: int) -> None:
    """:raises InvalidShare: :raises ShareBusy:"""
    _refuse_task(share)
    if share.status != "available":
        raise exception.InvalidShare(
            reason=f"Share {share.id} to be restored to must be available, not '{share.status}'."
        )
    if share.has_replicas:
        raise exception.InvalidShare(
            reason=f"Cannot restore to share {share.id} while it has replicas."
        )
    _refuse_protocol(share, settings)
    if share.size_gib < size_gib:
        raise exception.InvalidShare(
            reason=f"Share size {share.size_gib} is too small to restore backup of size {size_gib}."
        )


def _refuse_task(share: Share) -> None:
    if share.task_state and share.task_state not in FINISHED_TASK_STATES:
        raise exception.ShareBusy(share_id=share.id, reason=f"its task is {share.task_state}.")


def _refuse_protocol(share: Share, settings: Settings) -> None:
    supported = {proto.upper() for proto in settings.share_protocols}
    if share.share_proto.upper() not in supported:
        raise exception.InvalidShare(
            reason=f"Share {share.id} has the protocol {share.share_proto}; supported are: "
            f"{', '.join(sorted(supported))}."
        )
