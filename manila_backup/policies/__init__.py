# SPDX-License-Identifier: Apache-2.0
"""Who may do what: oslo.policy rules with their defaults in code, one file per noun."""

from __future__ import annotations

import itertools

from oslo_config import cfg
from oslo_policy import opts, policy

from manila_backup.policies import base, messages, quota_sets, share_backups, shares


def list_rules() -> list[policy.RuleDefault]:
    """All rules; also what ``oslopolicy-sample-generator`` prints."""
    return list(
        itertools.chain(
            base.list_rules(),
            share_backups.list_rules(),
            quota_sets.list_rules(),
            messages.list_rules(),
            shares.list_rules(),
        )
    )


def build_enforcer(conf: cfg.ConfigOpts) -> policy.Enforcer:
    """An enforcer with our defaults, over which the site's policy file goes if there is one."""
    opts.set_defaults(conf)
    enforcer = policy.Enforcer(conf)
    enforcer.register_defaults(list_rules())
    return enforcer


def get_enforcer() -> policy.Enforcer:
    """For the ``oslopolicy-*`` commands, which find it by entry point.

    They read the service's configuration from the files where oslo.config looks by default.
    """
    conf = cfg.ConfigOpts()
    conf([], project="manila-backup")
    return build_enforcer(conf)
