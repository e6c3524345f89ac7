# SPDX-License-Identifier: Apache-2.0
"""Statuses, events, and the one table of transitions of each kind of row.

Code names events, never target statuses: ``TRANSITIONS[(status, event)]`` gives the next status and
a missing cell means that the event is illegal there. ``db`` applies a cell as one conditional
UPDATE (WHERE id AND status [AND epoch]).
"""

from __future__ import annotations

from enum import StrEnum


class BackupStatus(StrEnum):
    CREATING = "creating"
    """A create operation is queued or running (or an administrator reset the status)."""

    AVAILABLE = "available"
    """A manifest is published; the backup can be restored."""

    RESTORING = "restoring"
    """A restore operation reads the backup."""

    DELETING = "deleting"
    """A delete operation is queued or running; the manifest may be gone already."""

    ERROR = "error"
    """The create failed or was cancelled; there is nothing to restore."""

    ERROR_DELETING = "error_deleting"
    """A delete failed for good; an administrator may delete again."""

    DELETED = "deleted"
    """Row kept for history (soft delete); charges nothing."""


class BackupEvent(StrEnum):
    CREATED = "created"
    CREATE_FAILED = "create_failed"
    RESTORE = "restore"
    RESTORED = "restored"
    RESTORE_FAILED = "restore_failed"
    DELETE = "delete"
    DELETE_BY_ADMIN = "delete_by_admin"
    DELETED = "deleted"
    DELETE_FAILED = "delete_failed"
    RESET_AVAILABLE = "reset_available"
    RESET_ERROR = "reset_error"
    RESET_CREATING = "reset_creating"
    RESET_DELETING = "reset_deleting"
    RESET_RESTORING = "reset_restoring"
    RESET_ERROR_DELETING = "reset_error_deleting"


