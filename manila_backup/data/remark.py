# SPDX-License-Identifier: Apache-2.0
"""Marks of running operations, set again where somebody has taken them off: an administrator who
resets the task state of a share does not know that it is ours.
"""

from __future__ import annotations

from oslo_concurrency import lockutils
from oslo_log import log

from manila_backup.context import service_context
from manila_backup.data.holder import Holder
from manila_backup.data.undo import undo_lock
from manila_backup.db import intents
from manila_backup.db.intents import IntentKind
from manila_backup.states import OperationKind, ShareStatus

LOG = log.getLogger(__name__)

_STATUS = {
    OperationKind.CREATE: ShareStatus.BACKUP_CREATING,
    OperationKind.RESTORE: ShareStatus.BACKUP_RESTORING,
}


def mark_again(holder: Holder) -> None:
    """Mark the share of a running operation, if it is to be marked now. Idempotent; costs a few
    requests to the provider.

    The job, which runs beside, does not take the mark off meanwhile. An error is logged: the copy
    goes on, and whether its share is still its project's is looked at when it ends.
    """
    held = holder.operation
    try:
        with lockutils.lock(undo_lock(holder.node, held.id), do_log=False):
            _mark_again(holder)
    except Exception as error:  # noqa: BLE001 - one share must not keep the reaper from others
        LOG.warning(
            "Operation %(id)s: the mark of share %(share)s could not be looked after: %(error)s",
            {"id": held.id, "share": held.share_id, "error": error},
        )


def _mark_again(holder: Holder) -> None:
    held, provider = holder.operation, holder.node.provider
    with holder.node.database.reader() as session:
        found = intents.of_operation(session, held.id)
    marks = [each for each in found if each.kind is IntentKind.MARK and each.epoch == held.epoch]
    if not marks or holder.stop.event.is_set():
        return
    share = provider.get(service_context(held.request_id), held.share_id)
    holder.note()  # the fence: who is overtaken makes nothing more
    provider.mark(share, held.id, _STATUS[held.kind])
    holder.made(marks[-1], marks[-1].detail)
