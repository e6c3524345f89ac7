# SPDX-License-Identifier: Apache-2.0
"""The one tree of errors.

Every class carries a message template; its fields are keyword arguments and stay readable as
attributes. Constructors log nothing. Instances survive pickling, since workers hand them to their
parent. HTTP status and stable code of each class stand in ``api/errors.py`` only.

Errors of a running operation are either :class:`TransientError` (trying the same again later may
succeed) or :class:`PermanentError` (it will not).
"""

from __future__ import annotations

from typing import Any, ClassVar


class ManilaBackupError(Exception):
    """Base of all our errors."""

    message: ClassVar[str] = "An unknown error occurred."

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        super().__init__(self.message.format_map(fields))

    def __getattr__(self, name: str) -> Any:
        # Only reached when normal lookup fails. ``__dict__`` avoids recursion while unpickling.
        fields = self.__dict__.get("fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.fields))


def _rebuild(cls: type[ManilaBackupError], fields: dict[str, Any]) -> ManilaBackupError:
    return cls(**fields)


# --- refused requests -----------------------------------------------------------------------------


class Invalid(ManilaBackupError):
    """The request cannot be carried out as it stands."""

    message = "{reason}"


class InvalidInput(Invalid):
    """A value in the request is wrong; ``field`` is its JSON path or parameter name."""

    message = "Invalid input for field {field}: {reason}"


class InvalidShare(Invalid):
    message = "Invalid share: {reason}"


class InvalidBackup(Invalid):
    message = "Invalid backup: {reason}"


class NotFound(ManilaBackupError):
    message = "The resource could not be found."


class BackupNotFound(NotFound):
    message = "Backup {backup_id} could not be found."


class ShareNotFound(NotFound):
    message = "Share {share_id} could not be found."


class SourceShareGone(ShareNotFound):
    """The share that a backup was made of is gone; the backup itself is not concerned."""

    message = (
        "Share {share_id}, of which the backup was made, could not be found. The backup can be "
        "restored to another share (--target-share)."
    )


class ShareSnapshotNotFound(NotFound):
    message = "Snapshot {snapshot_id} could not be found."


class OperationNotFound(NotFound):
    message = "Operation {operation_id} could not be found."


class MessageNotFound(NotFound):
    message = "Message {message_id} could not be found."


class Unauthenticated(ManilaBackupError):
    message = "Authentication is required: {reason}"


class Forbidden(ManilaBackupError):
    message = "{reason}"


class PolicyNotAuthorized(Forbidden):
    message = "Policy doesn't allow {action} to be performed."


class ShareBusy(ManilaBackupError):
    """Another operation or task holds the share."""

    message = "Share {share_id} is busy: {reason}"


class QuotaExceeded(ManilaBackupError):
    message = "Quota exceeded."


class BackupLimitExceeded(QuotaExceeded):
    message = "Maximum number of backups allowed ({allowed}) exceeded."


class BackupGigabytesExceeded(QuotaExceeded):
    message = (
        "Requested backup exceeds allowed Backup gigabytes quota. Requested {requested}G, "
        "quota is {quota}G and {consumed}G has been consumed."
    )


# --- the state of rows ----------------------------------------------------------------------------


class IllegalTransition(ManilaBackupError):
    """``states`` has no cell for this status and event; nothing was changed."""

    message = "{kind} {id} in status '{status}' does not accept the event '{event}'."


class StaleRow(ManilaBackupError):
    """The row is not as the caller last saw it (another status or epoch); nothing was changed."""

    message = "{kind} {id} was changed by somebody else."


# --- errors of a running operation ----------------------------------------------------------------


class OperationError(ManilaBackupError):
    """Base of what can end an operation; ``str()`` is fit for the tenant's ``fail_reason``."""

    message = "{reason}"


class TransientError(OperationError):
    """Trying the same again later may succeed."""


class PermanentError(OperationError):
    """Trying the same again will not help."""


class Cancelled(PermanentError):
    message = "The operation was cancelled."


class LeaseLost(PermanentError):
    """This node may no longer act for the operation; it must change nothing more."""

    message = "Another data node has taken over operation {operation_id}."


class WorkerDied(TransientError):
    message = "The worker process of the operation ended unexpectedly ({how})."


class MountFailed(TransientError):
    message = "Could not mount {export}: {reason}"


class GrantFailed(TransientError):
    message = "Access of the data node to share {share_id} could not be {what}: {reason}"


class CopyFailed(PermanentError):
    """A file operation failed. ``path`` is printable (escaped), ``errno`` the system's number."""

    message = "{path}: {reason} (errno {errno})"


class NotEnoughSpace(PermanentError):
    message = "Not enough free space on {where}: {needed} bytes are needed, {free} are free."


class NotEnoughInodes(NotEnoughSpace):
    """There may be bytes left, but no room for so many files and directories."""

    message = "Not enough free inodes on {where}: {needed} are needed, {free} are free."


class BackupDamaged(PermanentError):
    """What is stored is not what was stored; ``what`` names the manifest, catalog or path."""

    message = "Backup {backup_id} is damaged: {what}"


class BackupNotStored(BackupDamaged):
    """The store has no published manifest for this backup and epoch."""

    message = "Backup {backup_id} has no valid manifest in the store: {what}"


class ShareChangedHands(PermanentError):
    message = "Share {share_id} no longer belongs to the project of the operation."
