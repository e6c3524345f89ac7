# SPDX-License-Identifier: Apache-2.0
"""The routes of the local shares API."""

from __future__ import annotations

from manila_backup.api.local import projects, types
from manila_backup.api.local.access import AccessRules
from manila_backup.api.local.export_locations import ExportLocations
from manila_backup.api.local.service import BackgroundThreads, LocalShares, over_database
from manila_backup.api.local.share_actions import ShareActions
from manila_backup.api.local.shares import Shares
from manila_backup.api.local.snapshots import Snapshots
from manila_backup.api.route import RouteTable
from manila_backup.db.engine import Database
from manila_backup.share.local.provider import LocalShareProvider


def build_routes(local: LocalShares) -> RouteTable:
    """For ``extra_routes`` of :func:`manila_backup.api.app.build_app`."""
    return (
        *Shares(local).routes(),
        *ShareActions(local).routes(),
        *AccessRules(local).routes(),
        *ExportLocations(local).routes(),
        *Snapshots(local).routes(),
        *types.ROUTES,
        *projects.ROUTES,
    )


def local_routes(provider: LocalShareProvider, database: Database) -> RouteTable:
    """The routes over a provider's shares, slow work in the background."""
    return build_routes(over_database(provider.store, database, BackgroundThreads()))
