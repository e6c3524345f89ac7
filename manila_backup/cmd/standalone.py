# SPDX-License-Identifier: Apache-2.0
"""``manila-backup-standalone``: API, data node and local shares in one process, for one machine."""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oslo_concurrency import lockutils
from oslo_config import cfg
from oslo_log import log

from manila_backup import config
from manila_backup.data.mounts import MountManager
from manila_backup.exception import ManilaBackupError
from manila_backup.types import Mount

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from manila_backup.data.node import Node
    from manila_backup.service import DataService

LOG = log.getLogger(__name__)

DEFAULT_PORT = 8786
CONFIG_NAME = "manila-backup.conf"


class StartError(Exception):
    """The service cannot start; the text says why and what to do."""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="manila-backup-standalone",
        description="Run the share backup service on this machine alone: shares are directories "
        "under the state directory, and so are their backups.",
    )
    found.add_argument("--state-dir", required=True, metavar="DIR", help="made if missing, 0700")
    found.add_argument("--host", default="127.0.0.1", help="address to listen on")
    found.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port to listen on; 0 takes a free one"
    )
    found.add_argument(
        "--allow-unauthenticated-network-access",
        action="store_true",
        help="listen on an address that others can reach, although nobody is asked who they are: "
        "everyone who reaches the port can read, overwrite and delete all shares and backups",
    )
    found.add_argument(
        "--nfs-ssh",
        metavar="FILE",
        help="shares are those of the NFS server that group [nfs_ssh] of this configuration file "
        "names, and not directories of this machine; needs root, and data_node_address in it",
    )
    found.add_argument("--debug", action="store_true", help="log more")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The state directory and what lies where in it."""

    directory: Path

    @property
    def shares(self) -> Path:
        return self.directory / "shares"

    @property
    def backup_share(self) -> Path:
        return self.directory / "backup_share"

    @property
    def mounts(self) -> Path:
        return self.directory / "mounts"

    @property
    def database(self) -> Path:
        return self.directory / "manila-backup.sqlite"

    @property
    def config(self) -> Path:
        return self.directory / CONFIG_NAME

    def prepare(self) -> None:
        """Make it private to this user.

        :raises StartError: it is somebody else's, or not a directory.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.directory.lstat()
            if found.st_uid != os.geteuid():
                raise StartError(f"--state-dir {self.directory} belongs to another user")
            if not stat.S_ISDIR(found.st_mode):
                raise StartError(f"--state-dir {self.directory} is not a directory")
            self.directory.chmod(0o700)
            for part in (self.shares, self.backup_share, self.mounts):
                part.mkdir(mode=0o700, exist_ok=True)
            # The files that SQLite makes beside it are as private as it is.
            self.database.touch(mode=0o600)
            self.database.chmod(0o600)
        except OSError as error:
            raise StartError(f"--state-dir {self.directory}: {error.strerror}") from error

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the state directory's lock.

        :raises StartError: another service of this machine uses it.
        """
        held = lockutils.external_lock("standalone", lock_path=str(self.directory))
        if not held.acquire(blocking=False):
            raise StartError(f"another service uses the state directory {self.directory}")
        try:
            yield
        finally:
            held.release()


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def can_bind_mount(directory: str) -> bool:
    """Try it: root in a container may lack the right."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory(dir=directory) as source:
        try:
            mounts = MountManager(directory)
            with mounts.mounted(Mount(proto="bind", export=source), "probe", read_only=True):
                return True
        except ManilaBackupError:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Where they come from: the values of [DEFAULT] and a group of the provider's own."""

    provider: str
    node_address: str
    group: Mapping[str, str]

    def section(self) -> str:
        lines = (f"{name} = {value}" for name, value in self.group.items())
        return "\n".join((f"[{self.provider}]", *lines))


def local_shares(state: State, *, bind: bool) -> Shares:
    """Directories of this machine."""
    group = {"shares_directory": str(state.shares), "bind_mounts": str(bind).lower()}
    return Shares(provider="local", node_address="127.0.0.1", group=group)


def nfs_ssh_shares(path: str, *, bind: bool) -> Shares:
    """Those of an NFS server.

    :raises StartError: the file cannot be read or does not suffice, or nothing can be mounted.
    """
    from manila_backup.share.nfs_ssh.options import GROUP, settings_from_conf

    if not bind:
        raise StartError("--nfs-ssh needs the right to mount: run it as root")
    try:
        conf = config.load([], files=[path])
        settings_from_conf(conf)
    except (cfg.Error, ValueError) as error:
        raise StartError(f"--nfs-ssh {path}: {error}") from error
    # Its default is a loopback address: right for a server on this machine, if somebody says so.
    if not conf.get_location("data_node_address").location.is_user_controlled:
        raise StartError(
            f"--nfs-ssh {path}: option data_node_address is required: the address under which the "
            "NFS server sees this machine"
        )
    values = {name: value for name, value in conf[GROUP].items() if value is not None}
    group = {name: _written(value) for name, value in values.items()}
    return Shares(provider=GROUP, node_address=conf.data_node_address, group=group)


