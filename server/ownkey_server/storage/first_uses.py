"""Which keys have ever worked, in the database: one row for each tenant, place and identity of ours, written once.

A row outlives the enrolment of the key, as what is known by it does: who enrols it again is told the truth of it too.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ownkey_server.domain.audit import microseconds
from ownkey_server.domain.clock import Clock
from ownkey_server.storage.database import Database
from ownkey_server.storage.schema import FIRST_USES


def remember(database: Database, clock: Clock, tenant: str, store: str, reference: str, identity: str) -> None:
    """Write that a key has worked, unless that stands there already.

    Args:
        database: Where.
        clock: Tells when.
        tenant: In whose name; empty for the provider.
        store: The key store's name.
        reference: The key's name in that store.
        identity: Who we were to the key.

    Raises:
        DatabaseUnavailable: It does not answer.
    """
    # Nearly always it does, and then nobody waits for a writer.
    if has_worked(database, tenant, store, reference, identity):
        return
    insert = (sqlite.insert if database.is_sqlite else postgresql.insert)(FIRST_USES)
    values = {"tenant": tenant, "store": store, "reference": reference, "identity": identity}
    with database.writing() as connection:
        connection.execute(insert.values(**values, time=microseconds(clock())).on_conflict_do_nothing())


def has_worked(database: Database, tenant: str, store: str, reference: str, identity: str) -> bool:
    """Whether a key has ever worked; arguments and errors as for :func:`remember`."""
    table = FIRST_USES
    here = sa.and_(
        table.c.tenant == tenant,
        table.c.store == store,
        table.c.reference == reference,
        table.c.identity == identity,
    )
    with database.reading() as connection:
        return connection.execute(sa.select(table.c.time).where(here)).scalar_one_or_none() is not None
