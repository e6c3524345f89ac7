# SPDX-License-Identifier: Apache-2.0
"""Services: which processes report in, where, and whether they may take work."""

from __future__ import annotations

from dataclasses import dataclass

from oslo_utils import uuidutils
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from manila_backup.db.clock import now_us
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