def _written(value: object) -> str:
    """As a configuration file has it."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.replace("$", "$$")


def write_config(state: State, host: str, *, bind: bool, shares: Shares) -> None:
    """Write down what this start uses, so that ``manila-backup-manage`` finds the same."""
    listen = "*" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    text = f"""\
# Written by manila-backup-standalone at each start; changes are lost.
[DEFAULT]
host = standalone
share_provider = {shares.provider}
use_bus = false
data_node_address = {shares.node_address}
mount_directory = {state.mounts}
backup_mount_proto = {"bind" if bind else "path"}
backup_mount_export = {state.backup_share}
poll_interval_s = 2
lease_s = 20
reaper_interval_s = 30

[database]
connection = sqlite:///{state.database}

{shares.section()}

[api]
auth_strategy = noauth
noauth_hosts = {listen}
"""
    fresh = state.config.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.replace(state.config)


def build_application(conf: cfg.ConfigOpts, node: Node, data: DataService) -> WSGIApplication:
    """The whole API with the local shares' part, waking the data node of the same process."""
    from manila_backup.api.app import build_app
    from manila_backup.api.local.routes import local_routes
    from manila_backup.api.options import settings_from_conf
    from manila_backup.data.rpcapi import InProcessWaker
    from manila_backup.data.store import manifest_exists
    from manila_backup.share.stores import KeepsShares

    if not isinstance(node.provider, KeepsShares):
        raise TypeError("the standalone service needs shares without an API of their own")
    return build_app(
        settings_from_conf(conf, driver=node.settings.driver),
        node.database,
        node.provider,
        InProcessWaker(data.wake),
        local_routes(node.provider, node.database),
        conf=conf,
        manifest_exists=lambda backup: manifest_exists(node, backup),
    )


class _Signals:
    """SIGTERM and SIGINT, and SIGHUP (the terminal is closed) unless it was ignored before (nohup),
    kept from now on until somebody waits for them.

    Through a socket: the kernel may hand a signal to any thread (it does when the process was
    stopped and goes on), and Python would not wake the main thread from a lock.
    """

    def __init__(self) -> None:
        self._wanted = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            self._wanted.append(signal.SIGHUP)
        self._ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        for number in self._wanted:
            signal.signal(number, lambda number, frame: None)
        signal.set_wakeup_fd(self._theirs.fileno())

    def wait(self) -> str:
        """Name of the first that comes, or has come."""
        while True:
            (number,) = self._ours.recv(1)
            if number in self._wanted:
                return signal.Signals(number).name


def _warn(host: str, *, bind: bool) -> None:
    if os.geteuid() == 0:
        LOG.warning(
            "Running as root: whoever reaches the port can read and write as root what lies in "
            "the shares. Fit for trying it out and for machines of one administrator only."
        )
    if not is_loopback(host):
        LOG.warning("Listening on %s WITHOUT AUTHENTICATION: everyone there is admin.", host)
    if not bind:
        LOG.info("No bind mounts here: the shares' directories are used where they are.")


def serve(state: State, host: str, port: int, *, nfs_ssh: str | None, debug: bool) -> None:
    """Run until a signal comes.

    :param nfs_ssh: the file of the option of that name.
    """
    from manila_backup import service
    from manila_backup.db import migration

    signals = _Signals()
    bind = can_bind_mount(str(state.mounts))
    shares = nfs_ssh_shares(nfs_ssh, bind=bind) if nfs_ssh else local_shares(state, bind=bind)
    write_config(state, host, bind=bind, shares=shares)
    conf = config.load(["--debug"] if debug else [], files=[str(state.config)])
    config.set_up_logging(conf)
    _warn(host, bind=bind)
    node = service.build_node(conf)
    migration.sync(node.database)
    data = service.DataService(conf, lambda: node)
    api = service.ApiService(lambda: build_application(conf, node, data), host, port)
    try:
        api.start()
    except OSError as error:
        raise StartError(f"cannot listen on {host} port {port}: {error}") from error
    data.start()
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{api.port}/v2"
    print(f"manila-backup-standalone is ready: OS_AUTH_TYPE=none OS_ENDPOINT={url}", flush=True)
    name = signals.wait()
    LOG.info("%s: stopping.", name)
    api.stop()
    data.stop()
    node.database.close()


def main(arguments: Sequence[str] | None = None) -> int:
    found = parser().parse_args(arguments)
    if not is_loopback(found.host) and not found.allow_unauthenticated_network_access:
        print(
            f"error: --host {found.host} can be reached by others and nobody would be asked who "
            "they are; if that is what you want, say --allow-unauthenticated-network-access",
            file=sys.stderr,
        )
        return 2
    state = State(directory=Path(found.state_dir).absolute())
    try:
        state.prepare()
        with state.owned():
            serve(state, found.host, found.port, nfs_ssh=found.nfs_ssh, debug=found.debug)
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
