# SPDX-License-Identifier: Apache-2.0
"""Default quotas; the names are upstream Manila's."""

from __future__ import annotations

from oslo_config import cfg

from manila_backup.quota.ledger import Limits

OPTS = [
    cfg.IntOpt(
        "quota_backups",
        default=10,
        min=-1,
        help="Share backups that a project may have, unless it has a quota of its own; -1 is "
        "unlimited.",
    ),
    cfg.IntOpt(
        "quota_backup_gigabytes",
        default=1000,
        min=-1,
        help="Sum in GiB of the sizes of the shares behind a project's backups, each at the time "
        "of its backup, unless the project has a quota of its own; -1 is unlimited.",
    ),
]


def defaults_from_conf(conf: cfg.ConfigOpts) -> Limits:
    """The configured defaults; the options must be registered."""
    return Limits(backups=conf.quota_backups, backup_gigabytes=conf.quota_backup_gigabytes)
