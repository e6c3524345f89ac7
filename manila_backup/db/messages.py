# SPDX-License-Identifier: Apache-2.0
"""User messages: why an operation ended as it did, in words for the tenant."""

from __future__ import annotations

from dataclasses import dataclass

from oslo_utils import uuidutils
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from manila_backup import exception
from manila_backup.db.clock import US_PER_S, now_us
from manila_backup.db.models import MessageRow
from manila_backup.db.rows import changed_one

KEEP_S = 30 * 24 * 3600
"""How long a message is kept; as Manila's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A row of ``messages``. ``action_id`` and ``detail_id`` are Manila's kind of short codes."""

    id: str
    project_id: str
    request_id: str | None
    resource_type: str
    resource_id: str
    action_id: str
    detail_id: str
    message_level: str
    user_message: str
    created_at_us: int
    expires_at_us: int


def _from_row(row: MessageRow) -> Message:
    return Message(**{name: getattr(row, name) for name in Message.__slots__})


def create(
    session: Session,
    *,
    project_id: str,
    request_id: str | None,
    resource_id: str,
    action_id: str,
    detail_id: str,
    user_message: str,
    message_level: str = "ERROR",
    resource_type: str = "SHARE_BACKUP",
) -> Message:
    now = session.scalar(select(now_us())) or 0
    row = MessageRow(
        id=uuidutils.generate_uuid(),
        project_id=project_id,
        request_id=request_id,
        resource_type=resource_type,
        resource_id=resource_id,
        action_id=action_id,
        detail_id=detail_id,
        message_level=message_level,
        user_message=user_message,
        created_at_us=now,
        expires_at_us=now + KEEP_S * US_PER_S,
    )
    session.add(row)
    session.flush()
    return _from_row(row)


def find(
    session: Session,
    *,
    project_id: str | None,
    resource_id: str | None = None,
    resource_type: str | None = None,
    request_id: str | None = None,
    action_id: str | None = None,
    detail_id: str | None = None,
    message_level: str | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> list[Message]:
    """Newest first; ``project_id`` None means all projects, the other filters "any"."""
    query = select(MessageRow).order_by(MessageRow.created_at_us.desc(), MessageRow.id)
    filters = {
        "project_id": project_id,
        "resource_id": resource_id,
        "resource_type": resource_type,
        "request_id": request_id,
        "action_id": action_id,
        "detail_id": detail_id,
        "message_level": message_level,
    }
    for name, value in filters.items():
        if value is not None:
            query = query.where(getattr(MessageRow, name) == value)
    query = query.limit(2**31 - 1 if limit is None else limit).offset(offset)
    return [_from_row(row) for row in session.scalars(query)]


def get(session: Session, message_id: str, *, project_id: str | None) -> Message:
    """:raises MessageNotFound: none, or another project's."""
    row = session.get(MessageRow, message_id)
    if row is None or project_id not in (None, row.project_id):
        raise exception.MessageNotFound(message_id=message_id)
    return _from_row(row)


def remove(session: Session, message_id: str, *, project_id: str | None) -> None:
    """:raises MessageNotFound: none, or another project's."""
    statement = delete(MessageRow).where(MessageRow.id == message_id)
    if project_id is not None:
        statement = statement.where(MessageRow.project_id == project_id)
    if not changed_one(session, statement):
        raise exception.MessageNotFound(message_id=message_id)


def purge(session: Session) -> None:
    """Remove what has expired."""
    session.execute(delete(MessageRow).where(MessageRow.expires_at_us < now_us()))
