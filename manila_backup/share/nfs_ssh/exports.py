# SPDX-License-Identifier: Apache-2.0
"""Who may mount what: entries of exportfs, one by one, and the files that make them outlive it.

Each client of each share has a file of its own, and only its own entry is put into force or out of
force: ``exportfs -r`` would also undo what the administrator has exported by hand. The file is
there before the entry and goes after it, both under one lock that a process on the server holds for
that time; so what is in force and has no file is somebody else's, whoever else is at work there and
whenever we are killed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from manila_backup.exception import TransientError
from manila_backup.share.nfs_ssh.clients import client_of_part, file_part, with_path
from manila_backup.share.nfs_ssh.documents import LOCK_S, Documents
from manila_backup.share.nfs_ssh.server import CommandFailed, Server
from manila_backup.types import AccessLevel

PREFIX = "manila-backup-"
SUFFIX = ".exports"
_NAME = re.compile(
    re.escape(PREFIX) + r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-(.+)" + re.escape(SUFFIX)
)

STILL_IN_FORCE = 76

# Arguments: directory, name, line of the file, options, client with path. Says what is in force.
GIVE = f"""\
set -eu
umask 022
mkdir -p -- "$1"
cd -- "$1"
exec 9<.
flock -w {LOCK_S} 9
new=".$2.$$.new"
trap 'rm -f -- "$new"' EXIT
trap 'exit 1' HUP INT TERM
printf '%s\\n' "$3" >"$new"
sync -- "$new"
mv -f -T -- "$new" "$2"
sync -- .
exportfs -o "$4" -- "$5"
exportfs -s
"""

# Arguments: directory, name, path, client, client with path. What has no file is not ours.
TAKE = f"""\
set -eu
mkdir -p -- "$1"
cd -- "$1"
exec 9<.
flock -w {LOCK_S} 9
[ -e "$2" ] || exit 0
# Fails if there is none; the table tells.
exportfs -u -- "$5" || :
table=$(exportfs -s)
printf '%s\\n' "$table" | while read -r path entry; do
    if [ "$path" = "$3" ]; then
        case $entry in "$4("*) exit {STILL_IN_FORCE} ;; esac
    fi
done
rm -f -- "$2"
sync -- .
"""


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
        return _entries(self._server.run(["exportfs", "-s"]).out, path)

    def foreign(self, share_id: str, path: str, client: str) -> Entry | None:
        """What the administrator has given to the client by himself."""
        if client in self.given().get(share_id, ()):
            return None
        return self.in_force(path).get(client)

    def give(self, share_id: str, path: str, client: str, level: AccessLevel) -> None:
        """Idempotent. Another level of ours is replaced.

        :raises TransientError: it is not, or not known to be, in force.
        """
        options = ",".join((level.value, *self._options))
        file = [self._files.directory, _file(share_id, client), f"{path} {client}({options})"]
        argv = ["sh", "-c", GIVE, "give", *file, options, with_path(client, path)]
        entry = _entries(self._server.run(argv).out, path).get(client)
        if entry is None or entry.level != level:
            raise TransientError(reason=f"exportfs -s does not show {level} for {client}")

    def take(self, share_id: str, path: str, client: str) -> None:
        """Take away what we gave. Idempotent; what is not ours stays.

        :raises TransientError: it is still, or may still be, in force.
        """
        file = [self._files.directory, _file(share_id, client)]
        argv = ["sh", "-c", TAKE, "take", *file, path, client, with_path(client, path)]
        if self._server.run(argv, expected=(0, STILL_IN_FORCE)).status == STILL_IN_FORCE:
            raise TransientError(reason=f"exportfs -s still shows {client}")

    def given(self) -> dict[str, set[str]]:
        """Share id -> the clients to whom we gave anything of it, or were about to."""
        try:
            names = self._files.names()
        except CommandFailed:  # a server that has had no exports.d yet, or keeps ours in /run
            self._files.make_directory("0755")
            names = self._files.names()
        found: dict[str, set[str]] = {}
        for match in filter(None, map(_NAME.fullmatch, names)):
            found.setdefault(match[1], set()).add(client_of_part(match[2]))
        return found

    def sweep(self) -> None:
        """As :meth:`Documents.sweep`; only what is ours."""
        self._files.make_directory("0755")
        self._files.sweep(PREFIX)


def _entries(table: bytes, path: str) -> dict[str, Entry]:
    """Those of one directory in what ``exportfs -s`` says."""
    found: dict[str, Entry] = {}
    for line in table.decode(errors="replace").splitlines():
        directory, _, rest = line.partition(" ")
        client, _, options = rest.strip().partition("(")
        if directory == path:
            said = frozenset(options.rstrip(")").split(","))
            level = AccessLevel.RW if "rw" in said else AccessLevel.RO
            found[client] = Entry(level=level, options=said)
    return found


def _file(share_id: str, client: str) -> str:
    return f"{PREFIX}{share_id}-{file_part(client)}{SUFFIX}"
