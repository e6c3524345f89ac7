# SPDX-License-Identifier: Apache-2.0
"""The class for manila.conf: ``backup_driver = manila_backup.adapter.driver.ManilaBackupDriver``.

manila-data calls ``backup``, ``restore`` and ``delete`` in threads of its own and writes down how
they end: an exception means failed. Meanwhile it polls the progress; it ends a backup itself when
that is "100" or the question raises, so the answer is "99" and never an error.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from manila import context as manila_context
from manila import db as manila_db
from manila import exception as manila_exception
from manila.common import constants
from manila.data import backup_driver
from manila.data import rpcapi as data_rpcapi
from manila.share import access as share_access
from manila.share import rpcapi as share_rpcapi
from oslo_config import cfg
from oslo_log import log

from manila_backup.adapter.calls import Calls
from manila_backup.adapter.cloud import (
    BUSY_BACKUP,
    BUSY_SHARE,
    CallKind,
    CloudBackup,
    CloudShare,
    Rule,
)
from manila_backup.adapter.options import GROUP, OPTS, Settings
from manila_backup.adapter.reason import fitting
from manila_backup.types import AccessLevel

LOG = log.getLogger(__name__)

CONF = cfg.CONF
CONF.register_opts(OPTS, group=GROUP)
CONF.import_opt("data_node_access_ips", "manila.data.helper")
CONF.import_opt("data_access_wait_access_rules_timeout", "manila.data.helper")

WORKING = "99"
"""Percent, until manila-data itself writes 100."""


class ManilaBackupDriver(backup_driver.BackupDriver):  # type: ignore[misc]
    """See the module's docstring. Made in manila-data's first process, used in the one it forks."""

    def __init__(self) -> None:
        """:raises ValueError: an option is missing; manila-data does not start."""
        super().__init__()
        self.use_data_manager = False
        self.restore_to_target_support = True
        self._calls = Calls(
            Settings.from_conf(CONF[GROUP], CONF.rootwrap_config),
            ManilaCloud(),
            addresses=CONF.data_node_access_ips,
            access_timeout_s=float(CONF.data_access_wait_access_rules_timeout),
        )

    def backup(self, context: Any, backup: Any, share: Any) -> None:
        """:raises BackupException: nothing is stored."""
        with _manilas_errors():
            self._calls.backup(backup["id"], share["id"], as_admin=bool(context.is_admin))

    def restore(self, context: Any, backup: Any, share: Any) -> None:
        """:raises BackupException: the share may hold some of both."""
        with _manilas_errors():
            self._calls.restore(backup["id"], share["id"], as_admin=bool(context.is_admin))

    def delete(self, context: Any, backup: Any) -> None:
        """:raises BackupException: some of it may be left."""
        with _manilas_errors():
            self._calls.delete(backup["id"], backup["share_id"])

    def get_backup_progress(self, context: Any, backup: Any, share: Any) -> str:
        """Always "99". The first question of a process makes it look for leftovers of the one
        before.
        """
        return self._working()

    def get_restore_progress(self, context: Any, backup: Any, share: Any) -> str:
        """As :meth:`get_backup_progress`."""
        return self._working()

    def _working(self) -> str:
        try:
            self._calls.start()
        except Exception as error:  # noqa: BLE001 - see the module's docstring
            LOG.warning("Leftovers of an earlier process are not looked for yet: %s", error)
        return WORKING


@contextmanager
def _manilas_errors() -> Iterator[None]:
    """All errors as Manila's, short enough for its columns."""
    try:
        yield
    except Exception as error:
        raise manila_exception.BackupException(reason=fitting(str(error))) from error


