# SPDX-License-Identifier: Apache-2.0
"""Taking over a restore: whoever wrote to the share before must have ended, or be cut off.

The epoch keeps an overtaken node from the rows, not from the share: a worker that has begun to
write goes on, whatever its parent knows (the node is suspended, or cut off from the database but
not from the file server).
"""

from __future__ import annotations

from collections.abc import Iterable

from oslo_log import log

from manila_backup import exception
from manila_backup.data.holder import Stop
from manila_backup.data.node import Node
from manila_backup.data.undo import grant_of
from manila_backup.data.worker_process import ProcessId, kill_group
from manila_backup.db.intents import Intent, IntentKind
from manila_backup.db.operations import Operation
from manila_backup.states import OperationKind

LOG = log.getLogger(__name__)


def recorded_worker(operation: Operation) -> ProcessId | None:
    """The process that was the last to work at it, as far as the row knows."""
    if operation.worker_pid is None or operation.worker_started is None:
        return None
    return ProcessId(pid=operation.worker_pid, started=operation.worker_started)


def fence_off(node: Node, held: Operation, own: Iterable[Intent], stop: Stop) -> None:
    """Return when nobody of former epochs can write to the share any more.

    By the end of the worker's process group, where it can be seen; else by taking away what access
    the other node has been granted, and waiting ``takeover_grace_s``. The intents of these grants
    stay until then, so whoever comes next does it all again. ``own`` are the operation's intents.
    Idempotent. What only read (a create), or had not begun to write, needs no fence: its next
    question to the database is answered with an error.
    :raises Cancelled: the job is to stop.
    :raises GrantFailed: an access rule may still be there.
    :raises TransientError: the worker hangs in the kernel.
    :raises PermanentError: there is no way to be sure.
    """
    if held.kind is not OperationKind.RESTORE or not held.share_written:
        return
    worker = recorded_worker(held)
    if worker is not None and worker.is_within_sight:
        # Those before it were fenced off before it began.
        if kill_group(worker):
            return
        raise exception.TransientError(
            reason=f"worker {worker.pid} hangs and may still write to the share"
        )
    host = node.settings.host
    grants = [
        intent
        for intent in own
        if intent.kind is IntentKind.GRANT
        and intent.detail["share_id"] == held.share_id
        and intent.epoch < held.epoch
        and intent.host != host
    ]
    if not grants:
        return
    for intent in grants:
        grant = grant_of(intent)
        if not grant.ours:
            raise exception.PermanentError(
                reason=f"data node {intent.host} went silent while it wrote to the share, and has "
                f"access to it by a rule of the share's owner ({grant.address})"
            )
        LOG.warning(
            "Operation %(id)s: taking the access of silent node %(host)s (%(address)s) away.",
            {"id": held.id, "host": intent.host, "address": grant.address},
        )
        node.provider.revoke(grant)
    if stop.event.wait(node.settings.takeover_grace_s):
        raise exception.Cancelled()
