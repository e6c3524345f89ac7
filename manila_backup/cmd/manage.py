# SPDX-License-Identifier: Apache-2.0
"""``manila-backup-manage``: what an operator does beside the API."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from oslo_config import cfg
from oslo_db import exception as db_exc

from manila_backup import config, exception
from manila_backup.cmd import manage_backup, manage_nodes
from manila_backup.cmd.output import show
from manila_backup.cmd.standalone import CONFIG_NAME
from manila_backup.db import migration, purge
from manila_backup.db.engine import Database
from manila_backup.quota import ledger
from manila_backup.quota.options import defaults_from_conf
from manila_backup.service import build_database

_DAY_S = 86_400


def _db_sync(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    migration.sync(build_database(conf))
    return 0


def _db_version(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    print(migration.version(build_database(conf)) or "none")
    return 0


def _purge_arguments(found: argparse.ArgumentParser) -> None:
    found.add_argument(
        "--older-than", type=int, required=True, metavar="DAYS", help="what ended before that"
    )


def _db_purge(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    if found.older_than < 0:
        raise exception.InvalidInput(field="--older-than", reason="must be 0 or more")
    database = build_database(conf)
    show([purge.purge(database, older_than_s=found.older_than * _DAY_S)], found.format)
    return 0


def _quota_show(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    with build_database(conf).reader() as session:
        limits = ledger.limits(session, found.project, defaults_from_conf(conf))
        usage = ledger.usage(session, found.project)
    rows = [
        {"Resource": name, "In Use": getattr(usage, name), "Limit": limits.of(name)}
        for name in ledger.RESOURCES
    ]
    show(rows, found.format)
    return 0


def _quota_set(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    wanted = {ledger.BACKUPS: found.backups, ledger.GIGABYTES: found.backup_gigabytes}
    if all(limit is None for limit in wanted.values()):
        raise exception.InvalidInput(
            field="--backups, --backup-gigabytes", reason="at least one of them is needed"
        )
    database = build_database(conf)
    for resource, limit in wanted.items():
        if limit is not None and limit < ledger.UNLIMITED:
            raise exception.InvalidInput(
                field=f"--{resource.replace('_', '-')}", reason="must be -1 (unlimited) or more"
            )
    with database.writer() as session:
        for resource, limit in wanted.items():
            if limit is not None:
                ledger.set_limit(session, found.project, resource, limit)
    return _quota_show(conf, found)


def _quota_check(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    with build_database(conf).reader() as session:
        drifts = ledger.check(session, found.project)
    _show_drifts(drifts, found.format)
    return 1 if drifts else 0


def _quota_sync(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    database: Database = build_database(conf)
    drifts = database.write(lambda session: ledger.sync(session, found.project))
    _show_drifts(drifts, found.format)
    return 0


def _show_drifts(drifts: Sequence[ledger.Drift], output: str) -> None:
    rows = [
        {
            "Project": drift.project_id,
            "Resource": drift.resource,
            "In Use": drift.in_use,
            "Sum Of Backups": drift.expected,
        }
        for drift in drifts
    ]
    show(rows, output, nothing="usage equals the sum of the backups")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One ``noun verb``. ``arguments`` adds to its parser."""

    noun: str
    verb: str
    help: str
    run: Callable[[cfg.ConfigOpts, argparse.Namespace], int]
    arguments: Callable[[argparse.ArgumentParser], None] = lambda found: None


def _project(found: argparse.ArgumentParser) -> None:
    found.add_argument("project", help="project id")


def _some_project(found: argparse.ArgumentParser) -> None:
    found.add_argument("--project", help="this project only")


def _limits(found: argparse.ArgumentParser) -> None:
    _project(found)
    found.add_argument("--backups", type=int, metavar="N", help="-1 is unlimited")
    found.add_argument("--backup-gigabytes", type=int, metavar="GIB", help="-1 is unlimited")


