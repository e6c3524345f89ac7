# SPDX-License-Identifier: Apache-2.0
"""The routes of the local shares API."""

from __future__ import annotations

from oslo_log import log as logging

from manila_backup.api.local import projects, types
from manila_backup.api.local.access import AccessRules
from manila_backup.api.local.export_locations import ExportLocations
from manila_backup.api.local.service import BackgroundThreads, LocalShares, over_database
from manila_backup.api.local.share_actions import ShareActions
from manila_backup.api.local.shares import Shares
from manila_backup.api.local.snapshots import Snapshots
from manila_backup.api.route import RouteTable
from manila_backup.db.engine import Database
from manila_backup.exception import TransientError
from manila_backup.share.stores import KeepsShares, ShareStore

LOG = logging.getLogger(__name__)


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


def local_routes(provider: KeepsShares, database: Database) -> RouteTable:
    """The routes over a provider's shares, slow work in the background; what earlier processes
    have left of it is taken up."""
    background = BackgroundThreads()
    background(lambda: _resume(provider.store))
    return build_routes(over_database(provider, database, background))


def _resume(store: ShareStore) -> None:
    try:
        store.resume()
    except TransientError as exc:
        LOG.warning("Deletions that were left unfinished wait for the next start: %s", exc)
