"""The outbox: what tenants are to be told, written in the transaction of what it tells, and how far each telling is.

A notice that is in the database was caused by something that is in the database, and the other way round. From then on
it is delivered at least once by every channel that its tenant had at that moment.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from ownkey_server.domain.audit import from_microseconds, microseconds
from ownkey_server.domain.notifications import (
    MAX_CAUSE,
    MAX_DATA_BYTES,
    Delivery,
    DeliveryState,
    Notice,
    NoticeKind,
)
from ownkey_server.storage.registry import CHANNEL
from ownkey_server.storage.schema import (
    NOTICE_DELIVERIES,
    NOTICE_NUMBER,
    NOTICE_POSITIONS,
    NOTICES,
    NOTIFICATION_CHANNELS,
)

PRUNED = 1000
"""Notices that one transaction removes."""
MAX_WAITING = 10_000
"""Deliveries that wait for one channel; what comes beyond is dead at once: all that waits is looked at together."""
MANY = "as many notices as may wait for this channel already do: replay this one when they are delivered"
_DATA: Mapping[str, Any] = {}


def new_notice(
    tenant: str,
    kind: NoticeKind,
    now: datetime,
    *,
    key: str = "",
    replica: str = "",
    cause: str = "",
    data: Mapping[str, Any] = _DATA,
    once: str = "",
) -> Notice:
    """A notice with an id of its own; its arguments are :class:`Notice`'s."""
    # From key stores and callers: no database is to choke on a character, nor a terminal to obey one.
    cause = "".join(one if one.isprintable() else " " for one in cause)
    cause = cause if len(cause) <= MAX_CAUSE else cause[: MAX_CAUSE - 1] + "…"
    return Notice(secrets.token_hex(16), tenant, kind, now, key, replica, cause, data, once=once)


def put(connection: Connection, notice: Notice, *, deliver: bool = True) -> Notice | None:
    """Tell a tenant of something, when and only when the transaction around it commits.

    It takes one row for itself, so that positions are given in the order of commits. It must be the last such row that
    a transaction takes: after that of revisions, and after that of the states of keys.

    Args:
        connection: In the transaction that makes what is told.
        notice: What to tell.
        deliver: Whether it goes to the channels of its tenant; whoever says no sees to that otherwise.

    Returns:
        The notice with its position; None when the same was told already and it is for once.
    """
    data = json.dumps(dict(notice.data), sort_keys=True, ensure_ascii=False)
    if len(data.encode()) > MAX_DATA_BYTES:
        data = json.dumps({"omitted": "it is longer than a notice may be: look it up"})
    _tell(connection)
    if notice.once and _is_known(connection, notice):
        return None
    placed = replace(notice, position=_position(connection, notice.tenant, notice.key), data=json.loads(data))
    at = microseconds(placed.time)
    connection.execute(
        sa.insert(NOTICES).values(
            id=placed.id,
            tenant=placed.tenant,
            kind=placed.kind.value,
            time=at,
            key=placed.key,
            replica=placed.replica,
            cause=placed.cause,
            data=data,
            position=placed.position,
            once=placed.once or None,
        )
    )
    channels = _takers(connection, placed) if deliver else []
    if channels:
        fields = {
            "notice": placed.id,
            "key": placed.key,
            "position": placed.position,
            "attempts": 0,
            "first_time": at,
            "next_time": at,
        }
        pending = {"state": DeliveryState.PENDING.value, "end_time": None, "last_error": ""}
        dead = {"state": DeliveryState.DEAD.value, "end_time": at, "last_error": MANY}
        connection.execute(
            sa.insert(NOTICE_DELIVERIES),
            [
                {"channel": channel, **fields, **(pending if _has_room(connection, channel) else dead)}
                for channel in channels
            ],
        )
    return placed


