# SPDX-License-Identifier: Apache-2.0
"""Small files on the server: read whole, replaced in one durable step.

A file is replaced only if it is still what the caller has read. That is decided on the server,
under a lock that a process there holds for the time of a comparison and a rename: it dies with that
process, and no connection holds it. What is cut off on its way does not have the sum that was
announced and is thrown away. SFTP has neither the comparison, nor a way to make a rename durable,
nor sudo; and version files that exclude each other by their names alone would need all of them kept
for ever: who was held up for long enough would make an old version anew and think that he had won.
"""

from __future__ import annotations

import hashlib

from manila_backup.share.nfs_ssh.server import Server

ABSENT = "absent"

DAMAGED_ON_ITS_WAY = 70
CHANGED_MEANWHILE = 75

LOCK_S = 20

ABANDONED_MIN = 60
"""Minutes after which nobody is at work any more at what is not complete."""

# Arguments: directory, name, sum of what is to be replaced, sum of what is sent, umask.
REPLACE = f"""\
set -eu
umask "$5"
cd -- "$1"
new=".$2.$$.new"
trap 'rm -f -- "$new"' EXIT
trap 'exit 1' HUP INT TERM
cat >"$new"
sum=$(sha256sum <"$new")
[ "${{sum%% *}}" = "$4" ] || exit {DAMAGED_ON_ITS_WAY}
sync -- "$new"
exec 9<.
flock -w {LOCK_S} 9
sum={ABSENT}
if [ -e "$2" ]; then sum=$(sha256sum <"$2"); fi
[ "${{sum%% *}}" = "$3" ] || exit {CHANGED_MEANWHILE}
mv -f -T -- "$new" "$2"
sync -- .
"""

# Arguments: directory, name, sum of what is to be removed.
REMOVE = f"""\
set -eu
cd -- "$1"
exec 9<.
flock -w {LOCK_S} 9
[ -e "$2" ] || exit 0
sum=$(sha256sum <"$2")
[ "${{sum%% *}}" = "$3" ] || exit {CHANGED_MEANWHILE}
rm -f -- "$2"
sync -- .
"""


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Documents:
    """The files of one directory. Names are the caller's own, never a tenant's.

    :param umask: for new ones, octal.
    """

    def __init__(self, server: Server, directory: str, *, umask: str) -> None:
        self._server = server
        self._umask = umask
        self.directory = directory

    def make_directory(self, mode: str) -> None:
        """Idempotent; one that is there stays as it is."""
        self._server.run(["mkdir", "-p", f"--mode={mode}", "--", self.directory])

    def names(self) -> list[str]:
        """Hidden ones, which are not complete, left out.

        :raises TransientError: the directory is not there.
        """
        listed = self._server.run(["ls", "-1", "--", self.directory]).out
        return listed.decode(errors="surrogateescape").splitlines()

    def read(self, name: str) -> bytes | None:
        """None if there is none."""
        answer = self._server.run(["cat", "--", self._path(name)], expected=range(256))
        if answer.status == 0:
            return answer.out
        if name not in self.names():
            return None
        return self._server.run(["cat", "--", self._path(name)]).out

    def replace(self, name: str, content: bytes, *, old: str) -> bool:
        """Whether it was still ``old``: a :func:`digest` or ``ABSENT``. Durable.

        :raises TransientError: it was replaced or it was not, but never by a part of ``content``.
        """
        argv = ["sh", "-c", REPLACE, "replace", self.directory, name, old, digest(content)]
        return self._is_done([*argv, self._umask], sent=content)

    def remove(self, name: str, *, old: str) -> bool:
        """Whether it was still ``old``, or not there any more. Durable."""
        return self._is_done(["sh", "-c", REMOVE, "remove", self.directory, name, old])

    def sweep(self, start: str = "") -> None:
        """Remove what writers that were killed an hour ago or before have left. Names begin with
        ``start``."""
        old = ["-name", f".{start}*.new", "-mmin", f"+{ABANDONED_MIN}"]
        self._server.run(["find", self.directory, "-maxdepth", "1", *old, "-delete"])

    def _is_done(self, argv: list[str], sent: bytes = b"") -> bool:
        answer = self._server.run(argv, sent=sent, expected=(0, CHANGED_MEANWHILE))
        return answer.status == 0

    def _path(self, name: str) -> str:
        return f"{self.directory}/{name}"
