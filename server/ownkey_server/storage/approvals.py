"""Changes that wait for a second person, in the database. Times are microseconds since 1970."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from ownkey_server.domain.audit import from_microseconds, microseconds
from ownkey_server.storage.records import ApprovalRecord
from ownkey_server.storage.schema import APPROVALS

MAX_WAITING = 1000


def insert(connection: Connection, record: ApprovalRecord) -> None:
    """Let a change wait. What has expired goes."""
    now = microseconds(record.create_time)
    connection.execute(sa.delete(APPROVALS).where(APPROVALS.c.expire_time <= now))
    connection.execute(
        sa.insert(APPROVALS).values(
            id=record.id,
            requested_by=record.requested_by,
            method=record.method,
            tenant=record.tenant,
            resource=record.resource,
            summary=record.summary,
            reason=record.reason,
            digest=record.digest,
            approved_by=record.approved_by,
            create_time=now,
            expire_time=microseconds(record.expire_time),
        )
    )


def same(connection: Connection, requested_by: str, digest: bytes, now: int) -> ApprovalRecord | None:
    """What waits already for the very same request of the same principal."""
    wanted = sa.and_(APPROVALS.c.requested_by == requested_by, APPROVALS.c.digest == digest)
    return _first(connection, sa.and_(wanted, APPROVALS.c.expire_time > now))


def find(connection: Connection, approval: str, now: int) -> ApprovalRecord | None:
    """An approval that has not expired, if there is one of that id."""
    return _first(connection, sa.and_(APPROVALS.c.id == approval, APPROVALS.c.expire_time > now))


def waiting(connection: Connection, now: int) -> list[ApprovalRecord]:
    """All that have not expired, the oldest first."""
    query = sa.select(APPROVALS).where(APPROVALS.c.expire_time > now)
    return [_record(row) for row in connection.execute(query.order_by(APPROVALS.c.create_time).limit(MAX_WAITING))]


def approve(connection: Connection, approval: str, by: str) -> None:
    """Somebody agrees."""
    connection.execute(sa.update(APPROVALS).where(APPROVALS.c.id == approval).values(approved_by=by))


def remove(connection: Connection, approval: str) -> None:
    """It is used, or has fallen."""
    connection.execute(sa.delete(APPROVALS).where(APPROVALS.c.id == approval))


def name(approval: str) -> str:
    """An approval's name as a resource."""
    return f"approvals/{approval}"


def _first(connection: Connection, wanted: sa.ColumnElement[bool]) -> ApprovalRecord | None:
    row = connection.execute(sa.select(APPROVALS).where(wanted).limit(1)).one_or_none()
    return _record(row) if row else None


def _record(row: Row[tuple[object, ...]]) -> ApprovalRecord:
    return ApprovalRecord(
        row.id,
        row.requested_by,
        row.method,
        row.tenant,
        row.resource,
        row.summary,
        row.reason,
        row.digest,
        row.approved_by,
        from_microseconds(row.create_time),
        from_microseconds(row.expire_time),
    )