def last_of(connection: Connection, tenant: str, kinds: frozenset[NoticeKind]) -> NoticeKind | None:
    """Which of these kinds a tenant was told last."""
    query = sa.select(NOTICES.c.kind).where(
        NOTICES.c.tenant == tenant, NOTICES.c.kind.in_(sorted(one.value for one in kinds))
    )
    found = connection.execute(query.order_by(NOTICES.c.time.desc(), NOTICES.c.position.desc()).limit(1)).scalar()
    return None if found is None else NoticeKind(found)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A channel with something to deliver.

    Attributes:
        due: When the first of it is to be tried (UTC).
        failing: Whether any of it has failed before.
        lease_owner: Who delivers by it, if anybody does.
        lease_until: Until when nobody else does (UTC).
    """

    channel: str
    tenant: str
    due: datetime
    failing: bool
    lease_owner: str
    lease_until: datetime


def waiting(connection: Connection) -> list[Waiting]:
    """Every enabled channel with something to deliver, those that are due first before others."""
    heads, deliveries, channels = _heads(), NOTICE_DELIVERIES, NOTIFICATION_CHANNELS
    due = sa.func.min(deliveries.c.next_time).label("due")
    failures = sa.func.max(deliveries.c.attempts).label("failures")
    columns = (channels.c.id, channels.c.tenant, channels.c.lease_owner, channels.c.lease_until)
    query = (
        sa.select(*columns, due, failures)
        .select_from(heads)
        .join(deliveries, _is_head(heads))
        .join(channels, channels.c.id == deliveries.c.channel)
        .where(channels.c.enabled.is_(True))
        .group_by(*columns)
        .order_by(due)
    )
    return [
        Waiting(
            channel=row.id,
            tenant=row.tenant,
            due=from_microseconds(row.due),
            failing=row.failures > 0,
            lease_owner=row.lease_owner,
            lease_until=from_microseconds(row.lease_until),
        )
        for row in connection.execute(query)
    ]


@dataclass(frozen=True, slots=True)
class Errand:
    """A notice that is to be delivered now."""

    notice: Notice
    delivery: Delivery


def errands(connection: Connection, channel: str, now: datetime, limit: int) -> list[Errand]:
    """What is to be delivered by a channel now: of each key the first that waits, if it is due."""
    heads, deliveries = _heads(channel), NOTICE_DELIVERIES
    query = (
        sa.select(NOTICES, *_delivery_columns())
        .select_from(heads)
        .join(deliveries, _is_head(heads))
        .join(NOTICES, NOTICES.c.id == deliveries.c.notice)
        .where(deliveries.c.next_time <= microseconds(now))
        .order_by(deliveries.c.next_time, deliveries.c.key)
        .limit(limit)
    )
    return [Errand(_notice(row), _delivery(row)) for row in connection.execute(query)]


def claim(connection: Connection, channel: str, owner: str, now: datetime, until: datetime) -> bool:
    """Become, or stay, the one that delivers by a channel; False when somebody else is, or there is none such."""
    table = NOTIFICATION_CHANNELS
    free = sa.or_(table.c.lease_owner == owner, table.c.lease_until <= microseconds(now))
    which = sa.and_(table.c.id == channel, table.c.enabled.is_(True), free)
    taken = sa.update(table).where(which).values(lease_owner=owner, lease_until=microseconds(until))
    return connection.execute(taken).rowcount == 1


def release(connection: Connection, channel: str, owner: str) -> None:
    """Let another deliver by a channel."""
    table = NOTIFICATION_CHANNELS
    which = sa.and_(table.c.id == channel, table.c.lease_owner == owner)
    connection.execute(sa.update(table).where(which).values(lease_owner="", lease_until=0))


def settle(connection: Connection, delivery: Delivery) -> None:
    """Note how an attempt went; nothing when it does not wait any more, such as after its channel was deleted."""
    table = NOTICE_DELIVERIES
    which = sa.and_(
        table.c.channel == delivery.channel,
        table.c.notice == delivery.notice,
        table.c.state == DeliveryState.PENDING.value,
    )
    connection.execute(
        sa.update(table)
        .where(which)
        .values(
            state=delivery.state.value,
            attempts=delivery.attempts,
            next_time=microseconds(delivery.next_time),
            end_time=None if delivery.end_time is None else microseconds(delivery.end_time),
            last_error=delivery.last_error,
        )
    )


def add_settled(connection: Connection, notice: Notice, delivery: Delivery) -> None:
    """Note an attempt that was made beside the outbox, and is not repeated."""
    assert delivery.end_time is not None  # noqa: S101
    connection.execute(
        sa.insert(NOTICE_DELIVERIES).values(
            channel=delivery.channel,
            notice=notice.id,
            key=notice.key,
            position=notice.position,
            state=delivery.state.value,
            attempts=delivery.attempts,
            first_time=microseconds(delivery.first_time),
            next_time=microseconds(delivery.next_time),
            end_time=microseconds(delivery.end_time),
            last_error=delivery.last_error,
        )
    )


def replay(connection: Connection, notice: str, channel: str, now: datetime) -> int:
    """Deliver a notice again, with the same id; gives by how many channels.

    Args:
        connection: In a transaction.
        notice: Its id.
        channel: By this one alone, delivered or dead; empty means by all that gave it up.
        now: From when its age counts.
    """
    table, at = NOTICE_DELIVERIES, microseconds(now)
    states = [DeliveryState.DEAD.value, *([DeliveryState.DELIVERED.value] if channel else [])]
    which = sa.and_(table.c.notice == notice, table.c.state.in_(states))
    if channel:
        which = sa.and_(which, table.c.channel == channel)
    fresh = {"state": DeliveryState.PENDING.value, "attempts": 0, "first_time": at, "next_time": at, "end_time": None}
    count = connection.execute(sa.update(table).where(which).values(**fresh, last_error="")).rowcount
    if count:
        _tell(connection)
    return count


def look_again(connection: Connection) -> None:
    """Have every instance look for what is to be delivered."""
    _tell(connection)


@dataclass(frozen=True, slots=True)
class Told:
    """A notice, and how far it is by each channel."""

    notice: Notice
    deliveries: tuple[Delivery, ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which notices are meant; empty fields mean any."""

    state: DeliveryState | None = None
    channel: str = ""
    kind: NoticeKind | None = None


