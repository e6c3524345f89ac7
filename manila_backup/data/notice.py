# SPDX-License-Identifier: Apache-2.0
"""What is to be said of a backup or restore that is complete, but not exact.

The tenant gets one message that counts everything and names a few paths, the operator's log names
up to a hundred of each kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from oslo_log import log

from manila_backup.states import OperationKind
from manila_backup.types import Counters, Remarks

LOG = log.getLogger(__name__)

_WORDS = {
    OperationKind.CREATE: {
        "skipped": "paths vanished while they were looked at and are not in the backup",
        "changed": "files changed while they were copied, also the second time",
        "losses": "attributes are not in the stored tree; those that could be read are in its "
        "catalog",
        "warnings": "mounts below the share were not entered",
    },
    OperationKind.RESTORE: {
        "skipped": "paths could not be written because something is mounted there",
        "changed": "paths were changed by others meanwhile and may differ from the backup",
        "losses": "attributes could not be set on the share",
        "warnings": "paths could not be removed or replaced",
    },
}
_NAMED = 3
"""So many paths of a kind are named in a message: it must fit into MariaDB's TEXT, 65,535 bytes."""


def notice(kind: OperationKind, label: str, counters: Counters, remarks: Remarks) -> str | None:
    """Words for the tenant when something is not as it should be, else None.

    Also logged, names and all; ``label`` tells there whose it is.
    :param kind: a create or a restore.
    """
    counts, names = asdict(counters), asdict(remarks)
    parts = []
    for what, words in _WORDS[kind].items():
        if counts[what]:
            parts.append(f"{counts[what]} {words}{_some(names.get(what, ()), counts[what])}")
            _log(label, f"{counts[what]} {words}", names.get(what, ()))
    return f"complete, but {'; '.join(parts)}." if parts else None


def _some(names: Sequence[str], count: int) -> str:
    if not names:
        return ""
    more = ", ..." if count > _NAMED else ""
    return f" ({', '.join(names[:_NAMED])}{more})"


def _log(label: str, what: str, names: Sequence[str]) -> None:
    LOG.warning("%s: %s", label, what)
    for name in names:
        LOG.warning("%s: %s", label, name)
