# SPDX-License-Identifier: Apache-2.0
"""The NFS server as the rest of the provider sees it: commands that are run there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager

from manila_backup.exception import TransientError
from manila_backup.names import printable
from manila_backup.share.nfs_ssh.connection import Answer, Connection, NoChannel, ServerAway
from manila_backup.share.nfs_ssh.options import SshSettings


class CommandFailed(TransientError):
    """A command on the server ended otherwise than expected."""

    message = "NFS server {host}: {program} ended with status {status}: {said}"


class Server:
    """A pool of connections, made when they are needed. To be shared between threads.

    :param connect: makes a connection.
    """

    def __init__(
        self,
        settings: SshSettings,
        connect: Callable[[SshSettings], Connection] = Connection,
    ) -> None:
        # All that it reports there it also raises.
        logging.getLogger("paramiko").setLevel(logging.CRITICAL)
        self.settings = settings
        self._connect = connect
        self._slots = threading.BoundedSemaphore(settings.max_connections)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []

    def run(
        self,
        argv: Sequence[str],
        *,
        sent: bytes = b"",
        expected: Container[int] = (0,),
        timeout_s: float | None = None,
    ) -> Answer:
        """Run a command with ``sent`` as its standard input.

        A connection that has died while it was idle is replaced without a word.
        :param timeout_s: another than the option command_timeout_s.
        :raises CommandFailed: its status is none of ``expected``.
        :raises ServerAway: it may have been run or not, or is still running.
        """
        limit_s = timeout_s or self.settings.command_timeout_s
        try:
            with self._borrowed() as connection:
                answer = connection.run(argv, sent=sent, timeout_s=limit_s)
        except NoChannel:
            self.close()
            answer = self._run_afresh(argv, sent=sent, limit_s=limit_s)
        if answer.status not in expected:
            raise CommandFailed(
                host=self.settings.host,
                program=argv[0],
                status=answer.status,
                said=printable(answer.err[:500].strip() or b"it said nothing"),
            )
        return answer

    def _run_afresh(self, argv: Sequence[str], *, sent: bytes, limit_s: float) -> Answer:
        try:
            with self._borrowed(fresh=True) as connection:
                return connection.run(argv, sent=sent, timeout_s=limit_s)
        except NoChannel as exc:
            reason = f"it opens no channel: {exc}"
            raise ServerAway(host=self.settings.host, reason=reason) from exc

    def close(self) -> None:
        """End the idle connections. Others are made when they are needed."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextmanager
    def _borrowed(self, *, fresh: bool = False) -> Iterator[Connection]:
        """A connection for one thread. One that has failed is not given back."""
        if not self._slots.acquire(timeout=self.settings.command_timeout_s):
            reason = f"all {self.settings.max_connections} connections are in use"
            raise ServerAway(host=self.settings.host, reason=reason)
        try:
            connection = (None if fresh else self._take()) or self._connect(self.settings)
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            with self._lock:
                self._idle.append(connection)
        finally:
            self._slots.release()

    def _take(self) -> Connection | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.is_open:
                return connection
            connection.close()
