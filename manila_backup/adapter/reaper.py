# SPDX-License-Identifier: Apache-2.0
"""Undo what calls leave: at once when they end, and later what they could not, or what a
manila-data that died had in work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from oslo_log import log

from manila_backup.adapter.access import Access
from manila_backup.adapter.cloud import CallKind, Cloud
from manila_backup.adapter.journal import Entry, Journal
from manila_backup.adapter.messages import Outcome
from manila_backup.exception import TransientError

LOG = log.getLogger(__name__)

INTERVAL_S = 5.0
PATIENCE_S = 30.0
"""How long manila-data is given to write down itself how one of its calls ended."""

FORGOTTEN_S = 5.0
"""How long manila-data may take from writing down that it has a backup in work to our call."""

CONFLICT_WAIT_S = 300.0
"""How long a call waits until what another one left on its share or backup is gone."""

RunClean = Callable[[Entry], Outcome]
"""Runs a CLEAN job for the entry; a parameter, since how jobs are run is the caller's."""


class Reaper:
    """One per process. Entries that are ``active`` are left to their calls."""

    def __init__(self, journal: Journal, cloud: Cloud, access: Access, clean: RunClean) -> None:
        self._journal = journal
        self._cloud = cloud
        self._access = access
        self._clean = clean
        self._lock = threading.Lock()
        self._active: set[str] = set()
        self._ended_s: dict[str, float] = {}
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """In the process that serves, which need not be the one that made us; idempotent.

        :raises TransientError: the journal cannot be used.
        """
        with self._lock:
            self._journal.open()
            if self._thread is None:
                self._find_forgotten()
                self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)
                self._thread.start()

    def begin(self, entry: Entry) -> None:
        """Write down what a call is about to do, when nothing that is left stands in its way.

        :raises TransientError: something does, and did not go away.
        """
        until_s = time.monotonic() + CONFLICT_WAIT_S
        while True:
            with self._lock:
                if not any(_conflict(entry, other) for other in self._journal.entries()):
                    self._active.add(entry.operation_id)
                    self._journal.write(entry)
                    return
            if time.monotonic() >= until_s:
                reason = "what an earlier operation on the share or backup left is not gone yet"
                raise TransientError(reason=reason)
            time.sleep(1.0)

    def end(self, entry: Entry) -> None:
        """The call is over: undo now what can be undone; the rest is tried again. Raises nothing
        that says so.
        """
        try:
            self.undo(entry)
        except Exception as error:  # noqa: BLE001 - a cleanup error never hides the first one
            LOG.warning("Operation %s is not undone yet: %s", entry.operation_id, error)
        finally:
            with self._lock:
                self._ended_s[entry.operation_id] = time.monotonic()
                self._active.discard(entry.operation_id)

    def undo(self, entry: Entry) -> Entry:
        """What is left of ``entry`` afterwards: nothing but its row in Manila. Idempotent.

        Processes and mounts first: as long as something may write, its access stays as it is.
        :raises ManilaBackupError: something could not be undone.
        """
        if entry.mounted:
            outcome = self._clean(entry)
            if outcome.error is not None or not outcome.clean:
                raise TransientError(reason=outcome.error or "a mount is left")
            entry = self._rewritten(replace(entry, mounted=False))
        for rule_id in entry.rules:
            self._access.revoke(entry.share_id, rule_id)
        return self._rewritten(replace(entry, rules=())) if entry.rules else entry

    def _rewritten(self, entry: Entry) -> Entry:
        try:
            self._journal.write(entry)
        except TransientError as error:
            LOG.warning("Operation %s will be undone once more: %s", entry.operation_id, error)
        return entry

    def _run(self) -> None:
        while True:
            for entry in self._left():
                try:
                    self._reap(entry)
                except Exception as error:  # noqa: BLE001 - it is tried again
                    LOG.warning("Operation %s is not undone yet: %s", entry.operation_id, error)
            time.sleep(INTERVAL_S)

    def _left(self) -> list[Entry]:
        with self._lock:
            return [e for e in self._journal.entries() if e.operation_id not in self._active]

    def _reap(self, entry: Entry) -> None:
        entry = self.undo(entry)
        ended_s = self._ended_s.get(entry.operation_id)
        if ended_s is not None and time.monotonic() - ended_s < PATIENCE_S:
            return
        if entry.succeeded is None:
            LOG.warning(
                "%(kind)s of backup %(id)s was interrupted by the end of manila-data.",
                {"kind": entry.kind, "id": entry.backup_id},
            )
        if not self._is_overtaken(entry):
            self._cloud.settle(
                entry.kind,
                entry.backup_id,
                entry.share_id,
                succeeded=entry.succeeded,
                reason=entry.reason or "manila-data ended while it worked on it",
                version=entry.version,
            )
        self._journal.remove(entry)
        self._ended_s.pop(entry.operation_id, None)

    def _is_overtaken(self, entry: Entry) -> bool:
        """Whether the next call on the same backup is here already, and so its row another's."""
        return any(
            other.backup_id == entry.backup_id and other.epoch > entry.epoch
            for other in self._journal.entries()
        )

    def _find_forgotten(self) -> None:
        """A manila-data that died between taking a request and calling us left no entry."""
        # All calls of this process come by here: theirs were touched just now.
        before_s = time.time() - FORGOTTEN_S
        known = {entry.backup_id for entry in self._journal.entries()}
        for backup in self._cloud.forgotten_backups(before_s):
            if backup.id not in known:
                self._journal.write(
                    Entry(
                        operation_id=backup.id,
                        kind=CallKind.BACKUP,
                        backup_id=backup.id,
                        project_id=backup.project_id,
                        share_id=backup.share_id,
                        epoch=0,
                    )
                )


def _conflict(entry: Entry, other: Entry) -> bool:
    """Whether ``other``, of which something is left, stands in the way of ``entry``. Of what is
    undone only the row is left, which has its next status since manila-data was asked again.
    """
    left = other.mounted or other.rules or other.succeeded is None
    same = entry.backup_id == other.backup_id or (
        entry.kind is not CallKind.DELETE and entry.share_id == other.share_id
    )
    return bool(left) and same
