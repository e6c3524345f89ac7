# SPDX-License-Identifier: Apache-2.0
"""The table of all routes of this service. The local shares API adds its own by argument."""

from __future__ import annotations

from manila_backup.api import discovery, limits, messages, quota_sets, share_backups
from manila_backup.api.route import RouteTable

ROUTES: RouteTable = (
    *discovery.ROUTES,
    *share_backups.ROUTES,
    *quota_sets.ROUTES,
    *limits.ROUTES,
    *messages.ROUTES,
)
