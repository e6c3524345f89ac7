# SPDX-License-Identifier: Apache-2.0
"""``manila-backup-manage service|operation|grants ...``: the data nodes and what they work on."""

from __future__ import annotations

import argparse
import time
from typing import Any

from oslo_config import cfg

from manila_backup import exception
from manila_backup.cmd.output import counted, show
from manila_backup.data import endings
from manila_backup.data.node import BINARY
from manila_backup.db import backups, intents, operations, services
from manila_backup.db.clock import US_PER_S, iso
from manila_backup.db.engine import Database
from manila_backup.db.intents import IntentKind
from manila_backup.db.operations import Operation
from manila_backup.db.services import Service
from manila_backup.service import build_database
from manila_backup.states import OperationStatus

DOWN_AFTER_S = 60
"""A service that has not reported for this long is shown as down."""

_LOOK_S = 1.0
_CANCEL_ATTEMPTS = 5

# --- services -------------------------------------------------------------------------------------


def _is_up(service: Service) -> bool:
    return service.silent_us < DOWN_AFTER_S * US_PER_S


def list_services(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    with build_database(conf).reader() as session:
        rows = [
            {
                "Binary": service.binary,
                "Host": service.host,
                "Zone": service.availability_zone,
                "Address": service.address,
                "Status": "disabled" if service.disabled else "enabled",
                "State": "up" if _is_up(service) else "down",
                "Reported At": iso(service.reported_at_us),
                "Disabled Reason": service.disabled_reason,
            }
            for service in services.find(session)
        ]
    show(rows, found.format)
    return 0


def service_arguments(found: argparse.ArgumentParser) -> None:
    found.add_argument("host", help="the node's name, as in `service list`")


def disable_arguments(found: argparse.ArgumentParser) -> None:
    service_arguments(found)
    found.add_argument("--reason", default="disabled by an operator", help="shown in the list")


def drain_arguments(found: argparse.ArgumentParser) -> None:
    service_arguments(found)
    found.add_argument("--reason", default="drained by an operator", help="shown in the list")
    found.add_argument(
        "--timeout", type=float, default=3600.0, metavar="S", help="seconds to wait (3600)"
    )


def enable_service(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    _set_disabled(build_database(conf), found.host, None)
    return list_services(conf, found)


def disable_service(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    """It takes no more work; what it works on it goes on with."""
    _set_disabled(build_database(conf), found.host, found.reason)
    return list_services(conf, found)


def drain_service(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    """Disable it and wait until it has ended what it works on; 1 if that takes too long."""
    database = build_database(conf)
    _set_disabled(database, found.host, found.reason)
    until_s = time.monotonic() + found.timeout
    while left := _running_on(database, found.host):
        if time.monotonic() >= until_s:
            show([_operation_row(operation) for operation in left], found.format)
            return 1
        time.sleep(_LOOK_S)
    show([], found.format, nothing=f"{found.host} works on nothing and takes no more work")
    return 0


def _set_disabled(database: Database, host: str, reason: str | None) -> None:
    known = database.write(
        lambda session: services.set_disabled(session, host, BINARY, reason=reason)
    )
    if not known:
        raise exception.InvalidInput(field="host", reason=f"no data node is called {host}")


def _running_on(database: Database, host: str) -> list[Operation]:
    with database.reader() as session:
        return operations.find(session, statuses=[OperationStatus.RUNNING], host=host)


# --- operations -----------------------------------------------------------------------------------


def list_arguments(found: argparse.ArgumentParser) -> None:
    found.add_argument(
        "--status",
        action="append",
        choices=[str(status) for status in OperationStatus],
        help="may be given more than once; by default queued and running",
    )
    found.add_argument("--host", help="only those that this node holds, or held last")
    found.add_argument("--project", help="only those of this project")
    found.add_argument("--limit", type=int, default=100, help="the newest so many (100)")


def operation_arguments(found: argparse.ArgumentParser) -> None:
    found.add_argument("operation", help="id, as in `operation list`")


def list_operations(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    wanted = found.status or [OperationStatus.QUEUED, OperationStatus.RUNNING]
    with build_database(conf).reader() as session:
        listed = operations.find(
            session,
            statuses=[OperationStatus(status) for status in wanted],
            host=found.host,
            project_id=found.project,
            limit=found.limit,
        )
    show([_operation_row(operation) for operation in listed], found.format)
    return 0


def _operation_row(operation: Operation) -> dict[str, Any]:
    return {
        "ID": operation.id,
        "Kind": operation.kind,
        "Status": operation.status,
        "Phase": operation.phase,
        "Progress": operation.progress,
        "Backup": operation.backup_id,
        "Project": operation.project_id,
        "Host": operation.host,
        "Attempts": operation.attempts,
        "Created At": iso(operation.created_at_us),
    }


def show_operation(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    with build_database(conf).reader() as session:
        operation = operations.get(session, found.operation)
        left = intents.of_operation(session, found.operation)
    rows = {
        **_operation_row(operation),
        "Share": operation.share_id,
        "Request": operation.request_id,
        "Epoch": operation.epoch,
        "Lease Until": iso(operation.lease_until_us),
        "Not Before": iso(operation.not_before_us),
        "Cancel Requested": operation.cancel_requested,
        "Worker": operation.worker_pid,
        **counted(operation.counters),
        "Fail Reason": operation.fail_reason,
        "Started At": iso(operation.started_at_us),
        "Finished At": iso(operation.finished_at_us),
        "Left To Undo": ", ".join(f"{intent.kind} on {intent.host}" for intent in left) or None,
    }
    if found.format == "json":
        show([rows], found.format)
    else:
        show([{"Field": name, "Value": value} for name, value in rows.items()], found.format)
    return 0


def cancel_operation(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    """A queued one is over at once; the node that runs one hears of it within its heartbeat."""
    database = build_database(conf)
    for attempt in range(_CANCEL_ATTEMPTS):
        try:
            over = database.write(lambda session: endings.cancel_queued(session, found.operation))
            break
        except exception.StaleRow:  # a node has claimed it right now
            if attempt == _CANCEL_ATTEMPTS - 1:
                raise
    if not over:
        asked = database.write(lambda session: operations.request_cancel(session, found.operation))
        if not asked:
            raise exception.InvalidInput(field="operation", reason="it has ended already")
    return show_operation(conf, found)


# --- what is to be undone -------------------------------------------------------------------------


def grants_arguments(found: argparse.ArgumentParser) -> None:
    found.add_argument("--all", action="store_true", help="also those of operations under way")


def list_grants(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    """Access that data nodes have, or may have, to shares."""
    with build_database(conf).reader() as session:
        over = {intent.id for intent in intents.outlived(session)}
        rows = [
            {
                "Share": intent.detail.get("share_id"),
                "Address": intent.detail.get("address"),
                "Level": intent.detail.get("level"),
                "Tenant's Rule": intent.detail.get("ours") == "no",
                "Host": intent.host,
                "Operation": intent.operation_id,
                "Outlived": intent.id in over,
                "Attempts": intent.attempts,
                "Last Error": intent.last_error,
                "Since": iso(intent.created_at_us),
            }
            for intent in intents.every(session)
            if intent.kind is IntentKind.GRANT and (found.all or intent.id in over)
        ]
    show(rows, found.format, nothing="no access outlived its operation")
    return 0


# --- a node gets another name ---------------------------------------------------------------------


def update_host_arguments(found: argparse.ArgumentParser) -> None:
    found.add_argument("--from", dest="old", required=True, metavar="HOST", help="its former name")
    found.add_argument("--to", dest="new", required=True, metavar="HOST", help="its name now")


def update_host(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    """Backups, unfinished operations and what is left to undo go over to the new name, while no
    node of the old name is up.
    """
    database = build_database(conf)
    with database.reader() as session:
        known = services.find(session)
    if any(s.host == found.old and s.binary == BINARY and _is_up(s) for s in known):
        raise exception.InvalidInput(field="--from", reason=f"{found.old} is up; stop it first")
    moved = database.write(
        lambda session: {
            "Backups": backups.move_host(session, found.old, found.new),
            "Operations": operations.move_host(session, found.old, found.new),
            "Left To Undo": intents.move_host(session, found.old, found.new),
        }
    )
    show([moved], found.format)
    return 0
