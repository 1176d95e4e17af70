"""How often each key may have wrapped, in the database: counted upwards in blocks, by all instances together.

What has an end is what a key's material may wrap, not what may be wrapped under a name. So wraps are counted under the
name of the first key that was at a place, and whoever is there later goes on from where it was.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from ownkey_server.domain.tenants import Replica
from ownkey_server.storage.database import Database
from ownkey_server.storage.schema import KEY_USAGE, PLACE_COUNTERS, REPLICAS

PROBES_OF = "probes of "
"""Before the name of a key whose probes are counted, and not its wraps."""


def reserve(database: Database, key: str, block: int, limit: int) -> int:
    """Reserve a block of wraps for this process alone.

    Args:
        database: Where they are counted.
        key: What is counted: a key's name, perhaps after :data:`PROBES_OF`.
        block: How many.
        limit: How many there may be in all.

    Returns:
        How many are reserved in all from now on; 0 when so many more would be too many, and none was reserved.

    Raises:
        DatabaseUnavailable: It does not answer. The block may be lost then, and nobody has it.
    """
    table = KEY_USAGE
    # Of several instances that begin with a key at once, one makes its row.
    insert = (sqlite.insert if database.is_sqlite else postgresql.insert)(table)
    prefix, name = (PROBES_OF, key.removeprefix(PROBES_OF)) if key.startswith(PROBES_OF) else ("", key)
    with database.writing() as connection:
        # Always in one order, so that no two instances wait for each other.
        counters = [prefix + one for one in _counters(connection, name)]
        for counter in counters:
            connection.execute(insert.values(key=counter, reserved=0).on_conflict_do_nothing())
        of_all = table.c.key.in_(counters)
        most = max(
            connection.execute(
                sa.select(table.c.reserved).where(of_all).order_by(table.c.key).with_for_update()
            ).scalars()
        )
        if most + block > limit:
            return 0
        connection.execute(sa.update(table).where(of_all).values(reserved=table.c.reserved + block))
        return int(most) + block


def remember(connection: Connection, key: str, places: Iterable[Replica]) -> None:
    """Let what a key wraps be counted by the same name for ever, whatever key is at its places later.

    Args:
        connection: In a transaction that may write.
        key: The key's name.
        places: Where it is from now on.
    """
    insert = (sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert)(PLACE_COUNTERS)
    wanted = list(places)
    known = sorted(filter(None, (_counter_at(connection, place) for place in wanted)))
    # A replica is the same key as its primary, and counted with it.
    counter = known[0] if known else key
    for place in wanted:
        values = {"store": place.store, "reference": place.reference, "counter": counter}
        connection.execute(insert.values(**values).on_conflict_do_nothing())


def _counter_at(connection: Connection, place: Replica) -> str | None:
    table = PLACE_COUNTERS
    query = sa.select(table.c.counter).where(table.c.store == place.store, table.c.reference == place.reference)
    return connection.execute(query).scalar_one_or_none()


def _counters(connection: Connection, key: str) -> list[str]:
    """The names by which a key's wraps are counted: more than one when its places were several keys' before."""
    places = PLACE_COUNTERS
    here = sa.and_(REPLICAS.c.store == places.c.store, REPLICAS.c.reference == places.c.reference)
    query = sa.select(places.c.counter).distinct().join_from(REPLICAS, places, here).where(REPLICAS.c.key == key)
    return sorted(connection.execute(query).scalars()) or [key]
