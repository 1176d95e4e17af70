"""Changes that wait for a second person, in the database. Times are microseconds since 1970."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from ownkey_server.domain.audit import from_microseconds, microseconds
from ownkey_server.storage.records import ApprovalRecord
from ownkey_server.storage.schema import APPROVALS, REVISION

# More lets one caller, or one tenant's, keep others from what they wait for, and fill the database.
MAX_OF_PRINCIPAL = 20
MAX_OF_TENANT = 100


def in_turn(connection: Connection) -> None:
    """Wait until nobody else changes what waits: it is looked at first, and added to then."""
    connection.execute(sa.select(REVISION.c.number).with_for_update())


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
            author=record.author,
            reason=record.reason,
            change=record.change,
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


def waiting(
    connection: Connection, now: int, tenants: Collection[str] | None, after: tuple[int, str], limit: int
) -> list[ApprovalRecord]:
    """Those that have not expired, the oldest first.

    Args:
        connection: Where to look.
        now: The present time.
        tenants: Only these tenants'; None means all, and the service's own.
        after: Only those after the one of that time and id.
        limit: At most so many.
    """
    table = APPROVALS
    wanted = sa.and_(table.c.expire_time > now, sa.tuple_(table.c.create_time, table.c.id) > sa.tuple_(*after))
    if tenants is not None:
        wanted = sa.and_(wanted, table.c.tenant.in_(tenants))
    query = sa.select(table).where(wanted).order_by(table.c.create_time, table.c.id).limit(limit)
    return [_record(row) for row in connection.execute(query)]


def full(connection: Connection, requested_by: str, tenant: str, now: int) -> str:
    """Why nothing more can wait for this requester and this tenant; empty when it can."""

    def count(wanted: sa.ColumnElement[bool]) -> int:
        query = sa.select(sa.func.count()).select_from(APPROVALS).where(wanted, APPROVALS.c.expire_time > now)
        return int(connection.execute(query).scalar_one())

    if count(APPROVALS.c.requested_by == requested_by) >= MAX_OF_PRINCIPAL:
        return f"{MAX_OF_PRINCIPAL} changes of yours wait already"
    if count(APPROVALS.c.tenant == tenant) >= MAX_OF_TENANT:
        return f"{MAX_OF_TENANT} changes of {tenant or 'the service'} wait already"
    return ""


def approve(connection: Connection, approval: str, by: str) -> None:
    """Somebody agrees."""
    connection.execute(sa.update(APPROVALS).where(APPROVALS.c.id == approval).values(approved_by=by))


def remove(connection: Connection, approval: str) -> None:
    """It is used, or has fallen."""
    connection.execute(sa.delete(APPROVALS).where(APPROVALS.c.id == approval))


def name(approval: str) -> str:
    """An approval's name as a resource."""
    return f"approvals/{approval}"


def has_expired(connection: Connection, approval: str) -> bool:
    """Whether there is still one of that id, which can only have expired where :func:`find` finds none."""
    return _first(connection, APPROVALS.c.id == approval) is not None


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
        row.author,
        row.reason,
        row.change,
        row.digest,
        row.approved_by,
        from_microseconds(row.create_time),
        from_microseconds(row.expire_time),
    )