def find(connection: Connection, tenant: str, notice: str) -> Told | None:
    """A notice of a tenant, if there is one of that id."""
    row = connection.execute(sa.select(NOTICES).where(NOTICES.c.tenant == tenant, NOTICES.c.id == notice)).one_or_none()
    return _with_deliveries(connection, [row])[0] if row else None


def latest(
    connection: Connection, tenant: str, only: Filter, before: tuple[datetime, str] | None, limit: int
) -> list[Told]:
    """A tenant's notices, the newest first, from before the one of that time and id."""
    query = sa.select(NOTICES).where(NOTICES.c.tenant == tenant)
    if only.kind is not None:
        query = query.where(NOTICES.c.kind == only.kind.value)
    if only.state is not None or only.channel:
        table = NOTICE_DELIVERIES
        met = [table.c.notice == NOTICES.c.id]
        if only.state is not None:
            met.append(table.c.state == only.state.value)
        if only.channel:
            met.append(table.c.channel == only.channel)
        query = query.where(sa.exists().where(*met))
    if before is not None:
        place = sa.tuple_(microseconds(before[0]), before[1])
        query = query.where(sa.tuple_(NOTICES.c.time, NOTICES.c.id) < place)
    rows = connection.execute(query.order_by(NOTICES.c.time.desc(), NOTICES.c.id.desc()).limit(limit)).all()
    return _with_deliveries(connection, rows)


def prune(connection: Connection, before: datetime, limit: int = PRUNED) -> int:
    """Remove notices older than that which nothing is to be done about any more; gives how many."""
    pending = sa.exists().where(
        NOTICE_DELIVERIES.c.notice == NOTICES.c.id, NOTICE_DELIVERIES.c.state == DeliveryState.PENDING.value
    )
    old = sa.select(NOTICES.c.id).where(NOTICES.c.time < microseconds(before), ~pending).limit(limit)
    ids = list(connection.execute(old).scalars())
    if ids:
        connection.execute(sa.delete(NOTICE_DELIVERIES).where(NOTICE_DELIVERIES.c.notice.in_(ids)))
        connection.execute(sa.delete(NOTICES).where(NOTICES.c.id.in_(ids)))
    return len(ids)


def forget_tenant(connection: Connection, tenant: str) -> None:
    """Remove a tenant's channels and notices, with the tenant."""
    mine = sa.select(NOTICES.c.id).where(NOTICES.c.tenant == tenant)
    connection.execute(sa.delete(NOTICE_DELIVERIES).where(NOTICE_DELIVERIES.c.notice.in_(mine)))
    for table in (NOTICES, NOTIFICATION_CHANNELS, NOTICE_POSITIONS):
        connection.execute(sa.delete(table).where(table.c.tenant == tenant))


