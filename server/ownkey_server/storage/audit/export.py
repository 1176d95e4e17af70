"""Reading the audit trail in the order of time, and as it grows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ownkey_server.domain import audit
from ownkey_server.domain.audit_chain import ChainRow
from ownkey_server.storage.audit.rows import as_bytes, as_int, as_text, read_heads, read_page
from ownkey_server.storage.database import Database
from ownkey_server.storage.schema import AUDIT_RECORDS, AUDIT_WRITERS

PAGE = 2000
# A writer that has noted nothing for so long has nothing new. It covers clocks that differ, and long outages.
SEEN_WITHIN = timedelta(hours=1)


class Cursor(NamedTuple):
    """A record's place in the order of time: microseconds, writer and sequence."""

    time: int
    writer: int
    sequence: int


def cursor(row: ChainRow) -> Cursor:
    """The place of a record."""
    return Cursor(row.time, row.writer, row.sequence)


def read_records(
    database: Database,
    *,
    tenant: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    after: tuple[int, int, int] | None = None,
    limit: int = PAGE,
) -> list[ChainRow]:
    """The next records in the order of time, writer and sequence.

    A record stands at the time that it was decided, and is durable a moment later: what lies in the last minute may
    still get company. For what must be complete, end a little in the past.

    Args:
        database: Where the trail is.
        tenant: Whose; None for everybody's. Empty is a tenant of its own: of what concerns none.
        start: From then on.
        end: Before then.
        after: The :func:`cursor` of the last record that was read.
        limit: How many at most.

    Raises:
        DatabaseUnavailable: The database does not answer.
    """
    query = _selected(tenant)
    if start is not None:
        query = query.where(_time >= audit.microseconds(start))
    if end is not None:
        query = query.where(_time < audit.microseconds(end))
    if after is not None:
        time, writer, sequence = after
        later = sa.or_(_time > time, _writer > writer, sa.and_(_writer == writer, _sequence > sequence))
        query = query.where(_time >= time, later)
    with database.reading() as connection:
        return _rows(connection, query.order_by(_time, _writer, _sequence).limit(limit))


def read_all(
    database: Database,
    *,
    tenant: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    after: tuple[int, int, int] | None = None,
) -> Iterator[ChainRow]:
    """All records in the order of time, a page at a time; see :func:`read_records`.

    Raises:
        DatabaseUnavailable: The database does not answer.
    """
    while True:
        rows = read_records(database, tenant=tenant, start=start, end=end, after=after)
        yield from rows
        if len(rows) < PAGE:
            return
        after = cursor(rows[-1])


def read_last(database: Database, count: int, *, tenant: str | None = None) -> tuple[list[ChainRow], dict[int, int]]:
    """The last records, and how far every chain has come with them: from there :func:`read_new` goes on.

    Raises:
        DatabaseUnavailable: The database does not answer.
    """
    query = _selected(tenant).order_by(_time.desc(), _writer.desc(), _sequence.desc()).limit(count)
    with database.reading() as connection:
        rows = _rows(connection, query) if count else []
        return rows[::-1], read_heads(connection)


def read_new(
    database: Database, positions: Mapping[int, int], now: datetime, *, limit: int = PAGE
) -> tuple[list[ChainRow], dict[int, int]]:
    """What was added to every chain since, and how far they have come now.

    It goes by each chain's own numbers, so that nothing is missed that became durable later than it was decided.

    Args:
        database: Where the trail is.
        positions: The last record of each writer that was read. A writer that is not there is new.
        now: The present time: only writers that were seen lately are looked at.
        limit: How many of one writer at most. When there were as many, ask again at once.

    Raises:
        DatabaseUnavailable: The database does not answer.
    """
    since = audit.microseconds(now - SEEN_WITHIN)
    query = sa.select(AUDIT_WRITERS.c.number, AUDIT_WRITERS.c.head_sequence).where(AUDIT_WRITERS.c.seen_time >= since)
    found: list[ChainRow] = []
    come = dict(positions)
    with database.reading() as connection:
        for number, head in connection.execute(query).all():
            if head > come.get(number, 0):
                rows = [
                    row for row in read_page(connection, number, come.get(number, 0), limit) if row.sequence <= head
                ]
                found += rows
                come[number] = rows[-1].sequence if rows else head
    return sorted(found, key=cursor), come


_columns = AUDIT_RECORDS.c
_time: sa.Column[int] = _columns.time
_writer: sa.Column[int] = _columns.writer
_sequence: sa.Column[int] = _columns.sequence


def _selected(tenant: str | None) -> sa.Select[*tuple[Any, ...]]:
    # As they are, of whatever type somebody has made them.
    untyped = [sa.type_coerce(column, sa.types.NULLTYPE) for column in (_columns.tenant, _columns.body, _columns.hash)]
    query: sa.Select[*tuple[Any, ...]] = sa.select(_writer, _sequence, _time, *untyped)
    return query if tenant is None else query.where(_columns.tenant == tenant)


def _rows(connection: Connection, query: sa.Select[*tuple[Any, ...]]) -> list[ChainRow]:
    return [
        ChainRow(as_int(writer), as_int(sequence), as_int(time), as_text(tenant), as_bytes(body), as_bytes(digest))
        for writer, sequence, time, tenant, body, digest in connection.execute(query)
    ]
