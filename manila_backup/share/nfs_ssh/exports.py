# SPDX-License-Identifier: Apache-2.0
"""Who may mount what: entries of exportfs, one by one, and the files that make them outlive it.

Each client of each share has a file of its own, so nobody writes what another has to read first,
and only its own entry is put into force or out of force: ``exportfs -r`` would also undo what the
administrator has exported by hand. The file is there before the entry and goes after it; so what is
in force and has no file is somebody else's, whenever we are killed.
"""

from __future__ import annotations

from dataclasses import dataclass

from manila_backup.exception import TransientError
from manila_backup.share.nfs_ssh.clients import client_of_part, file_part, with_path
from manila_backup.share.nfs_ssh.documents import ANY, Documents
from manila_backup.share.nfs_ssh.server import CommandFailed, Server
from manila_backup.types import AccessLevel

PREFIX = "manila-backup-"
SUFFIX = ".exports"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is in force for one client of one directory."""

    level: AccessLevel
    options: frozenset[str]


class Exports:
    """:param directory: of the files.
    :param options: for every client, besides ``ro`` or ``rw``.
    """

    def __init__(self, server: Server, directory: str, options: tuple[str, ...]) -> None:
        self._server = server
        self._files = Documents(server, directory, umask="022")
        self._options = options

    def in_force(self, path: str) -> dict[str, Entry]:
        """Client -> entry, for the directory ``path`` alone."""
        shown = self._server.run(["exportfs", "-s"]).out.decode(errors="replace")
        found: dict[str, Entry] = {}
        for line in shown.splitlines():
            directory, _, rest = line.partition(" ")
            client, _, options = rest.strip().partition("(")
            if directory == path:
                said = frozenset(options.rstrip(")").split(","))
                level = AccessLevel.RW if "rw" in said else AccessLevel.RO
                found[client] = Entry(level=level, options=said)
        return found

    def foreign(self, share_id: str, path: str, client: str) -> Entry | None:
        """What the administrator has given to the client by himself."""
        if self._is_ours(share_id, client):
            return None
        return self.in_force(path).get(client)

    def give(self, share_id: str, path: str, client: str, level: AccessLevel) -> None:
        """Idempotent. Another level of ours is replaced.

        :raises TransientError: it is not, or not known to be, in force.
        """
        options = ",".join((level.value, *self._options))
        line = f"{path} {client}({options})\n"
        try:
            self._files.replace(_file(share_id, client), line.encode(), old=ANY)
        except CommandFailed:
            self._files.make_directory("0755")
            self._files.replace(_file(share_id, client), line.encode(), old=ANY)
        self._server.run(["exportfs", "-o", options, "--", with_path(client, path)])
        entry = self.in_force(path).get(client)
        if entry is None or entry.level != level:
            raise TransientError(reason=f"exportfs -s does not show {level} for {client}")

    def take(self, share_id: str, path: str, client: str) -> None:
        """Take away what we gave. Idempotent; what is not ours stays.

        :raises TransientError: it is still, or may still be, in force.
        """
        if not self._is_ours(share_id, client):
            return
        if client in self.in_force(path):
            # Somebody may be quicker; the next look tells.
            self._server.run(["exportfs", "-u", "--", with_path(client, path)], expected=(0, 1))
            if client in self.in_force(path):
                raise TransientError(reason=f"exportfs -s still shows {client}")
        self._files.remove(_file(share_id, client))

    def clients(self, share_id: str) -> list[str]:
        """To whom we gave anything of the share, or were about to."""
        start = f"{PREFIX}{share_id}-"
        try:
            names = self._files.names()
        except CommandFailed:  # a server that has had no exports.d yet, or keeps ours in /run
            self._files.make_directory("0755")
            names = self._files.names()
        return [
            client_of_part(name.removeprefix(start).removesuffix(SUFFIX))
            for name in names
            if name.startswith(start) and name.endswith(SUFFIX)
        ]

    def _is_ours(self, share_id: str, client: str) -> bool:
        return client in self.clients(share_id)


def _file(share_id: str, client: str) -> str:
    return f"{PREFIX}{share_id}-{file_part(client)}{SUFFIX}"