def _tell(connection: Connection) -> None:
    connection.execute(sa.update(NOTICE_NUMBER).values(number=NOTICE_NUMBER.c.number + 1))
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_notify(CHANNEL, "notices")))


def _is_known(connection: Connection, notice: Notice) -> bool:
    same = sa.select(NOTICES.c.id).where(NOTICES.c.tenant == notice.tenant, NOTICES.c.once == notice.once)
    return connection.execute(same).first() is not None


def _position(connection: Connection, tenant: str, key: str) -> int:
    table = NOTICE_POSITIONS
    which = sa.and_(table.c.tenant == tenant, table.c.key == key)
    moved = sa.update(table).where(which).values(number=table.c.number + 1).returning(table.c.number)
    number = connection.execute(moved).scalar()
    if number is None:
        number = 1
        connection.execute(sa.insert(table).values(tenant=tenant, key=key, number=number))
    return int(number)


def _takers(connection: Connection, notice: Notice) -> list[str]:
    table = NOTIFICATION_CHANNELS
    query = sa.select(table.c.id, table.c.kinds).where(table.c.tenant == notice.tenant, table.c.enabled.is_(True))
    found = [(row.id, json.loads(row.kinds)) for row in connection.execute(query.order_by(table.c.id))]
    return [one for one, kinds in found if not kinds or notice.kind.value in kinds]


def _has_room(connection: Connection, channel: str) -> bool:
    table = NOTICE_DELIVERIES
    pending = sa.select(table.c.notice).where(
        table.c.channel == channel, table.c.state == sa.literal_column("'pending'")
    )
    return connection.execute(pending.offset(MAX_WAITING - 1).limit(1)).first() is None


def _heads(channel: str = "") -> sa.Subquery:
    """The first that waits of each key, by each channel."""
    table = NOTICE_DELIVERIES
    query = sa.select(table.c.channel, table.c.key, sa.func.min(table.c.position).label("position"))
    query = query.where(table.c.state == sa.literal_column("'pending'"))
    if channel:
        query = query.where(table.c.channel == channel)
    return query.group_by(table.c.channel, table.c.key).subquery()


def _is_head(heads: sa.Subquery) -> sa.ColumnElement[bool]:
    table = NOTICE_DELIVERIES
    return sa.and_(
        table.c.channel == heads.c.channel,
        table.c.key == heads.c.key,
        table.c.position == heads.c.position,
        table.c.state == sa.literal_column("'pending'"),
    )


_DELIVERY = ("channel", "notice", "state", "attempts", "first_time", "next_time", "end_time", "last_error")


def _delivery_columns() -> list[sa.Label[Any]]:
    return [NOTICE_DELIVERIES.c[name].label(f"delivery_{name}") for name in _DELIVERY]


def _with_deliveries(connection: Connection, rows: Any) -> list[Told]:
    notices = [_notice(row) for row in rows]
    query = sa.select(*_delivery_columns()).where(NOTICE_DELIVERIES.c.notice.in_([one.id for one in notices]))
    found: dict[str, list[Delivery]] = {}
    for row in connection.execute(query.order_by(NOTICE_DELIVERIES.c.channel)):
        found.setdefault(row.delivery_notice, []).append(_delivery(row))
    return [Told(one, tuple(found.get(one.id, ()))) for one in notices]


def _notice(row: Row[Any]) -> Notice:
    return Notice(
        id=row.id,
        tenant=row.tenant,
        kind=NoticeKind(row.kind),
        time=from_microseconds(row.time),
        key=row.key,
        replica=row.replica,
        cause=row.cause,
        data=json.loads(row.data),
        position=row.position,
        once=row.once or "",
    )


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(
        channel=row.delivery_channel,
        notice=row.delivery_notice,
        state=DeliveryState(row.delivery_state),
        attempts=row.delivery_attempts,
        first_time=from_microseconds(row.delivery_first_time),
        next_time=from_microseconds(row.delivery_next_time),
        end_time=None if row.delivery_end_time is None else from_microseconds(row.delivery_end_time),
        last_error=row.delivery_last_error,
    )
