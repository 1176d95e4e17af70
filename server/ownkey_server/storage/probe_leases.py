"""Who probes which key: a key is probed by one instance at a time, and another takes over when that one has died.

A lease is a row with an end. Ends are told by the database's clock, so that clocks of instances may differ.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from ownkey_server.storage.schema import PROBE_LEASES


def claim(connection: Connection, holder: str, keys: Sequence[str], seconds: float) -> frozenset[str]:
    """Take the leases of these keys, or keep them, for so many seconds from now; gives those that were to be had.

    Args:
        connection: In a transaction.
        holder: Who asks.
        keys: Names of the keys.
        seconds: How long nobody else is to probe them. Whoever dies meanwhile is waited for so long.
    """
    if not keys:
        return frozenset()
    table, now = PROBE_LEASES, _now(connection)
    insert = (sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert)(table)
    # In one order for all, so that no two wait for each other.
    rows = [{"key": key, "holder": holder, "until": now + int(seconds * 1_000_000)} for key in sorted(set(keys))]
    statement = insert.values(rows)
    statement = statement.on_conflict_do_update(
        index_elements=["key"],
        set_={"holder": statement.excluded.holder, "until": statement.excluded.until},
        where=sa.or_(table.c.holder == holder, table.c.until <= now),
    )
    return frozenset(connection.execute(statement.returning(table.c.key)).scalars())


def give_up(connection: Connection, holder: str) -> None:
    """Let others have all leases of one who ends."""
    connection.execute(sa.delete(PROBE_LEASES).where(PROBE_LEASES.c.holder == holder))


def prune(connection: Connection) -> None:
    """Let go of leases that ended an hour ago or longer."""
    connection.execute(sa.delete(PROBE_LEASES).where(PROBE_LEASES.c.until <= _now(connection) - 3_600_000_000))


def _now(connection: Connection) -> int:
    if connection.dialect.name == "sqlite":
        return time.time_ns() // 1000  # a file of this machine, whose clock all of its processes share
    seconds = sa.func.extract("epoch", sa.func.clock_timestamp())
    return int(connection.execute(sa.select(sa.cast(seconds * 1_000_000, sa.BigInteger))).scalar_one())
