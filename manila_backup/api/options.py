# SPDX-License-Identifier: Apache-2.0
"""Options of the API, and the frozen value that they become before anything reads them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from oslo_config import cfg

from manila_backup.quota.ledger import Limits
from manila_backup.quota.options import defaults_from_conf

GROUP = "api"

AuthStrategy = Literal["noauth", "keystone"]

OPTS = [
    cfg.HostAddressOpt(
        "listen_address",
        default="127.0.0.1",
        help="Address that manila-backup-api listens on. Another WSGI server has its own options.",
    ),
    cfg.PortOpt("listen_port", default=8786, help="Port that manila-backup-api listens on."),
    cfg.IntOpt(
        "threads",
        default=16,
        min=1,
        help="How many requests manila-backup-api works on at a time; others wait. A gateway needs "
        "one for each request that it has passed on to Manila until that has answered, so there "
        "more than Manila's own processes and threads.",
    ),
    cfg.StrOpt(
        "auth_strategy",
        choices=[
            ("keystone", "tokens are checked by keystonemiddleware, see [keystone_authtoken]"),
            ("noauth", "nobody is checked; a token user:project:role1,role2 says who asks"),
        ],
        default="keystone",
        help="How requests are authenticated. With noauth whoever reaches the port is an "
        "administrator, so requests are taken only for loopback names and for noauth_hosts.",
    ),
    cfg.ListOpt(
        "noauth_hosts",
        default=[],
        help="With noauth: further names or addresses that the Host header of a request may have, "
        "besides localhost and loopback addresses. A web page that its visitor's browser is "
        "tricked into trusting (DNS rebinding) has another. '*' takes any Host and so gives this "
        "protection up.",
    ),
    cfg.IntOpt(
        "max_request_body_size_bytes",
        default=112 * 1024,
        min=1024,
        help="Size in bytes above which a request body is refused with 413.",
    ),
    cfg.IntOpt(
        "max_limit",
        default=1000,
        min=1,
        help="Most items that one page of a listing has; larger limits are cut to it.",
    ),
    cfg.StrOpt(
        "public_endpoint",
        help="URL under which clients reach this service, without /v2 (for example "
        "https://backup.example.org). Used in links; unset means the URL of the request.",
    ),
    cfg.ListOpt(
        "share_protocols",
        default=["NFS"],
        help="Protocols whose shares can be backed up and restored to; others are refused with "
        "400. The data nodes must be able to mount them.",
    ),
    cfg.ListOpt(
        "ignored_backup_options",
        default=["dummy", "backup_type"],
        help="Keys of backup_options that are taken without effect. Any other key that the driver "
        "does not know is refused with 400.",
    ),
    cfg.BoolOpt(
        "enable_metrics",
        default=False,
        help="Answer /metrics with figures for Prometheus. Nobody is asked for a token: let only "
        "the monitoring reach it. They have no names of projects.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """:data:`OPTS` as values; the defaults here are the standalone service's and the tests'."""

    auth_strategy: AuthStrategy = "noauth"
    noauth_hosts: tuple[str, ...] = ()
    max_request_body_size_bytes: int = 112 * 1024
    max_limit: int = 1000
    public_endpoint: str | None = None
    share_protocols: tuple[str, ...] = ("NFS",)
    refuse_shares_with_snapshots: bool = True
    ignored_backup_options: tuple[str, ...] = ("dummy", "backup_type")
    enable_metrics: bool = False
    quota_defaults: Limits = field(default_factory=Limits)
    known_backup_options: tuple[str, ...] = ()
    """Keys of backup_options that the driver understands."""
    driver: str = "nfs"
    """Entry point name of the backup driver; what ``backup_type`` shows."""
    topic: str = "manila-backup-data"
    """What the detailed view shows an administrator as the topic of new backups."""


def settings_from_conf(conf: cfg.ConfigOpts, **more: Any) -> Settings:
    """Read the options once; they, the quota defaults and the data node's must be registered.

    :param more: the fields that are not options of the API, for example ``driver``.
    """
    names = {item.name for item in fields(Settings)}
    values = {opt.dest: conf[GROUP][opt.dest] for opt in OPTS if opt.dest in names}
    values["quota_defaults"] = defaults_from_conf(conf)
    values["refuse_shares_with_snapshots"] = conf.refuse_shares_with_snapshots
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = tuple(value)
    return Settings(**{**values, **more})
