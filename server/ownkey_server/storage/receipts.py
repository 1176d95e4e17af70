"""What the audit trail says of a revocation: the chains that could serve, the records of effects, and what was served.

Every function takes a connection in a transaction, and looks at a bounded part of the trail.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ownkey_server.domain.audit import Action
from ownkey_server.domain.audit_chain import ChainRow, body_fields
from ownkey_server.storage.audit.rows import as_bytes, as_int, as_text
from ownkey_server.storage.schema import AUDIT_RECORDS, AUDIT_WRITERS

SPAN = 100_000
"""Records of a chain that are looked at on either side of a place in it."""
MOST = 20_000
"""Of a tenant's records among these, so many."""
NEWEST = 200_000
"""Of a tenant's newest records, so many."""

_records = AUDIT_RECORDS.c
_writers = AUDIT_WRITERS.c


@dataclass(frozen=True, slots=True)
class UsesChain:
    """A process's chain of uses.

    Attributes:
        revision: The last change that was in force before its first record; -1 when it does not say.
        heard: When its process last wrote of itself, in microseconds.
        last_action: Of its last record.
    """

    writer: int
    host: str
    process: int
    start_time: str
    revision: int
    head_sequence: int
    head_hash: bytes
    head_time: int
    heard: int
    last_action: str


def chains_of_uses(connection: Connection, since: int) -> list[UsesChain]:
    """The chains whose processes were heard of at that time (microseconds) or later, in order."""
    heard = sa.or_(_writers.seen_time >= since, _writers.head_time >= since)
    found = []
    for row in connection.execute(sa.select(AUDIT_WRITERS).where(heard).order_by(_writers.number)).all():
        try:
            said = json.loads(row.description)
        except ValueError:
            continue  # no writer of ours: `ownkey audit verify` tells
        if said.get("role") != "uses":
            continue
        found.append(
            UsesChain(
                writer=as_int(row.number),
                host=str(said.get("host", "")),
                process=as_int(said.get("process")),
                start_time=str(said.get("start_time", "")),
                revision=as_int(said.get("revision", -1)),
                head_sequence=as_int(row.head_sequence),
                head_hash=as_bytes(row.head_hash),
                head_time=as_int(row.head_time),
                heard=max(as_int(row.seen_time), as_int(row.head_time)),
                last_action=_last_action(connection, as_int(row.number), as_int(row.head_sequence)),
            )
        )
    return found


def records_of(
    connection: Connection, tenant: str, actions: Collection[Action], start: int, end: int
) -> list[tuple[ChainRow, dict[str, Any]]]:
    """A tenant's records of these actions in a span of time (microseconds), the newest first, of the newest ones."""
    newest = (
        _selected()
        .where(_records.tenant == tenant, _records.time >= start, _records.time < end)
        .order_by(_records.time.desc())
        .limit(NEWEST)
        .subquery()
    )
    # Names are sorted in a record, so that this is how those of an action begin.
    begins = sa.or_(*(_begins(newest.c.body, f'{{"action":"{one}"'.encode()) for one in actions))
    return list(_read(connection, sa.select(newest).where(begins).order_by(newest.c.time.desc())))


def newest(connection: Connection, tenant: str, start: int, limit: int) -> Iterator[tuple[ChainRow, dict[str, Any]]]:
    """A tenant's records since a time (microseconds), the newest first."""
    query = _selected().where(_records.tenant == tenant, _records.time >= start)
    return _read(connection, query.order_by(_records.time.desc()).limit(limit))


def before(
    connection: Connection, writer: int, tenant: str, sequence: int
) -> Iterator[tuple[ChainRow, dict[str, Any]]]:
    """A tenant's records of a chain from before a place in it, the latest first."""
    query = _selected().where(
        _records.writer == writer,
        _records.sequence < sequence,
        _records.sequence >= sequence - SPAN,
        _records.tenant == tenant,
    )
    return _read(connection, query.order_by(_records.sequence.desc()).limit(MOST))


def after(connection: Connection, writer: int, tenant: str, sequence: int) -> Iterator[tuple[ChainRow, dict[str, Any]]]:
    """A tenant's records of a chain from after a place in it, in order."""
    query = _selected().where(
        _records.writer == writer,
        _records.sequence > sequence,
        _records.sequence <= sequence + SPAN,
        _records.tenant == tenant,
    )
    return _read(connection, query.order_by(_records.sequence).limit(MOST))


def _selected() -> sa.Select[*tuple[Any, ...]]:
    return sa.select(_records.writer, _records.sequence, _records.time, _records.tenant, _records.body, _records.hash)


def _begins(body: sa.ColumnElement[Any], text: bytes) -> sa.ColumnElement[bool]:
    return sa.func.substr(body, 1, len(text), type_=sa.LargeBinary) == text


def _read(connection: Connection, query: sa.Select[*tuple[Any, ...]]) -> Iterator[tuple[ChainRow, dict[str, Any]]]:
    for row in connection.execute(query):
        read = ChainRow(
            as_int(row.writer),
            as_int(row.sequence),
            as_int(row.time),
            as_text(row.tenant),
            as_bytes(row.body),
            as_bytes(row.hash),
        )
        fields = body_fields(read.body)
        if fields is not None:
            yield read, dict(fields)


def _last_action(connection: Connection, writer: int, sequence: int) -> str:
    query = sa.select(_records.body).where(_records.writer == writer, _records.sequence == sequence)
    body = connection.execute(query).scalar_one_or_none()
    fields = body_fields(as_bytes(body)) if body is not None else None
    return str(fields.get("action", "")) if fields else ""
