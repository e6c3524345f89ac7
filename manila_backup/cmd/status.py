# SPDX-License-Identifier: Apache-2.0
"""``manila-backup-status upgrade check``: may this version be started on this database?

Exit status as oslo.upgradecheck has it: 0 all is well, 1 something should be looked at, 2 it may
not, 255 the check itself failed.
"""

from __future__ import annotations

import sys

from oslo_config import cfg
from oslo_db import exception as db_exc
from oslo_upgradecheck import upgradecheck
from oslo_upgradecheck.upgradecheck import Code, Result, UpgradeCommands
from sqlalchemy.exc import SQLAlchemyError

from manila_backup import config, service
from manila_backup.db import intents, migration
from manila_backup.db.engine import Database
from manila_backup.quota import ledger

_AWAY = (db_exc.DBError, SQLAlchemyError)


class Checks(UpgradeCommands):
    """Each answers for itself; none changes anything."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf

    def _database(self) -> Database:
        return service.build_database(self._conf)

    def check_schema(self) -> Result:
        try:
            found = migration.version(self._database())
        except (ValueError, *_AWAY) as error:
            return Result(Code.FAILURE, f"the database cannot be read: {error}")
        head = migration.head()
        if found == head:
            return Result(Code.SUCCESS)
        if found is None or migration.is_known(found):
            text = f"the schema is {found or 'empty'}, not {head}: manila-backup-manage db sync"
            return Result(Code.FAILURE, text)
        return Result(Code.FAILURE, f"the schema {found} is of a newer version than this one")

    def check_quota(self) -> Result:
        try:
            with self._database().reader() as session:
                drifts = ledger.check(session)
        except (ValueError, *_AWAY):
            return Result(Code.WARNING, "not checked, see the schema")
        if drifts:
            projects = len({drift.project_id for drift in drifts})
            text = f"usage of {projects} projects is wrong: manila-backup-manage quota sync"
            return Result(Code.WARNING, text)
        return Result(Code.SUCCESS)

    def check_outlived(self) -> Result:
        try:
            with self._database().reader() as session:
                found = len(intents.outlived(session))
        except (ValueError, *_AWAY):
            return Result(Code.WARNING, "not checked, see the schema")
        if found:
            text = f"{found} marks, grants, mounts or directories outlived their operation"
            return Result(Code.WARNING, text)
        return Result(Code.SUCCESS)

    _upgrade_checks = (
        ("Database schema", check_schema),
        ("Quota ledger", check_quota),
        ("Left behind", check_outlived),
    )


def main() -> int:
    conf = cfg.ConfigOpts()
    config.register(conf)
    try:
        return upgradecheck.main(conf, config.PROJECT, Checks(conf), sys.argv[1:])
    except cfg.Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 255


if __name__ == "__main__":
    sys.exit(main())
