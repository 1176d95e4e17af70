"""Notification channels as they are kept."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from ownkey_server.domain.audit import from_microseconds, microseconds
from ownkey_server.domain.notifications import Channel, ChannelKind, NoticeKind, Sealed
from ownkey_server.storage.schema import NOTICE_DELIVERIES, NOTIFICATION_CHANNELS


def add(connection: Connection, channel: Channel, etag: int) -> None:
    """Keep a new channel, made by the change of that number."""
    connection.execute(
        sa.insert(NOTIFICATION_CHANNELS).values(
            id=channel.id,
            tenant=channel.tenant,
            kind=channel.kind.value,
            create_time=microseconds(channel.create_time),
            **_values(channel, etag),
        )
    )


def change(connection: Connection, channel: Channel, etag: int) -> None:
    """Keep a channel as it is now, by the change of that number."""
    which = NOTIFICATION_CHANNELS.c.id == channel.id
    connection.execute(sa.update(NOTIFICATION_CHANNELS).where(which).values(**_values(channel, etag)))


def remove(connection: Connection, channel: str) -> int:
    """Remove a channel; gives how many notices were still to be delivered by it."""
    mine = NOTICE_DELIVERIES.c.channel == channel
    waited = (
        sa.select(sa.func.count()).select_from(NOTICE_DELIVERIES).where(mine, NOTICE_DELIVERIES.c.state == "pending")
    )
    count = int(connection.execute(waited).scalar_one())
    connection.execute(sa.delete(NOTICE_DELIVERIES).where(mine))
    connection.execute(sa.delete(NOTIFICATION_CHANNELS).where(NOTIFICATION_CHANNELS.c.id == channel))
    return count


def find(connection: Connection, tenant: str, channel: str) -> Channel | None:
    """A tenant's channel, if there is one of that id."""
    table = NOTIFICATION_CHANNELS
    query = sa.select(table).where(table.c.tenant == tenant, table.c.id == channel)
    row = connection.execute(query).one_or_none()
    return _channel(row) if row else None


def by_id(connection: Connection, channel: str) -> Channel | None:
    """A channel, whoever's it is."""
    row = connection.execute(
        sa.select(NOTIFICATION_CHANNELS).where(NOTIFICATION_CHANNELS.c.id == channel)
    ).one_or_none()
    return _channel(row) if row else None


def listed(connection: Connection, tenant: str) -> list[Channel]:
    """A tenant's channels, the oldest first."""
    table = NOTIFICATION_CHANNELS
    query = sa.select(table).where(table.c.tenant == tenant).order_by(table.c.create_time, table.c.id)
    return [_channel(row) for row in connection.execute(query)]


def _values(channel: Channel, etag: int) -> dict[str, Any]:
    return {
        "display_name": channel.display_name,
        "url": channel.url,
        "recipients": json.dumps(channel.recipients),
        "scheme": channel.scheme,
        "kinds": json.dumps(sorted(one.value for one in channel.kinds)),
        "enabled": channel.enabled,
        "secret": channel.sealed.secret,
        "former": channel.sealed.former,
        "former_until": None if channel.former_until is None else microseconds(channel.former_until),
        "etag": etag,
        "update_time": microseconds(channel.update_time),
    }


def _channel(row: Row[Any]) -> Channel:
    return Channel(
        id=row.id,
        tenant=row.tenant,
        kind=ChannelKind(row.kind),
        display_name=row.display_name,
        create_time=from_microseconds(row.create_time),
        update_time=from_microseconds(row.update_time),
        url=row.url,
        recipients=tuple(json.loads(row.recipients)),
        scheme=row.scheme,
        kinds=frozenset(NoticeKind(one) for one in json.loads(row.kinds)),
        enabled=row.enabled,
        sealed=Sealed(bytes(row.secret), bytes(row.former)),
        former_until=None if row.former_until is None else from_microseconds(row.former_until),
        etag=str(row.etag),
    )
