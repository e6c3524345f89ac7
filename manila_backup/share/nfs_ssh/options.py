# SPDX-License-Identifier: Apache-2.0
"""Options of the nfs_ssh share provider."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from oslo_config import cfg

GROUP = "nfs_ssh"

REJECT = "reject"
ACCEPT_NEW = "accept_new"

OPTS = [
    cfg.StrOpt("host", help="Name or address of the NFS server, as SSH reaches it. Required."),
    cfg.PortOpt("port", default=22, help="Port of its SSH server."),
    cfg.StrOpt("user", default="root", help="User there. Another than root needs use_sudo."),
    cfg.BoolOpt(
        "use_sudo",
        default=False,
        help="Run every command there through sudo, which must not ask for a password.",
    ),
    cfg.ListOpt(
        "key_files",
        default=[],
        help="Private keys without a passphrase, readable by this service only. Those with one are "
        "for the agent.",
    ),
    cfg.BoolOpt(
        "use_agent",
        default=False,
        help="Also try the keys of the SSH agent that the environment variable SSH_AUTH_SOCK of "
        "this service names.",
    ),
    cfg.StrOpt(
        "known_hosts_file",
        default="/etc/manila-backup/known_hosts",
        help="The host keys of the server, in the format of sshd(8): ssh-keyscan writes it.",
    ),
    cfg.StrOpt(
        "host_key_policy",
        default=REJECT,
        choices=[
            (REJECT, "a server that is not in known_hosts_file is refused"),
            (ACCEPT_NEW, "its key is believed the first time and written there"),
        ],
        help="What to do with a server whose key is not known. One whose key has changed is "
        "refused in any case.",
    ),
    cfg.FloatOpt(
        "connect_timeout_s",
        default=15,
        min=0.1,
        help="How long the server may take, in seconds, for each step of a connection: TCP, the "
        "exchange of keys, the authentication, the opening of a channel.",
    ),
    cfg.FloatOpt(
        "command_timeout_s",
        default=60,
        min=1,
        help="How long one command may take there, in seconds. Longer, and it is ended on both "
        "sides; what it was for fails and is tried again.",
    ),
    cfg.FloatOpt(
        "removal_timeout_s",
        default=86400,
        min=1,
        help="The same for the removal of a share's tree.",
    ),
    cfg.IntOpt(
        "max_connections",
        default=4,
        min=1,
        help="Connections that a process of this service has at once; each runs one command.",
    ),
    cfg.StrOpt(
        "root",
        default="/srv/manila-backup",
        help="Directory on the server that holds the shares, and beside them what is known of "
        "them. Absolute; of letters, digits and . _ - / only. It must hold a file named "
        "manila-backup-store, made by hand: so a file system that is not mounted there is not "
        "mistaken for one without shares.",
    ),
    cfg.StrOpt(
        "exports_directory",
        default="/etc/exports.d",
        help="Directory on the server with a file for each client of each share, in the format of "
        "exports(5). The default is read when the NFS server starts, so access outlives that; "
        "with another one it ends there.",
    ),
    cfg.ListOpt(
        "export_options",
        default=["sync", "no_root_squash", "subtree_check"],
        help="Options of exports(5) for each client besides ro or rw. Data nodes need "
        "no_root_squash. subtree_check keeps a client of one share from reading others of the same "
        "file system through guessed file handles; no_subtree_check is for shares with a file "
        "system each.",
    ),
    cfg.StrOpt(
        "export_address",
        help="Name or address under which data nodes and users mount shares. Default: host.",
    ),
    cfg.ListOpt(
        "mount_options",
        default=[],
        help="Options of mount(8) for shares, for example nfsvers=4.2. nosuid, nodev, noexec and "
        "ro or rw are always added.",
    ),
]

_PATH = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
_EXPORT_OPTION = re.compile(r"[A-Za-z0-9_]+(=[A-Za-z0-9_.:/@-]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class SshSettings:
    """How the server is reached. Times in seconds; see the options of the same names."""

    host: str
    port: int = 22
    user: str = "root"
    use_sudo: bool = False
    key_files: tuple[str, ...] = ()
    use_agent: bool = False
    known_hosts_file: str
    accept_new_hosts: bool = False
    connect_timeout_s: float = 15.0
    command_timeout_s: float = 60.0
    max_connections: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """Where things are on the server. Both paths hold nothing that exports(5) would quote."""

    root: str
    exports_directory: str = "/etc/exports.d"
    export_options: tuple[str, ...] = ("sync", "no_root_squash", "subtree_check")
    export_address: str
    mount_options: tuple[str, ...] = field(default=())
    removal_timeout_s: float = 86400.0

    def __post_init__(self) -> None:
        """:raises ValueError: a path or an export option that the server would read otherwise."""
        for name in ("root", "exports_directory"):
            if not _PATH.fullmatch(getattr(self, name)):
                raise ValueError(
                    f"option {name} in group [{GROUP}] must be an absolute path of letters, digits "
                    "and . _ - / only, without hidden directories and without / at the end"
                )
        for option in self.export_options:
            if not _EXPORT_OPTION.fullmatch(option) or option in ("ro", "rw"):
                raise ValueError(
                    f"option export_options in group [{GROUP}]: {option!r} cannot be said there"
                )


def settings_from_conf(conf: cfg.ConfigOpts) -> tuple[SshSettings, StoreSettings]:
    """As the options of group [nfs_ssh] say; they must be registered.

    :raises ValueError: one is missing or wrong; the message names it.
    """
    group = conf[GROUP]
    if not group.host:
        raise ValueError(f"option host in group [{GROUP}] is required")
    if not group.key_files and not group.use_agent:
        raise ValueError(f"option key_files or use_agent in group [{GROUP}] is required")
    ssh = SshSettings(
        host=group.host,
        port=group.port,
        user=group.user,
        use_sudo=group.use_sudo,
        key_files=tuple(group.key_files),
        use_agent=group.use_agent,
        known_hosts_file=group.known_hosts_file,
        accept_new_hosts=group.host_key_policy == ACCEPT_NEW,
        connect_timeout_s=group.connect_timeout_s,
        command_timeout_s=group.command_timeout_s,
        max_connections=group.max_connections,
    )
    store = StoreSettings(
        root=group.root,
        exports_directory=group.exports_directory,
        export_options=tuple(group.export_options),
        export_address=group.export_address or group.host,
        mount_options=tuple(group.mount_options),
        removal_timeout_s=group.removal_timeout_s,
    )
    return ssh, store