COMMANDS = (
    Command(noun="db", verb="sync", help="bring the schema up to date", run=_db_sync),
    Command(noun="db", verb="version", help="show the schema's revision", run=_db_version),
    Command(
        noun="db",
        verb="purge",
        help="remove rows of deleted backups, ended operations and expired messages",
        run=_db_purge,
        arguments=_purge_arguments,
    ),
    Command(noun="service", verb="list", help="list the services", run=manage_nodes.list_services),
    Command(
        noun="service",
        verb="enable",
        help="let a data node take work again",
        run=manage_nodes.enable_service,
        arguments=manage_nodes.service_arguments,
    ),
    Command(
        noun="service",
        verb="disable",
        help="let a data node take no more work",
        run=manage_nodes.disable_service,
        arguments=manage_nodes.disable_arguments,
    ),
    Command(
        noun="service",
        verb="drain",
        help="the same, and wait for the end of what it works on",
        run=manage_nodes.drain_service,
        arguments=manage_nodes.drain_arguments,
    ),
    Command(
        noun="operation",
        verb="list",
        help="list what waits and what is under way",
        run=manage_nodes.list_operations,
        arguments=manage_nodes.list_arguments,
    ),
    Command(
        noun="operation",
        verb="show",
        help="show all that is known of an operation",
        run=manage_nodes.show_operation,
        arguments=manage_nodes.operation_arguments,
    ),
    Command(
        noun="operation",
        verb="cancel",
        help="cancel an operation",
        run=manage_nodes.cancel_operation,
        arguments=manage_nodes.operation_arguments,
    ),
    Command(
        noun="grants",
        verb="list",
        help="list access of data nodes to shares that outlived its operation",
        run=manage_nodes.list_grants,
        arguments=manage_nodes.grants_arguments,
    ),
    Command(
        noun="backup",
        verb="update-host",
        help="after a data node was given another name",
        run=manage_nodes.update_host,
        arguments=manage_nodes.update_host_arguments,
    ),
    Command(
        noun="quota",
        verb="show",
        help="show limits and usage of a project",
        run=_quota_show,
        arguments=_project,
    ),
    Command(
        noun="quota",
        verb="set",
        help="give a project limits of its own",
        run=_quota_set,
        arguments=_limits,
    ),
    Command(
        noun="quota",
        verb="check",
        help="compare usage with the backups; ends 1 if they differ",
        run=_quota_check,
        arguments=_some_project,
    ),
    Command(
        noun="quota",
        verb="sync",
        help="set usage to what the backups say",
        run=_quota_sync,
        arguments=_some_project,
    ),
    Command(
        noun="backup",
        verb="import",
        help="make rows for backups that only the store knows; never changes a row",
        run=manage_backup.import_backups,
        arguments=manage_backup.import_arguments,
    ),
    Command(
        noun="backup",
        verb="verify",
        help="read backups back and compare them with their catalogs; ends 1 if one is damaged",
        run=manage_backup.verify_backups,
        arguments=manage_backup.verify_arguments,
    ),
    Command(
        noun="backup",
        verb="extract",
        help="write a backup's tree into an empty directory",
        run=manage_backup.extract_backup,
        arguments=manage_backup.extract_arguments,
    ),
    Command(
        noun="backup",
        verb="orphans",
        help="list what lies in the store and belongs to no published backup",
        run=manage_backup.list_orphans,
        arguments=manage_backup.orphans_arguments,
    ),
)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="manila-backup-manage", description=__doc__)
    found.add_argument("--config-file", action="append", metavar="FILE")
    found.add_argument(
        "--state-dir", metavar="DIR", help="state directory of a standalone service of this machine"
    )
    found.add_argument("--debug", action="store_true", help="log more")
    nouns = found.add_subparsers(dest="noun", required=True, metavar="NOUN")
    verbs: dict[str, argparse._SubParsersAction[argparse.ArgumentParser]] = {}
    for command in COMMANDS:
        if command.noun not in verbs:
            known = ", ".join(each.verb for each in COMMANDS if each.noun == command.noun)
            noun = nouns.add_parser(command.noun, help=known)
            verbs[command.noun] = noun.add_subparsers(dest="verb", required=True, metavar="VERB")
        verb = verbs[command.noun].add_parser(command.verb, help=command.help)
        verb.add_argument("--format", choices=["table", "json"], default="table")
        command.arguments(verb)
        verb.set_defaults(run=command.run)
    return found


def _load(found: argparse.Namespace) -> cfg.ConfigOpts:
    files = found.config_file
    if found.state_dir is not None:
        files = [str(Path(found.state_dir).absolute() / CONFIG_NAME), *(files or [])]
    conf = config.load(["--debug"] if found.debug else [], files=files)
    if not found.debug:
        conf.set_override("default_log_levels", ["manila_backup=WARN", "alembic=WARN"])
    config.set_up_logging(conf)
    return conf


def main(arguments: Sequence[str] | None = None) -> int:
    found = parser().parse_args(arguments)
    try:
        result: int = found.run(_load(found), found)
    except (exception.ManilaBackupError, ValueError, OSError, cfg.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except db_exc.DBError as error:
        print(f"error: the database does not answer as it should: {error}", file=sys.stderr)
        return 2
    return result


if __name__ == "__main__":
    sys.exit(main())