class OperationStatus(StrEnum):
    QUEUED = "queued"
    """Committed by the API; any node with free capacity may claim it."""

    RUNNING = "running"
    """A node holds it under a lease; ``phase`` says how far it is."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class OperationEvent(StrEnum):
    CLAIM = "claim"
    TAKE_OVER = "take_over"
    RETRY = "retry"
    FINISH = "finish"
    FAIL = "fail"
    CANCEL = "cancel"


class OperationKind(StrEnum):
    CREATE = "create"
    RESTORE = "restore"
    DELETE = "delete"


class Phase(StrEnum):
    """How far a running operation is. Create and restore pass MARKING to UNMARKING in this order
    (a restore has nothing to publish); a delete mounts the backup share, then DELETING."""

    MARKING = "marking"
    GRANTING = "granting"
    MOUNTING = "mounting"
    COPYING = "copying"
    PUBLISHING = "publishing"
    UNMOUNTING = "unmounting"
    REVOKING = "revoking"
    UNMARKING = "unmarking"
    DELETING = "deleting"


class ShareStatus(StrEnum):
    """What a share is to us. AVAILABLE is the absence of a row in ``busy_shares``."""

    AVAILABLE = "available"
    BACKUP_CREATING = "backup_creating"
    BACKUP_RESTORING = "backup_restoring"

    BACKUP_RESTORING_ERROR = "backup_restoring_error"
    """A restore ended half done: the share's content is neither old nor new. Another restore is
    accepted, a backup is not."""


class ShareEvent(StrEnum):
    BACKUP = "backup"
    BACKUP_ENDED = "backup_ended"
    RESTORE = "restore"
    RESTORED = "restored"
    RESTORE_UNTOUCHED = "restore_untouched"
    RESTORE_FAILED = "restore_failed"
    RESET = "reset"


_B, _BE = BackupStatus, BackupEvent
_EVERY_LIVE_BACKUP = (
    _B.CREATING,
    _B.AVAILABLE,
    _B.RESTORING,
    _B.DELETING,
    _B.ERROR,
    _B.ERROR_DELETING,
)

BACKUP_TRANSITIONS: dict[tuple[BackupStatus, BackupEvent], BackupStatus] = {
    # The data node that published the manifest, in its last transaction.
    (_B.CREATING, _BE.CREATED): _B.AVAILABLE,
    # The data node whose create failed for good; the API on a cancelled create still queued.
    (_B.CREATING, _BE.CREATE_FAILED): _B.ERROR,
    # The API, on a tenant's restore.
    (_B.AVAILABLE, _BE.RESTORE): _B.RESTORING,
    # The data node; whatever became of the share, the backup itself was only read.
    (_B.RESTORING, _BE.RESTORED): _B.AVAILABLE,
    (_B.RESTORING, _BE.RESTORE_FAILED): _B.AVAILABLE,
    # The API, on a member's delete.
    (_B.AVAILABLE, _BE.DELETE): _B.DELETING,
    (_B.ERROR, _BE.DELETE): _B.DELETING,
    # The API, on an administrator's delete; an operation that still runs is cancelled first, so
    # creating and restoring are deletable only when no operation holds the backup.
    (_B.AVAILABLE, _BE.DELETE_BY_ADMIN): _B.DELETING,
    (_B.ERROR, _BE.DELETE_BY_ADMIN): _B.DELETING,
    (_B.ERROR_DELETING, _BE.DELETE_BY_ADMIN): _B.DELETING,
    (_B.CREATING, _BE.DELETE_BY_ADMIN): _B.DELETING,
    (_B.RESTORING, _BE.DELETE_BY_ADMIN): _B.DELETING,
    (_B.DELETING, _BE.DELETE_BY_ADMIN): _B.DELETING,
    # The data node, when nothing of the backup is left in the store.
    (_B.DELETING, _BE.DELETED): _B.DELETED,
    (_B.DELETING, _BE.DELETE_FAILED): _B.ERROR_DELETING,
}
# The API, on an administrator's reset_status: sets the row and touches nothing else.
for _status in _EVERY_LIVE_BACKUP:
    BACKUP_TRANSITIONS[(_status, _BE.RESET_AVAILABLE)] = _B.AVAILABLE
    BACKUP_TRANSITIONS[(_status, _BE.RESET_ERROR)] = _B.ERROR
    BACKUP_TRANSITIONS[(_status, _BE.RESET_CREATING)] = _B.CREATING
    BACKUP_TRANSITIONS[(_status, _BE.RESET_DELETING)] = _B.DELETING
    BACKUP_TRANSITIONS[(_status, _BE.RESET_RESTORING)] = _B.RESTORING
    BACKUP_TRANSITIONS[(_status, _BE.RESET_ERROR_DELETING)] = _B.ERROR_DELETING

_O, _OE = OperationStatus, OperationEvent
OPERATION_TRANSITIONS: dict[tuple[OperationStatus, OperationEvent], OperationStatus] = {
    # A data node with free capacity; raises the epoch and starts the lease.
    (_O.QUEUED, _OE.CLAIM): _O.RUNNING,
    # A data node, on its own leftover at start or on another's whose lease has expired.
    (_O.RUNNING, _OE.TAKE_OVER): _O.RUNNING,
    # The holder, after a transient error with attempts left; back to the queue, not before
    # ``not_before``.
    (_O.RUNNING, _OE.RETRY): _O.QUEUED,
    # The holder.
    (_O.RUNNING, _OE.FINISH): _O.DONE,
    (_O.RUNNING, _OE.FAIL): _O.FAILED,
    # The holder, after ``cancel_requested`` was seen and everything was undone.
    (_O.RUNNING, _OE.CANCEL): _O.CANCELLED,
    # The API, on a cancel before any node claimed it.
    (_O.QUEUED, _OE.CANCEL): _O.CANCELLED,
}

_S, _SE = ShareStatus, ShareEvent
SHARE_TRANSITIONS: dict[tuple[ShareStatus, ShareEvent], ShareStatus] = {
    # The API, in the transaction that queues the operation.
    (_S.AVAILABLE, _SE.BACKUP): _S.BACKUP_CREATING,
    (_S.AVAILABLE, _SE.RESTORE): _S.BACKUP_RESTORING,
    # Another restore heals a failed one; a backup of half-restored content is refused.
    (_S.BACKUP_RESTORING_ERROR, _SE.RESTORE): _S.BACKUP_RESTORING,
    # The data node (or the API, cancelling a queued operation): however the backup ended.
    (_S.BACKUP_CREATING, _SE.BACKUP_ENDED): _S.AVAILABLE,
    # The data node.
    (_S.BACKUP_RESTORING, _SE.RESTORED): _S.AVAILABLE,
    # The restore ended before its first write to the share.
    (_S.BACKUP_RESTORING, _SE.RESTORE_UNTOUCHED): _S.AVAILABLE,
    (_S.BACKUP_RESTORING, _SE.RESTORE_FAILED): _S.BACKUP_RESTORING_ERROR,
    # An administrator's ``share set --status available``, or the end of the share.
    (_S.BACKUP_RESTORING_ERROR, _SE.RESET): _S.AVAILABLE,
}

ACTIVE_OPERATIONS = frozenset({_O.QUEUED, _O.RUNNING})
"""Operations that still hold their backup and their share."""

MEMBER_DELETABLE = frozenset(status for status, event in BACKUP_TRANSITIONS if event is _BE.DELETE)
"""Backups that a project member may delete; anything else is a 400, as upstream."""

RESETTABLE = {
    "available": _BE.RESET_AVAILABLE,
    "error": _BE.RESET_ERROR,
    "creating": _BE.RESET_CREATING,
    "deleting": _BE.RESET_DELETING,
    "restoring": _BE.RESET_RESTORING,
    "error_deleting": _BE.RESET_ERROR_DELETING,
}
"""Status named in a reset_status request -> the event it fires."""
