# SPDX-License-Identifier: Apache-2.0
"""One SSH connection to the NFS server, and the one place where words become a shell's line."""

from __future__ import annotations

import os
import shlex
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import paramiko

from manila_backup.exception import TransientError
from manila_backup.names import printable
from manila_backup.share.nfs_ssh.options import GROUP, SshSettings

KEEPALIVE_S = 30
GRACE_S = 5.0
"""A command that takes too long is killed there first, so that the answer still arrives."""

ENVIRONMENT = ("env", "LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")

TOO_LATE = 124
"""The status of timeout(1) when it had to end the command."""

NO_STATUS = -1
"""What paramiko says when the connection, or a signal, has ended the command."""


class ServerAway(TransientError):
    """It cannot be reached, does not answer in time, or does not let us in. A command that was
    under way may have been carried out or not."""

    message = "NFS server {host}: {reason}"


class NoChannel(Exception):
    """The connection is of no use any more; nothing was asked of the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a command on the server has ended."""

    status: int
    out: bytes
    err: bytes


def command_line(argv: Sequence[str]) -> bytes:
    """``argv`` as a line for the POSIX shell that sshd hands it to: each word stays one word.

    :raises ValueError: there is a NUL, which no word can hold.
    """
    line = b" ".join(os.fsencode(shlex.quote(word)) for word in argv)
    if b"\0" in line:
        raise ValueError("a word of a command holds a NUL")
    return line


class Connection:
    """Runs one command at a time. Not to be shared between threads."""

    def __init__(self, settings: SshSettings) -> None:
        """Connect.

        :raises ServerAway: with the option that may be wrong.
        """
        self._settings = settings
        self._client = _connected(settings)
        transport = self._client.get_transport()
        if transport is None:
            raise ServerAway(host=settings.host, reason="the connection was lost")
        transport.set_keepalive(KEEPALIVE_S)
        # Otherwise each command waits 40 ms for a delayed acknowledgement.
        if isinstance(transport.sock, socket.socket):
            transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = transport

    @property
    def is_open(self) -> bool:
        """As far as is known without asking the server."""
        return self._transport.is_active()

    def close(self) -> None:
        self._client.close()

    def run(self, argv: Sequence[str], *, sent: bytes, timeout_s: float) -> Answer:
        """Run a command to its end, with ``sent`` as its standard input.

        :raises NoChannel: the connection is gone; the command was not run.
        :raises ServerAway: it was lost meanwhile, or the command took longer than ``timeout_s``;
            what still runs there then is ended by timeout(1).
        """
        # A whole number: not every timeout(1) takes another.
        limit = ("timeout", f"--kill-after={GRACE_S:g}", f"{max(1, round(timeout_s))}")
        sudo = ("sudo", "-n", "--") if self._settings.use_sudo else ()
        line = command_line((*sudo, *ENVIRONMENT, *limit, *argv))
        try:
            channel = self._transport.open_session(timeout=self._settings.connect_timeout_s)
        except (paramiko.SSHException, OSError, EOFError) as exc:
            raise NoChannel(str(exc)) from exc
        with self._lost(timeout_s + 2 * GRACE_S), closing(channel):
            # Takes bytes, too, and knows no time limit of its own.
            channel.exec_command(line)
            with suppress(OSError):  # who does not read it to the end says by his status why
                channel.sendall(sent)
            channel.shutdown_write()
            out = b"".join(iter(lambda: channel.recv(1 << 16), b""))
            err = b"".join(iter(lambda: channel.recv_stderr(1 << 16), b""))
            status = channel.recv_exit_status()
        if status == NO_STATUS and not self.is_open:
            raise self._away("the connection was lost")
        if status == TOO_LATE:
            raise self._away(f"{argv[0]} did not end within {timeout_s:g} s")
        return Answer(status=status, out=out, err=err)

    def _away(self, reason: str) -> ServerAway:
        return ServerAway(host=self._settings.host, reason=reason)

    @contextmanager
    def _lost(self, timeout_s: float) -> Iterator[None]:
        """Close the connection if the block takes too long: some calls of it wait for ever."""
        watch = threading.Timer(timeout_s, self.close)
        watch.start()
        try:
            yield
        except (paramiko.SSHException, OSError, EOFError) as exc:
            raise self._away(f"the connection was lost: {_said(exc)}") from exc
        finally:
            late = watch.finished.is_set()
            watch.cancel()
            watch.join()
            if late:
                raise self._away(f"no answer within {timeout_s:g} s")


def _connected(settings: SshSettings) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    accept_new = settings.accept_new_hosts
    client.set_missing_host_key_policy(
        paramiko.AutoAddPolicy() if accept_new else paramiko.RejectPolicy()
    )
    try:
        with _explained(settings):
            _load_host_keys(client, settings)
            client.connect(
                settings.host,
                settings.port,
                settings.user,
                key_filename=list(settings.key_files),  # type: ignore[arg-type]
                allow_agent=settings.use_agent,
                look_for_keys=False,
                timeout=settings.connect_timeout_s,
                banner_timeout=settings.connect_timeout_s,
                auth_timeout=settings.connect_timeout_s,
                channel_timeout=settings.connect_timeout_s,
            )
    except BaseException:
        client.close()
        raise
    return client


def _load_host_keys(client: paramiko.SSHClient, settings: SshSettings) -> None:
    path = settings.known_hosts_file
    if settings.accept_new_hosts and not os.path.exists(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    client.load_host_keys(path)


@contextmanager
def _explained(settings: SshSettings) -> Iterator[None]:
    """:raises ServerAway: for whatever keeps the connection from being made."""
    try:
        yield
    except paramiko.BadHostKeyException as exc:
        reason = (
            f"it has another host key than option known_hosts_file of [{GROUP}] says; somebody may "
            "have taken its place"
        )
        raise ServerAway(host=settings.host, reason=reason) from exc
    except paramiko.AuthenticationException as exc:
        reason = (
            f"it does not let user {settings.user} in with the keys of options key_files and "
            f"use_agent of [{GROUP}]: {_said(exc)}"
        )
        raise ServerAway(host=settings.host, reason=reason) from exc
    except FileNotFoundError as exc:
        reason = f"a file of options known_hosts_file or key_files of [{GROUP}] is not there: {exc}"
        raise ServerAway(host=settings.host, reason=reason) from exc
    except (paramiko.SSHException, OSError, EOFError, ValueError) as exc:
        raise ServerAway(host=settings.host, reason=_why(exc, settings)) from exc


def _why(error: Exception, settings: SshSettings) -> str:
    said = _said(error)
    # Two that paramiko tells apart by its words only.
    if "not found in known_hosts" in said:
        return f"its host key is not in the file of option known_hosts_file of [{GROUP}]"
    if "No authentication methods" in said:
        return f"there is no key to show it: options key_files and use_agent of [{GROUP}]"
    return f"no connection to port {settings.port}: {said}"


def _said(error: BaseException) -> str:
    return printable((str(error) or type(error).__name__).encode(errors="replace"))
