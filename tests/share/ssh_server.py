# SPDX-License-Identifier: Apache-2.0
"""Debian's own sshd on a port of the loopback interface, and behind it the real exportfs.

It runs in a mount namespace of its own, where /etc/exports.d and /var/lib/nfs are directories of
the test's (the machine's own stay as they are). What exportfs cannot do in there is to reach a
kernel that serves NFS; the contract is also tested before one: ``nfs_ssh_harness.py``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from manila_backup.share.nfs_ssh.options import SshSettings
from tests.support.ports import free_port
from tests.support.servers import Server

DEADLINE_S = 20
USER = "storage-admin"
"""Another than root, who may do everything through sudo."""

# sudo keeps its state below /run, and sshd wants a directory there.
NAMESPACE = """\
set -e
mkdir -p /etc/exports.d
mount --bind "$1/exports.d" /etc/exports.d
mount --bind "$1/nfs" /var/lib/nfs
mount -t tmpfs -o mode=0755 none /run
# What root's shell would run first, with each command.
[ ! -e ~root/.bashrc ] || mount --bind /dev/null ~root/.bashrc
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/shadow" /etc/shadow
mount --bind "$1/sudoers.d" /etc/sudoers.d
mkdir -m 0755 /run/sshd
exec /usr/sbin/sshd -D -e -f "$1/sshd_config"
"""

CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
LogLevel VERBOSE
MaxSessions {max_sessions}
{more}
"""


def make_key(path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", path],
        check=True,
        stdin=subprocess.DEVNULL,
    )


class SshServer(Server):
    """A context manager. ``with`` ends whatever runs, sessions included.

    :param more: further lines of sshd_config(5).
    """

    def __init__(self, *, more: str = "", max_sessions: int = 10) -> None:
        super().__init__()
        self.port = free_port()
        self._more = more
        self._max_sessions = max_sessions
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> Path:
        return self._directory

    @property
    def root(self) -> Path:
        """For shares."""
        return self._directory / "srv"

    @property
    def exports(self) -> Path:
        """What the server has in /etc/exports.d."""
        return self._directory / "exports.d"

    @property
    def key(self) -> Path:
        return self._directory / "user_key"

    @property
    def known_hosts(self) -> Path:
        return self._directory / "known_hosts"

    def settings(self, **changes: Any) -> SshSettings:
        values: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "key_files": (str(self.key),),
            "known_hosts_file": str(self.known_hosts),
            "connect_timeout_s": 10.0,
            "command_timeout_s": 20.0,
        }
        return SshSettings(**{**values, **changes})

    def _set_up(self) -> None:
        self._directory.chmod(0o755)
        for name in ("exports.d", "nfs", "srv", "sudoers.d"):
            (self._directory / name).mkdir()
        users = Path("/etc/passwd").read_text() + f"{USER}:x:64998:65534::/:/bin/sh\n"
        (self._directory / "passwd").write_text(users)
        # Nobody has a password in there.
        shadow = self._directory / "shadow"
        shadow.touch(mode=0o600)
        shadow.write_text("".join(f"{name}:*:19000:0:99999:7:::\n" for name in ("root", USER)))
        sudoers = self._directory / "sudoers.d" / USER
        sudoers.write_text(f"{USER} ALL=(root) NOPASSWD: ALL\n")
        sudoers.chmod(0o440)
        (self._directory / "nfs" / "etab").touch()
        for name in ("host_key", "user_key"):
            make_key(self._directory / name)
        public = (self._directory / "user_key.pub").read_text()
        (self._directory / "authorized_keys").write_text(public)
        self.write_known_hosts(self._directory / "host_key.pub")
        self.start()

    def write_known_hosts(self, public: Path) -> None:
        kind, key, *_ = public.read_text().split()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def start(self) -> None:
        config = CONFIG.format(
            port=self.port,
            directory=self._directory,
            max_sessions=self._max_sessions,
            more=self._more,
        )
        (self._directory / "sshd_config").write_text(config)
        argv = ["unshare", "--mount", "--", "bash", "-c", NAMESPACE, "sshd", str(self._directory)]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )
        until_s = time.monotonic() + DEADLINE_S
        while not self._listens():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < until_s, self.log()
            time.sleep(0.01)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def stop(self) -> None:
        """Ends sessions, too: they are what a dead server would leave us waiting for."""
        if self._process is not None:
            self.end_sessions()
            self._process.kill()
            self._process.wait()
            self._process = None

    def log(self) -> str:
        return (self._directory / "log").read_text(errors="replace")

    # --- what a server may do to us ---------------------------------------------------------------

    def sessions(self) -> list[int]:
        """Pids of the processes that serve connections."""
        assert self._process is not None
        return _children(self._process.pid)

    def end_sessions(self) -> None:
        """At once and without a word, with all that they run."""
        for pid in self.sessions():
            for below in (*_descendants(pid), pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(below, signal.SIGKILL)

    def stall(self) -> None:
        """The server still has its connections, and says nothing any more."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        for pid in (self._process.pid, *_descendants(self._process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    # --- what its administrator does there --------------------------------------------------------

    def as_administrator(self, *argv: str) -> str:
        """A command in the server's namespace, not through SSH."""
        assert self._process is not None
        inside = ["nsenter", f"--target={self._process.pid}", "--mount", "--wd=/", "--", *argv]
        done = subprocess.run(inside, check=True, capture_output=True, text=True, timeout=20)
        return done.stdout

    def reboot(self) -> None:
        """What is in force is forgotten, and made anew from the files as the NFS server's start
        does it."""
        self.stop()
        (self._directory / "nfs" / "etab").write_text("")
        self.start()
        self.as_administrator("exportfs", "-r")


def _children(pid: int) -> list[int]:
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []


def _descendants(pid: int) -> list[int]:
    found = []
    for child in _children(pid):
        found += [*_descendants(child), child]
    return found
