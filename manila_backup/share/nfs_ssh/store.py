# SPDX-License-Identifier: Apache-2.0
"""The shares of an NFS server: records, trees and exports. All of it is on the server.

::

    <root>/manila-backup-store          made by the operator: this is the right file system
    <root>/records/<share_id>.json      the share, its access rules and its mark; 0700
    <root>/shares/<share_id>/           its content, which is what clients mount
    <exports_directory>/manila-backup-<share_id>-<client>.exports

The record says who is to have access; the exports follow it. Whoever has changed a record brings
the exports of the clients concerned in line with it and reads it again afterwards: if somebody else
has changed it meanwhile, once more. So of any number of nodes the last one leaves what the record
says, and whoever was killed in the middle is made good by the next that asks for the same.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from manila_backup.exception import Invalid, ShareNotFound, TransientError
from manila_backup.share.local.changes import being_removed
from manila_backup.share.local.records import (
    LocalShare,
    RecordDamaged,
    dump_share,
    is_uuid,
    load_share,
)
from manila_backup.share.nfs_ssh.clients import clients_of, wanted_level
from manila_backup.share.nfs_ssh.documents import ABANDONED_MIN, ABSENT, Documents, digest
from manila_backup.share.nfs_ssh.exports import Entry, Exports
from manila_backup.share.nfs_ssh.options import StoreSettings
from manila_backup.share.nfs_ssh.server import CommandFailed, Server
from manila_backup.types import AccessLevel

LOG = logging.getLogger(__name__)

MARKER = "manila-backup-store"
RECORDS = "records"
SHARES = "shares"

UPDATE_S = 60.0
"""How long a change is tried again because others were quicker."""

_LINE = re.compile(rb"([^\0\n]*)\0([^\n]*\n)")


class ExportedAlready(Invalid):
    """The administrator of the server has given the client access by himself."""

    message = (
        "The NFS server exports share {share_id} to {client} already ({level}), and not by an "
        "access rule."
    )


def utc_now() -> datetime:
    return datetime.now(UTC)


class NfsSshStore:
    """The shares below one root. Instances may be shared between threads."""

    def __init__(
        self,
        server: Server,
        settings: StoreSettings,
        *,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """Nothing is asked of the server yet."""
        self._server = server
        self._settings = settings
        self._now = now
        self._records = Documents(server, f"{settings.root}/{RECORDS}", umask="077")
        self.exports = Exports(server, settings.exports_directory, settings.export_options)

    def close(self) -> None:
        """End the connections."""
        self._server.close()

    def now(self) -> str:
        """The time as the documents have it."""
        return self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")

    def tree(self, share_id: str) -> str:
        """The share's directory on the server.

        :raises ShareNotFound: ``share_id`` is not a UUID and never becomes part of a path.
        """
        if not is_uuid(share_id):
            raise ShareNotFound(share_id=share_id)
        return f"{self._settings.root}/{SHARES}/{share_id}"

    def location(self, share_id: str) -> str:
        """What clients mount."""
        address = self._settings.export_address
        shown = f"[{address}]" if ":" in address else address
        return f"{shown}:{self.tree(share_id)}"

    # --- records ----------------------------------------------------------------------------------

    def get(self, share_id: str) -> LocalShare:
        """:raises ShareNotFound:
        :raises RecordDamaged:
        :raises TransientError: the store is away.
        """
        record, _ = self._read(share_id)
        return record

    def shares(self) -> Iterator[LocalShare]:
        """All shares in no particular order; damaged ones are logged and left out.

        :raises TransientError: the store is away.
        """
        if RECORDS not in self._refuse_if_away():
            return
        names = {name for name in self._records.names() if is_uuid(name.removesuffix(".json"))}
        # Each line with its file's name. A file that goes meanwhile is left out.
        argv = ["grep", "-rsHZ", "-e", "", "--", self._records.directory]
        found = self._server.run(argv, expected=(0, 1, 2)).out
        contents: dict[str, bytes] = {}
        for path, line in _LINE.findall(found):
            name = path.rpartition(b"/")[2].decode(errors="replace")
            contents[name] = contents.get(name, b"") + line
        for name in names:
            share_id = name.removesuffix(".json")
            try:
                if name in contents:
                    yield load_share(name, contents[name])
                else:
                    yield self.get(share_id)
            except ShareNotFound:
                continue
            except RecordDamaged as exc:
                LOG.warning("%s", exc)

    def create(self, share: LocalShare) -> LocalShare:
        """Make an empty share; durable when it returns.

        :raises TransientError: the store is away.
        """
        share = replace(share, snapshot_support=False)
        tree = self.tree(share.id)
        self._refuse_if_away()
        self._records.make_directory("0700")
        trees = f"{self._settings.root}/{SHARES}"
        # Clients come through here on their way, and see nothing.
        self._server.run(["mkdir", "-p", "--mode=0711", "--", trees])
        self._server.run(["mkdir", "--mode=0755", "--", tree])
        self._server.run(["sync", "--", tree, trees])
        # If it is not known whether this was done the tree stays; empty, it is swept up some time.
        if not self._records.replace(_name(share.id), dump_share(share), old=ABSENT):
            raise Invalid(reason=f"Share {share.id} exists.")
        return share

    def update(
        self,
        share_id: str,
        change: Callable[[LocalShare], LocalShare],
        *,
        touch: bool = True,
        also: tuple[str, ...] = (),
    ) -> LocalShare:
        """Replace the share by ``change(share)``, as one step, and let the exports follow.

        ``change`` may raise to refuse, and may be called several times: if somebody else has
        changed the share meanwhile, it is called again with what that one has made of it.
        ``touch`` sets ``updated_at``. What is the same afterwards is not written. The exports of
        the clients ``also`` follow even if nothing of them has changed.
        :raises ShareNotFound:
        :raises ExportedAlready: for a client that is new in the rules.
        :raises TransientError: the record or the exports may be as before or as wanted.
        """
        until_s = time.monotonic() + UPDATE_S
        while time.monotonic() < until_s:
            before, read = self._read(share_id)
            after = change(before)
            if after == before:
                self.follow(share_id, also, known=before)
                return before
            if touch:
                after = replace(after, updated_at=self.now())
            concerned = {
                client
                for client in clients_of((before, after))
                if wanted_level(before, client) != wanted_level(after, client)
            }
            for client in concerned:
                if wanted_level(before, client) is None:
                    self._refuse_foreign(share_id, client)
            if self._records.replace(_name(share_id), dump_share(after), old=read):
                self.follow(share_id, concerned | {*also}, known=after)
                return after
            time.sleep(random.uniform(0, 0.05))  # noqa: S311
        raise TransientError(reason=f"Share {share_id} is changed by too many at once.")

    def _read(self, share_id: str) -> tuple[LocalShare, str]:
        """The record and its digest."""
        self.tree(share_id)  # refuses what is no UUID
        try:
            content = self._records.read(_name(share_id))
        except CommandFailed as exc:
            if RECORDS in self._refuse_if_away():
                raise
            raise ShareNotFound(share_id=share_id) from exc
        if content is None:
            self._refuse_if_away()
            raise ShareNotFound(share_id=share_id)
        return load_share(_name(share_id), content), digest(content)

    def _refuse_if_away(self) -> list[str]:
        """What the root holds.

        :raises TransientError: it is not mounted there, or was never made a store.
        """
        listed = self._server.run(["ls", "-1", "--", self._settings.root]).out
        names = listed.decode(errors="replace").splitlines()
        if MARKER not in names:
            raise TransientError(
                reason=f"NFS server {self._server.settings.host}: {self._settings.root} has no "
                f"file {MARKER}: its file system is not mounted, or it was never made there"
            )
        return names

    # --- exports ----------------------------------------------------------------------------------

    def follow(
        self, share_id: str, clients: Iterable[str], *, known: LocalShare | None = None
    ) -> None:
        """Bring what is in force for the clients in line with the record. Idempotent; heals what a
        kill has left.

        :param known: the record as it was a moment ago; None if the share is gone.
        :raises TransientError: it may not be so yet.
        """
        path = self.tree(share_id)
        for client in clients:
            self._follow_one(share_id, path, client, wanted_level(known, client))

    def _follow_one(
        self, share_id: str, path: str, client: str, wanted: AccessLevel | None
    ) -> None:
        until_s = time.monotonic() + UPDATE_S
        while time.monotonic() < until_s:
            if wanted is None:
                self.exports.take(share_id, path, client)
            else:
                self.exports.give(share_id, path, client, wanted)
            done, wanted = wanted, self._wanted(share_id, client)
            if wanted == done:
                return
        raise TransientError(reason=f"The access of {client} is changed by too many at once.")

    def _wanted(self, share_id: str, client: str) -> AccessLevel | None:
        try:
            return wanted_level(self.get(share_id), client)
        except ShareNotFound:
            return None

    def foreign(self, share_id: str, client: str) -> Entry | None:
        """Access that the server's administrator gave to the client by himself."""
        return self.exports.foreign(share_id, self.tree(share_id), client)

    def _refuse_foreign(self, share_id: str, client: str) -> None:
        entry = self.foreign(share_id, client)
        if entry is not None:
            raise ExportedAlready(share_id=share_id, client=client, level=entry.level)

    # --- deletion ---------------------------------------------------------------------------------

    def begin_delete(self, share_id: str, *, force: bool = False) -> LocalShare:
        """Announce the deletion and end all access; :meth:`finish_delete` does the rest.

        Refused as :func:`~manila_backup.share.local.changes.being_removed` says.
        """
        return self.update(
            share_id, lambda share: being_removed(share, force=force, has_snapshots=False)
        )

    def finish_delete(self, share_id: str) -> None:
        """Remove what ``begin_delete`` has announced. Idempotent, also for several at once.

        What cannot be removed (a mount inside the tree, an immutable file) is logged and leaves
        the share in ``error_deleting``; another deletion tries again.
        """
        try:
            record, read = self._read(share_id)
        except ShareNotFound:
            return
        if not record.removing:
            return
        try:
            # All that we ever gave, whatever became of the rules.
            self.follow(share_id, self.exports.given().get(share_id, set()), known=record)
            self._server.run(
                ["rm", "-rf", "--one-file-system", "--", self.tree(share_id)],
                timeout_s=self._settings.removal_timeout_s,
            )
            while not self._records.remove(_name(share_id), old=read):
                _, read = self._read(share_id)
        except ShareNotFound:
            return
        except TransientError as exc:
            LOG.warning("Share %s could not be removed: %s", share_id, exc)
            with suppress(ShareNotFound, TransientError):
                self.update(share_id, lambda share: replace(share, status="error_deleting"))

    def resume(self) -> None:
        """Make good what processes that are gone have left: deletions that were announced only,
        access that does not follow the rules, what creations and changes had begun. Idempotent.

        :raises TransientError: the store is away.
        """
        if RECORDS not in self._refuse_if_away():
            return
        records = {share.id: share for share in self.shares()}
        for share_id, share in records.items():
            if share.removing:
                self.finish_delete(share_id)
        self._heal_access(records)
        self._records.sweep()
        self.exports.sweep()
        self._sweep_trees()

    def _heal_access(self, records: Mapping[str, LocalShare]) -> None:
        """Of clients that have a rule and no file, or a file and no rule."""
        given = self.exports.given()
        for share_id in records.keys() | given.keys():
            share = records.get(share_id)
            named = clients_of([share] if share else [])
            wanted = {client for client in named if wanted_level(share, client) is not None}
            self.follow(share_id, wanted ^ given.get(share_id, set()), known=share)

    def _sweep_trees(self) -> None:
        """The directories that creations have made and no record for them: empty ones only."""
        trees = f"{self._settings.root}/{SHARES}"
        empty = ["-type", "d", "-empty", "-mmin", f"+{ABANDONED_MIN}", "-printf", r"%f\n"]
        found = self._server.run(["find", trees, "-mindepth", "1", "-maxdepth", "1", *empty]).out
        names = {name for name in found.decode(errors="replace").splitlines() if is_uuid(name)}
        if names:
            names -= {name.removesuffix(".json") for name in self._records.names()}
        for name in names:
            # Fails if it is not empty any more.
            self._server.run(["rmdir", "--", f"{trees}/{name}"], expected=(0, 1))


def _name(share_id: str) -> str:
    return f"{share_id}.json"
