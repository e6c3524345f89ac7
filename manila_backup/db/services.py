# SPDX-License-Identifier: Apache-2.0
"""Services: which processes report in, where, and whether they may take work."""

from __future__ import annotations

from dataclasses import dataclass

from oslo_utils import uuidutils
from sqlalchemy import and_, or_, select, update
from sqlalchemy.orm import Session, aliased

from manila_backup.db.clock import US_PER_S, now_us
from manila_backup.db.models import ServiceRow
from manila_backup.db.rows import changed_one


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A row of ``services``, with its age by the database's clock."""

    id: str
    host: str
    binary: str
    topic: str
    availability_zone: str
    address: str | None
    disabled: bool
    disabled_reason: str | None
    started_at_us: int
    reported_at_us: int
    silent_us: int
    """Time since the last report."""


def report(
    session: Session,
    *,
    host: str,
    binary: str,
    topic: str,
    availability_zone: str,
    address: str | None,
    starting: bool,
) -> None:
    """Say that the process is alive; makes its row at the first time."""
    values = {
        "topic": topic,
        "availability_zone": availability_zone,
        "address": address,
        "reported_at_us": now_us(),
    }
    if starting:
        values["started_at_us"] = now_us()
    statement = (
        update(ServiceRow)
        .where(ServiceRow.host == host, ServiceRow.binary == binary)
        .values(**values)
    )
    if changed_one(session, statement):
        return
    now = session.scalar(select(now_us()))
    session.add(
        ServiceRow(
            id=uuidutils.generate_uuid(),
            host=host,
            binary=binary,
            disabled=False,
            **(values | {"reported_at_us": now, "started_at_us": now}),
        )
    )
    session.flush()


def find(session: Session) -> list[Service]:
    """All services, by binary and host."""
    query = select(ServiceRow, now_us()).order_by(ServiceRow.binary, ServiceRow.host)
    own = [name for name in Service.__slots__ if name != "silent_us"]
    return [
        Service(
            **{name: getattr(row, name) for name in own},
            silent_us=max(0, now - row.reported_at_us),
        )
        for row, now in session.execute(query)
    ]


def set_disabled(session: Session, host: str, binary: str, *, reason: str | None) -> bool:
    """Let a service take no more work, for ``reason``; None lets it again. What it has in work it
    goes on with. Idempotent. :returns: False when there is no such service.
    """
    statement = (
        update(ServiceRow)
        .where(ServiceRow.host == host, ServiceRow.binary == binary)
        .values(disabled=reason is not None, disabled_reason=reason)
    )
    return changed_one(session, statement)


def is_disabled(session: Session, host: str, binary: str) -> bool:
    """Whether it may take no more work. One that never reported in may."""
    query = select(ServiceRow.disabled).where(ServiceRow.host == host, ServiceRow.binary == binary)
    return bool(session.scalar(query))


def rival_of(session: Session, host: str, binary: str, *, silent_s: float) -> str | None:
    """Another host's service of the same address that has not been silent for so long, and was
    there before; None if there is none. Two nodes of one address could not be told apart by the
    access rules of shares.
    """
    mine, other = aliased(ServiceRow), aliased(ServiceRow)
    query = (
        select(other.host)
        .join(mine, mine.address == other.address)
        .where(
            mine.host == host,
            mine.binary == binary,
            other.host != host,
            other.binary == binary,
            other.reported_at_us > now_us() - int(silent_s * US_PER_S),
            or_(
                other.started_at_us < mine.started_at_us,
                and_(other.started_at_us == mine.started_at_us, other.host < mine.host),
            ),
        )
        .limit(1)
    )
    found: str | None = session.scalar(query)
    return found