class ManilaCloud:
    """Manila's rows by Manila's own functions. Every call has a context, and so a session, of its
    own.
    """

    def share(self, share_id: str) -> CloudShare | None:
        context = manila_context.get_admin_context()
        try:
            share = manila_db.share_get(context, share_id)
        except manila_exception.NotFound:
            return None
        return CloudShare(
            id=share["id"],
            project_id=share["project_id"],
            name=share["display_name"],
            status=share["status"],
            proto=share["share_proto"],
            size_gib=share["size"],
            exports=_exports(context, share.instance["id"]),
        )

    def backup(self, backup_id: str) -> CloudBackup | None:
        context = manila_context.get_admin_context()
        try:
            return _backup(manila_db.share_backup_get(context, backup_id))
        except manila_exception.NotFound:
            return None

    def rules(self, share_id: str) -> list[Rule]:
        context = manila_context.get_admin_context()
        found = manila_db.share_access_get_all_for_share(context, share_id)
        return [
            Rule(
                id=rule["id"],
                access_type=rule["access_type"],
                access_to=rule["access_to"],
                level=rule["access_level"],
                state=rule["state"],
            )
            for rule in found
        ]

    def add_rule(self, share_id: str, rule_id: str, address: str, level: AccessLevel) -> None:
        """By the functions below Manila's API, which refuses rules while a share is busy."""
        context = manila_context.get_admin_context()
        values = {
            "id": rule_id,
            "share_id": share_id,
            "access_type": "ip",
            "access_to": address,
            "access_level": str(level),
        }
        manila_db.share_access_create(context, values)
        for instance in manila_db.share_get(context, share_id).instances:
            _apply(context, instance)

    def deny_rule(self, share_id: str, rule_id: str) -> None:
        context = manila_context.get_admin_context()
        helper = share_access.ShareInstanceAccess(manila_db, None)
        try:
            instances = manila_db.share_get(context, share_id).instances
        except manila_exception.NotFound:
            return
        for instance in instances:
            helper.get_and_update_share_instance_access_rules(
                context,
                filters={"access_id": [rule_id]},
                updates={"state": constants.ACCESS_STATE_QUEUED_TO_DENY},
                share_instance_id=instance["id"],
            )
            _apply(context, instance)

    def settle(
        self,
        kind: CallKind,
        backup_id: str,
        share_id: str,
        *,
        succeeded: bool | None,
        reason: str | None,
        version: str | None,
    ) -> None:
        context = manila_context.get_admin_context()
        try:
            backup = manila_db.share_backup_get(context, backup_id)
        except manila_exception.NotFound:
            return
        if backup["status"] != BUSY_BACKUP[kind] or version not in (None, _version(backup)):
            return
        LOG.warning("Backup %s is still %s; it is set right.", backup_id, backup["status"])
        if kind is CallKind.DELETE and succeeded is not False:
            # Also when all is gone: the row and its quota are manila-data's to end. In the name of
            # the backup's own user, for whom the quota was charged.
            asker = manila_context.RequestContext(
                user_id=backup["user_id"], project_id=backup["project_id"], is_admin=True
            )
            data_rpcapi.DataAPI().delete_backup(asker, backup)
            return
        _settle_share(context, kind, share_id, succeeded=bool(succeeded))
        manila_db.share_backup_update(context, backup_id, _ending(kind, bool(succeeded), reason))

    def forgotten_backups(self, before_s: float) -> list[CloudBackup]:
        context = manila_context.get_admin_context()
        filters = {
            "status": constants.STATUS_CREATING,
            "host": CONF.host,
            "topic": CONF.data_topic,
        }
        before = datetime.datetime.fromtimestamp(before_s, datetime.UTC).replace(tzinfo=None)
        return [
            _backup(backup)
            for backup in manila_db.share_backups_get_all(context, filters)
            if (backup["updated_at"] or backup["created_at"]) < before
        ]


def _exports(context: Any, instance_id: str) -> tuple[str, ...]:
    """Those for administrators first, among them the preferred ones."""
    found = manila_db.export_location_get_all_by_share_instance_id(context, instance_id)
    wanted = sorted(
        found,
        key=lambda location: (
            not location["is_admin_only"],
            str(location["el_metadata"].get("preferred", False)).lower() != "true",
        ),
    )
    return tuple(location["path"] for location in wanted)


def _apply(context: Any, instance: Any) -> None:
    """Have the share's service bring its rules about, as Manila's API does."""
    share_access.ShareInstanceAccess(
        manila_db, None
    ).get_and_update_share_instance_access_rules_status(
        context,
        conditionally_change={constants.STATUS_ACTIVE: constants.SHARE_INSTANCE_RULES_SYNCING},
        share_instance_id=instance["id"],
    )
    share_rpcapi.ShareAPI().update_access(context, instance)


def _settle_share(context: Any, kind: CallKind, share_id: str, *, succeeded: bool) -> None:
    try:
        share = manila_db.share_get(context, share_id)
    except manila_exception.NotFound:
        return
    if share["status"] != BUSY_SHARE.get(kind):
        return
    status = constants.STATUS_AVAILABLE
    if kind is CallKind.RESTORE and not succeeded:
        status = constants.STATUS_BACKUP_RESTORING_ERROR
    manila_db.share_update(context, share_id, {"status": status})


def _ending(kind: CallKind, succeeded: bool, reason: str | None) -> dict[str, Any]:
    """What manila-data writes into the row of a backup in each case."""
    if kind is CallKind.RESTORE:
        progress = {"restore_progress": "100"} if succeeded else {}
        return {"status": constants.STATUS_AVAILABLE, **progress}
    if kind is CallKind.DELETE:
        return {"status": constants.STATUS_ERROR_DELETING}
    if succeeded:
        return {"status": constants.STATUS_AVAILABLE, "progress": "100"}
    return {
        "status": constants.STATUS_ERROR,
        "progress": "0",
        "fail_reason": fitting(reason or ""),
    }


def _backup(backup: Any) -> CloudBackup:
    return CloudBackup(
        id=backup["id"],
        project_id=backup["project_id"],
        user_id=backup["user_id"],
        share_id=backup["share_id"],
        status=backup["status"],
        size_gib=backup["size"],
        name=backup["display_name"],
        description=backup["display_description"],
        availability_zone=backup.availability_zone,
        created_at=f"{backup['created_at'].isoformat(timespec='microseconds')}Z",
        version=_version(backup),
    )


def _version(backup: Any) -> str:
    """Changes with every change of the row, to the second."""
    return str(backup["updated_at"])
