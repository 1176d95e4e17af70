"""How often each key may have wrapped, in the database: counted upwards in blocks, by all instances together."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ownkey_server.storage.database import Database
from ownkey_server.storage.schema import KEY_USAGE


def reserve(database: Database, key: str, block: int, limit: int) -> int:
    """Reserve a block of wraps for this process alone.

    Args:
        database: Where they are counted.
        key: What is counted.
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
    taken = (
        sa.update(table)
        .where(table.c.key == key, table.c.reserved + block <= limit)
        .values(reserved=table.c.reserved + block)
        .returning(table.c.reserved)
    )
    with database.writing() as connection:
        connection.execute(insert.values(key=key, reserved=0).on_conflict_do_nothing())
        return int(connection.execute(taken).scalar_one_or_none() or 0)
