# SPDX-License-Identifier: Apache-2.0
"""Reading the configuration: which options there are is said beside their users."""

from __future__ import annotations

from collections.abc import Sequence

from oslo_config import cfg
from oslo_db import options as db_options
from oslo_log import log

from manila_backup.api import options as api_options
from manila_backup.api.gateway import options as gateway_options
from manila_backup.data import node
from manila_backup.quota import options as quota_options
from manila_backup.share.local import options as local_options
from manila_backup.share.manila import options as manila_options
from manila_backup.share.nfs_ssh import options as nfs_ssh_options

PROJECT = "manila-backup"

PROVIDER_OPTS = [
    cfg.StrOpt(
        "share_provider",
        default="local",
        help="Where shares come from: the name of a share provider (entry point group "
        "manila_backup.share_providers).",
    )
]


def list_opts() -> list[tuple[str | None, list[cfg.Opt]]]:
    """All our options by group, for oslo-config-generator."""
    return [*_registered_opts(), (manila_options.GROUP, list(manila_options.SAMPLE_OPTS))]


def _registered_opts() -> list[tuple[str | None, list[cfg.Opt]]]:
    return [
        (None, [*node.OPTS, *quota_options.OPTS, *PROVIDER_OPTS]),
        (api_options.GROUP, list(api_options.OPTS)),
        (gateway_options.GROUP, list(gateway_options.OPTS)),
        (local_options.GROUP, list(local_options.OPTS)),
        (nfs_ssh_options.GROUP, list(nfs_ssh_options.OPTS)),
    ]


def register(conf: cfg.ConfigOpts) -> None:
    """All options of the service."""
    log.register_options(conf)
    conf.register_opts(db_options.database_opts, group="database")
    for group, opts in _registered_opts():
        conf.register_opts(opts, group=group)
    conf.register_opts(manila_options.OPTS, group=manila_options.GROUP)


def load(arguments: Sequence[str], files: Sequence[str] | None = None) -> cfg.ConfigOpts:
    """Parse the options of a command line (``--config-file``, ``--debug``, ...) and the files.

    :param files: configuration files to read instead of the default ones.
    :raises cfg.ConfigFilesNotFoundError: (and other oslo.config errors) naming file or option.
    """
    conf = cfg.ConfigOpts()
    register(conf)
    conf(list(arguments), project=PROJECT, default_config_files=None if files is None else files)
    return conf


def set_up_logging(conf: cfg.ConfigOpts) -> None:
    """As [DEFAULT] says; the levels of talkative libraries are oslo.log's defaults.

    Without a log file or a journal it goes to standard error: standard output is for what the
    commands print, which programs read.
    """
    if not (conf.log_file or conf.log_dir or conf.use_journal):
        conf.set_default("use_stderr", True)
    log.setup(conf, PROJECT)
