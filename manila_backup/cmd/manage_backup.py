# SPDX-License-Identifier: Apache-2.0
"""``manila-backup-manage backup ...``: work on the store, with the database or without it."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from oslo_config import cfg
from oslo_db import exception as db_exc

from manila_backup import exception
from manila_backup.cmd.output import counted, show
from manila_backup.data.backup_share import BackupShare
from manila_backup.data.drivers.base import Progress, RestoreResult
from manila_backup.data.mountinfo import mount_id
from manila_backup.data.mounts import MountManager, temporary_prefix
from manila_backup.data.node import TOPIC, NodeSettings
from manila_backup.data.store import call_store
from manila_backup.data.worker_process import Hooks
from manila_backup.db import backups, intents
from manila_backup.db.engine import Database
from manila_backup.db.intents import IntentKind
from manila_backup.quota import ledger
from manila_backup.service import build_database, build_provider
from manila_backup.types import BackupRef, MountedTree, RestoreMode, StoredBackup

INCOMPLETE = 3
"""Status: done, but not exact; as ``manila-backup-copy`` says it."""


def _store_argument(found: argparse.ArgumentParser) -> None:
    found.add_argument(
        "--store",
        metavar="DIR",
        help="the backup share where it is mounted already; by default it is mounted as configured",
    )


def import_arguments(found: argparse.ArgumentParser) -> None:
    _store_argument(found)
    found.add_argument("--project", help="only backups of this project")
    found.add_argument("--dry-run", action="store_true", help="only say what would be imported")
    found.add_argument("backup", nargs="*", help="ids; by default all")


def verify_arguments(found: argparse.ArgumentParser) -> None:
    _store_argument(found)
    found.add_argument("backup", nargs="*", help="ids; by default all published ones")


def extract_arguments(found: argparse.ArgumentParser) -> None:
    _store_argument(found)
    found.add_argument("backup", help="id")
    found.add_argument("directory", help="an empty directory, or one to be made")


def orphans_arguments(found: argparse.ArgumentParser) -> None:
    _store_argument(found)


class _Store:
    """The backup share as the command line names it."""

    def __init__(self, conf: cfg.ConfigOpts, directory: str | None) -> None:
        if directory is not None:
            conf.set_override("backup_mount_proto", "path")
            conf.set_override("backup_mount_export", str(Path(directory).absolute()))
            conf.set_override("backup_share_id", None)
        self.settings = NodeSettings.from_conf(conf)
        self._backup_share = BackupShare(
            self.settings.backup_mount,
            provider=build_provider(conf) if conf.backup_share_id else None,
            address=self.settings.address,
            mounts=MountManager(conf.mount_directory, prefix=temporary_prefix()),
        )

    def call(self, method: str, *arguments: Any, hooks: Hooks | None = None) -> Any:
        return call_store(self._backup_share, self.settings, method, *arguments, hooks=hooks)

    def published(self) -> list[StoredBackup]:
        found: list[StoredBackup] = self.call("scan")
        return sorted(found, key=lambda stored: stored.description.created_at)


def _chosen(store: _Store, ids: list[str]) -> tuple[list[StoredBackup], list[str]]:
    """The published backups that were asked for, and the ids that are not among them."""
    published = store.published()
    if not ids:
        return published, []
    known = {stored.description.ref.backup_id: stored for stored in published}
    return [known[i] for i in ids if i in known], [i for i in ids if i not in known]


def import_backups(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    """Each backup in a transaction of its own; what has a row (deleted or not) is passed over."""
    store = _Store(conf, found.store)
    database = build_database(conf)
    chosen, missing = _chosen(store, found.backup)
    rows = []
    for stored in chosen:
        what = stored.description
        if found.project not in (None, what.ref.project_id):
            continue
        result = _import_one(database, store, stored, dry_run=found.dry_run)
        rows.append(
            {
                "Backup": what.ref.backup_id,
                "Project": what.ref.project_id,
                "Share": what.share_id,
                "Name": what.name,
                "GiB": what.size_gib,
                "Created At": what.created_at,
                "Result": result,
            }
        )
    show(rows, found.format, nothing="no published backup was found in the store")
    return _complain(missing)


def _import_one(database: Database, store: _Store, stored: StoredBackup, *, dry_run: bool) -> str:
    ref = stored.description.ref
    with database.reader() as session:
        if backups.exists(session, ref.backup_id):
            return "has a row already"
    if dry_run:
        return "would be imported"
    try:
        with database.writer() as session:
            backup = backups.adopt(session, stored, topic=TOPIC, host=store.settings.host)
            ledger.charge_unlimited(session, backup.project_id, backup.charged_gib)
    except db_exc.DBDuplicateEntry:
        return "has a row already"
    return "imported"


def _complain(missing: list[str]) -> int:
    for backup_id in missing:
        print(f"error: the store has no published backup {backup_id}", file=sys.stderr)
    return 1 if missing else 0


def verify_backups(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    store = _Store(conf, found.store)
    chosen, missing = _chosen(store, found.backup)
    rows = []
    damaged = False
    for stored in chosen:
        ref = stored.description.ref
        result = store.call("verify", ref, hooks=_progress_hooks(ref.backup_id))
        damaged = damaged or bool(result.problems)
        rows.append(
            {
                "Backup": ref.backup_id,
                "Project": ref.project_id,
                "Files": result.counters.files,
                "Bytes": result.counters.bytes,
                "Result": "damaged" if result.problems else "as stored",
            }
        )
        for problem in result.problems:
            print(f"{ref.backup_id}: {problem}", file=sys.stderr)
    show(rows, found.format, nothing="no published backup was found in the store")
    return max(_complain(missing), int(damaged))


def _progress_hooks(what: str) -> Hooks | None:
    """A line that counts, where somebody is looking."""
    if not sys.stderr.isatty():
        return None

    def line(progress: Progress) -> None:
        percent = progress.done * 100 // progress.total if progress.total else 0
        print(f"\r{what}: {percent} %", end="", file=sys.stderr, flush=True)

    return Hooks(progress=line)


def extract_backup(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    store = _Store(conf, found.store)
    chosen, missing = _chosen(store, [found.backup])
    if missing:
        return _complain(missing)
    target = _empty_directory(found.directory)
    ref: BackupRef = chosen[0].description.ref
    result: RestoreResult = store.call(
        "restore", ref, target, RestoreMode.EXACT, hooks=_progress_hooks(ref.backup_id)
    )
    counts = counted(result.counters)
    show([{"Backup": ref.backup_id, "Directory": target.path, **counts}], found.format)
    for kind, names in asdict(result.remarks).items():
        for name in names:
            print(f"{kind}: {name}", file=sys.stderr)
    is_exact = not any(counts[kind] for kind in ("Skipped", "Changed", "Losses", "Warnings"))
    return 0 if is_exact else INCOMPLETE


def _empty_directory(name: str) -> MountedTree:
    path = Path(name).absolute()
    try:
        path.mkdir(exist_ok=True)
        if any(path.iterdir()):
            raise exception.InvalidInput(field="directory", reason=f"{name} is not empty")
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise exception.InvalidInput(
            field="directory", reason=f"{name}: {error.strerror}"
        ) from error
    try:
        return MountedTree(path=str(path), mount_id=mount_id(fd), read_only=False)
    finally:
        os.close(fd)


def list_orphans(conf: cfg.ConfigOpts, found: argparse.Namespace) -> int:
    """What belongs to an operation that still runs is left out, if the database can tell."""
    store = _Store(conf, found.store)
    in_work = _directories_in_work(conf)
    rows = [
        {"Path": path, "Why": why}
        for path, why in store.call("orphans")
        if path.rstrip("/") not in in_work
    ]
    show(rows, found.format, nothing="no orphans")
    return 0


def _directories_in_work(conf: cfg.ConfigOpts) -> set[str]:
    try:
        with build_database(conf).reader() as session:
            outstanding = intents.every(session)
    except (db_exc.DBError, ValueError) as error:
        print(f"the database is not asked: {error}", file=sys.stderr)
        return set()
    return {
        f"{intent.detail['project_id']}/{intent.detail['backup_id']}/{intent.epoch}"
        for intent in outstanding
        if intent.kind is IntentKind.DATA_DIRECTORY
    }
