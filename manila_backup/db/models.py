# SPDX-License-Identifier: Apache-2.0
"""The tables. Times are microseconds since 1970 UTC (``_us``), sizes carry their unit.

Rows stay inside ``db/`` and ``quota/``; what leaves are the frozen values of the noun modules.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Common to all tables: InnoDB, full Unicode and byte-exact comparison on MySQL."""

    __table_args__: object = {
        "mysql_engine": "InnoDB",
        "mysql_charset": "utf8mb4",
        "mysql_collate": "utf8mb4_bin",
    }


def _args(*constraints: Index | UniqueConstraint) -> tuple[object, ...]:
    return (*constraints, Base.__table_args__)


class BackupRow(Base):
    """One backup. Undeleted rows (``status`` not ``deleted``) are charged ``charged_gib``."""

    __tablename__ = "backups"
    __table_args__ = _args(
        Index("backups_project_created_idx", "project_id", "deleted_at_us", "created_at_us", "id"),
        Index("backups_project_name_idx", "project_id", "deleted_at_us", "name", "id"),
        Index("backups_project_size_idx", "project_id", "deleted_at_us", "size_gib", "id"),
        Index("backups_created_idx", "deleted_at_us", "created_at_us", "id"),
        Index("backups_share_idx", "share_id"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(255))
    user_id: Mapped[str | None] = mapped_column(String(255))
    share_id: Mapped[str] = mapped_column(String(36))
    share_name: Mapped[str | None] = mapped_column(String(255))
    share_proto: Mapped[str] = mapped_column(String(32))
    status: Mapped[str] = mapped_column(String(32))
    name: Mapped[str | None] = mapped_column(String(255))
    description: Mapped[str | None] = mapped_column(Text)
    size_gib: Mapped[int] = mapped_column(Integer)
    charged_gib: Mapped[int] = mapped_column(Integer)
    stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    availability_zone: Mapped[str | None] = mapped_column(String(255))
    host: Mapped[str | None] = mapped_column(String(255))
    topic: Mapped[str | None] = mapped_column(String(255))
    backup_type: Mapped[str | None] = mapped_column(String(255))
    driver: Mapped[str] = mapped_column(String(64))
    options: Mapped[str] = mapped_column(Text)
    """JSON object of strings."""
    progress: Mapped[int] = mapped_column(Integer)
    restore_progress: Mapped[int] = mapped_column(Integer)
    published_epoch: Mapped[int | None] = mapped_column(Integer)
    fail_reason: Mapped[str | None] = mapped_column(Text)
    created_at_us: Mapped[int] = mapped_column(BigInteger)
    updated_at_us: Mapped[int | None] = mapped_column(BigInteger)
    deleted_at_us: Mapped[int | None] = mapped_column(BigInteger)


class OperationRow(Base):
    """One create, restore or delete.

    ``active_backup_id`` repeats ``backup_id`` while the operation is queued or running and is NULL
    afterwards; its uniqueness is what allows one operation per backup at a time.
    """

    __tablename__ = "operations"
    __table_args__ = _args(
        UniqueConstraint("active_backup_id", name="operations_active_backup_uq"),
        Index("operations_status_idx", "status", "not_before_us", "created_at_us"),
        Index("operations_backup_idx", "backup_id", "created_at_us"),
        Index("operations_project_idx", "project_id", "started_at_us"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    phase: Mapped[str | None] = mapped_column(String(16))
    backup_id: Mapped[str] = mapped_column(String(36))
    active_backup_id: Mapped[str | None] = mapped_column(String(36))
    share_id: Mapped[str] = mapped_column(String(36))
    project_id: Mapped[str] = mapped_column(String(255))
    user_id: Mapped[str | None] = mapped_column(String(255))
    request_id: Mapped[str | None] = mapped_column(String(255))
    mode: Mapped[str | None] = mapped_column(String(16))
    host: Mapped[str | None] = mapped_column(String(255))
    epoch: Mapped[int] = mapped_column(Integer)
    lease_until_us: Mapped[int | None] = mapped_column(BigInteger)
    not_before_us: Mapped[int] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(Integer)
    cancel_requested: Mapped[bool] = mapped_column(Boolean)
    then_delete: Mapped[bool] = mapped_column(Boolean)
    """When the operation ends, its backup is to be deleted (an administrator's delete)."""
    share_written: Mapped[bool] = mapped_column(Boolean)
    """A restore has begun to change the share; set before the first change."""
    share_was_in_error: Mapped[bool] = mapped_column(Boolean)
    """The share was in backup_restoring_error when this restore was accepted."""
    worker_pid: Mapped[int | None] = mapped_column(Integer)
    worker_started: Mapped[str | None] = mapped_column(String(64))
    """Boot id and start time of the worker, so that a reused pid is not taken for it."""
    progress: Mapped[int] = mapped_column(Integer)
    progress_source: Mapped[str | None] = mapped_column(String(32))
    counters: Mapped[str] = mapped_column(Text)
    """JSON of ``types.Counters``."""
    fail_reason: Mapped[str | None] = mapped_column(Text)
    created_at_us: Mapped[int] = mapped_column(BigInteger)
    started_at_us: Mapped[int | None] = mapped_column(BigInteger)
    updated_at_us: Mapped[int | None] = mapped_column(BigInteger)
    finished_at_us: Mapped[int | None] = mapped_column(BigInteger)
    availability_zone: Mapped[str | None] = mapped_column(String(255))
    """Of the share, as the backup has it."""


class IntentRow(Base):
    """Something that outlives a process, written down before it is made, removed when undone."""

    __tablename__ = "intents"
    __table_args__ = _args(Index("intents_operation_idx", "operation_id"))

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    operation_id: Mapped[str] = mapped_column(String(36))
    epoch: Mapped[int] = mapped_column(Integer)
    host: Mapped[str] = mapped_column(String(255))
    kind: Mapped[str] = mapped_column(String(16))
    detail: Mapped[str] = mapped_column(Text)
    """JSON object of strings; its keys depend on ``kind``."""
    attempts: Mapped[int] = mapped_column(Integer)
    last_error: Mapped[str | None] = mapped_column(Text)
    created_at_us: Mapped[int] = mapped_column(BigInteger)


class BusyShareRow(Base):
    """The true lock of a share: a row while one of ours holds it, or after a failed restore."""

    __tablename__ = "busy_shares"

    share_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    status: Mapped[str] = mapped_column(String(32))
    operation_id: Mapped[str] = mapped_column(String(36))
    project_id: Mapped[str] = mapped_column(String(255))
    created_at_us: Mapped[int] = mapped_column(BigInteger)
    updated_at_us: Mapped[int] = mapped_column(BigInteger)


class ServiceRow(Base):
    """One running (or once running) process of the service."""

    __tablename__ = "services"
    __table_args__ = _args(UniqueConstraint("host", "binary", name="services_host_binary_uq"))

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    host: Mapped[str] = mapped_column(String(191))
    binary: Mapped[str] = mapped_column(String(64))
    topic: Mapped[str] = mapped_column(String(255))
    availability_zone: Mapped[str] = mapped_column(String(255))
    address: Mapped[str | None] = mapped_column(String(255))
    disabled: Mapped[bool] = mapped_column(Boolean)
    disabled_reason: Mapped[str | None] = mapped_column(String(255))
    started_at_us: Mapped[int] = mapped_column(BigInteger)
    reported_at_us: Mapped[int] = mapped_column(BigInteger)


class QuotaRow(Base):
    """A project's own limit; without a row the configured default holds. -1 is unlimited."""

    __tablename__ = "quotas"

    project_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    resource: Mapped[str] = mapped_column(String(32), primary_key=True)
    hard_limit: Mapped[int] = mapped_column(Integer)


class QuotaUsageRow(Base):
    """What a project uses; equals the sum of the charges of its undeleted backups."""

    __tablename__ = "quota_usages"

    project_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    resource: Mapped[str] = mapped_column(String(32), primary_key=True)
    in_use: Mapped[int] = mapped_column(BigInteger)


class MessageRow(Base):
    """A user message: tells a tenant why an operation ended as it did."""

    __tablename__ = "messages"
    __table_args__ = _args(Index("messages_project_idx", "project_id", "created_at_us"))

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(255))
    request_id: Mapped[str | None] = mapped_column(String(255))
    resource_type: Mapped[str] = mapped_column(String(64))
    resource_id: Mapped[str] = mapped_column(String(36))
    action_id: Mapped[str] = mapped_column(String(16))
    detail_id: Mapped[str] = mapped_column(String(16))
    message_level: Mapped[str] = mapped_column(String(16))
    user_message: Mapped[str] = mapped_column(Text)
    created_at_us: Mapped[int] = mapped_column(BigInteger)
    expires_at_us: Mapped[int] = mapped_column(BigInteger)
