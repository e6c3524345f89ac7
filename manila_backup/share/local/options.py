# SPDX-License-Identifier: Apache-2.0
"""Options of the local share provider."""

from __future__ import annotations

from oslo_config import cfg

GROUP = "local"

OPTS = [
    cfg.StrOpt(
        "shares_directory",
        default="/var/lib/manila-backup/shares",
        help="Directory that holds the shares of the local provider and all that is known of "
        "them. To be private to the service (mode 0700).",
    ),
    cfg.BoolOpt(
        "bind_mounts",
        default=True,
        help="Reach shares through bind mounts (read-only for backups), which needs root. "
        "Otherwise their directories are used where they are, and nothing but this program's "
        "care keeps a backup from writing to its source.",
    ),
]
