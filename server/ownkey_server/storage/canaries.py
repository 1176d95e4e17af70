"""Canaries: throw-away bytes that a key has wrapped, kept to be opened by probes; of the bytes, only a digest."""

from __future__ import annotations

import json
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from ownkey.wrapped_key import WrappedKey
from ownkey_server.domain.audit import microseconds
from ownkey_server.domain.canaries import Canary
from ownkey_server.domain.tenants import Replica
from ownkey_server.storage.schema import KEY_CANARIES


def find(connection: Connection, key: str, place: Replica) -> Canary | None:
    """The canary of a key at a place, if there is one."""
    table = KEY_CANARIES
    query = sa.select(table).where(table.c.store == place.store, table.c.reference == place.reference)
    row = connection.execute(query.where(table.c.key == key)).one_or_none()
    if row is None:
        return None
    entry = WrappedKey.from_bytes(row.wrapped).encrypted_data_keys[0]
    return Canary(row.key, entry, json.loads(row.context), row.digest)


def keep(connection: Connection, place: Replica, canary: Canary, now: datetime, *, instead: bool = False) -> None:
    """Keep a canary.

    Args:
        connection: In a transaction.
        place: Whose it is.
        canary: What the key has wrapped there.
        now: The present time (UTC).
        instead: Whether it takes the place of one that is there of the same key: at enrolment, where the key has just
            been proven anew. One of another key's always gives way.
    """
    table = KEY_CANARIES
    insert = (sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert)(table)
    values = {
        "key": canary.key,
        "wrapped": WrappedKey(canary.key, (canary.entry,)).to_bytes(),
        "context": json.dumps(dict(canary.context), sort_keys=True),
        "digest": canary.digest,
        "create_time": microseconds(now),
    }
    statement = insert.values(store=place.store, reference=place.reference, **values).on_conflict_do_update(
        index_elements=["store", "reference"],
        set_=values,
        where=sa.true() if instead else table.c.key != canary.key,
    )
    connection.execute(statement)
