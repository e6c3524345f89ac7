# SPDX-License-Identifier: Apache-2.0
"""Undo what an intent says may have been made. The same for a job that ends and for the reaper
that comes after a dead one.
"""

from __future__ import annotations

from oslo_concurrency import lockutils
from oslo_log import log

from manila_backup import exception
from manila_backup.context import service_context
from manila_backup.data.node import BINARY, Node
from manila_backup.data.store import call_store
from manila_backup.db import busy_shares, intents, services
from manila_backup.db.clock import US_PER_S
from manila_backup.db.intents import Intent, IntentKind
from manila_backup.states import ShareStatus
from manila_backup.types import AccessLevel, BackupRef, Grant

LOG = log.getLogger(__name__)


def forget_gone_shares(node: Node) -> None:
    """That a restore has failed is forgotten with the share. Idempotent; costs a request to the
    provider for each such share. What the provider cannot say now is left for the next time.
    """
    with node.database.reader() as session:
        statuses = busy_shares.all_statuses(session)
    for share_id, status in statuses.items():
        if status is not ShareStatus.BACKUP_RESTORING_ERROR:
            continue
        try:
            node.provider.get(service_context(), share_id)
        except exception.ShareNotFound:
            _forget(node, share_id)
        except Exception as error:  # noqa: BLE001 - one share must not keep the reaper from others
            LOG.warning("Could not look whether share %s is gone: %s", share_id, error)


def _forget(node: Node, share_id: str) -> None:
    if node.database.write(lambda session: busy_shares.reset(session, share_id)):
        LOG.info("Share %s is gone, and with it that its restore has failed.", share_id)


def undo_lock(node: Node, operation_id: str) -> str:
    """Name of the node's own lock under which an operation's intents are undone."""
    return f"undo-{node.settings.host}-{operation_id}"


def undo(node: Node, intent: Intent) -> bool:
    """Undo one intent and forget it; idempotent.

    One at a time per operation: the reaper, late with a list of its own, must not revoke what the
    next operation on the share has been granted after it undid the same intent itself.
    :returns: False when it failed; the intent stays, with the error, to be tried again.
    """
    with lockutils.lock(undo_lock(node, intent.operation_id), do_log=False):
        with node.database.reader() as session:
            left = {found.id for found in intents.of_operation(session, intent.operation_id)}
        return intent.id not in left or _undo_and_forget(node, intent)


def _undo_and_forget(node: Node, intent: Intent) -> bool:
    try:
        _undo(node, intent)
    except Exception as error:  # noqa: BLE001 - a cleanup error never hides the first one
        LOG.warning(
            "Could not undo %(kind)s of operation %(operation)s: %(error)s",
            {"kind": intent.kind, "operation": intent.operation_id, "error": error},
        )
        reason = str(error)
        node.database.write(lambda session: intents.failed(session, intent.id, reason))
        return False
    node.database.write(lambda session: intents.undone(session, intent.id))
    return True


def _undo(node: Node, intent: Intent) -> None:
    detail = intent.detail
    if intent.kind is IntentKind.MARK:
        node.provider.unmark(detail["share_id"], intent.operation_id)
    elif intent.kind is IntentKind.GRANT:
        _revoke(node, intent)
    elif intent.kind is IntentKind.MOUNT:
        if intent.host != node.settings.host:
            raise exception.MountFailed(
                export=detail["path"], reason=f"it is mounted on {intent.host}"
            )
        node.mounts.unmount(detail["path"])
    else:
        _discard(node, intent)


def _revoke(node: Node, intent: Intent) -> None:
    """A node that reports in needs nobody else to take its access to the backup share away, which
    other operations of it may need: it does so itself, with its next one at the latest."""
    if intent.detail["share_id"] != node.backup_share.share_id:
        node.provider.revoke(grant_of(intent))
    elif intent.host == node.settings.host:
        node.backup_share.release()
    elif _is_silent(node, intent.host):
        node.provider.revoke(grant_of(intent))


def _is_silent(node: Node, host: str) -> bool:
    with node.database.reader() as session:
        found = [one for one in services.find(session) if (one.host, one.binary) == (host, BINARY)]
    return all(one.silent_us > node.settings.lease_s * US_PER_S for one in found)


def grant_of(intent: Intent) -> Grant:
    """The grant that an intent of kind GRANT may have led to. Before it was known whether a rule
    of the tenant would be reused, it counts as ours; the provider tells its own rules apart.
    """
    return Grant(
        share_id=intent.detail["share_id"],
        address=intent.detail["address"],
        level=AccessLevel(intent.detail["level"]),
        ours=intent.detail.get("ours", "yes") == "yes",
        reference=intent.detail.get("reference"),
    )


def _discard(node: Node, intent: Intent) -> None:
    ref = BackupRef(
        project_id=intent.detail["project_id"],
        backup_id=intent.detail["backup_id"],
        epoch=intent.epoch,
    )
    call_store(node.backup_share, node.settings, "discard", ref)
