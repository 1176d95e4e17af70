"""The audit trail's tables, read as they are: whoever changed them may have put anything anywhere.

SQLite keeps values of any type in any column. What is not of the column's type reads as -1 or as the bytes it looks
like, so that it is told as changed and stops nobody from reading the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ownkey_server.domain.audit_chain import ChainRow

_PAGE = sa.text(
    "SELECT sequence, time, tenant, body, hash FROM audit_records WHERE writer = :writer AND sequence > :after"
    " ORDER BY sequence LIMIT :limit"
)
_WRITER_COLUMNS = (
    "number, description, head_sequence, head_hash, head_time, head_signature, seen_time, closed FROM audit_writers"
)
_WRITER = sa.text(f"SELECT {_WRITER_COLUMNS} WHERE number = :number")
_WRITERS = sa.text("SELECT number, head_sequence FROM audit_writers ORDER BY number")
_SEGMENT_COLUMNS = (
    "writer, first_sequence, last_sequence, last_time, description, signature, exported, removed FROM audit_segments"
)
_SEGMENTS = sa.text(f"SELECT {_SEGMENT_COLUMNS} WHERE writer = :writer ORDER BY first_sequence")
_SEGMENT = sa.text(f"SELECT {_SEGMENT_COLUMNS} WHERE writer = :writer AND first_sequence = :first")
_KEPT_SEGMENTS = sa.text(f"SELECT {_SEGMENT_COLUMNS} WHERE NOT removed ORDER BY writer, first_sequence")
_CHECKPOINTS = sa.text(
    "SELECT number, time, description, signature, exported FROM audit_checkpoints WHERE number > :after"
    " ORDER BY number LIMIT :limit"
)
_NEWEST_CHECKPOINT = sa.text(
    "SELECT number, time, description, signature, exported FROM audit_checkpoints ORDER BY number DESC LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class WriterRow:
    """A writer as it is stored."""

    number: int
    description: bytes
    head_sequence: int
    head_hash: bytes
    head_time: int
    head_signature: bytes
    seen_time: int
    closed: bool


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """A segment as it is stored."""

    writer: int
    first_sequence: int
    last_sequence: int
    last_time: int
    description: bytes
    signature: bytes
    exported: bool
    removed: bool


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A checkpoint as it is stored."""

    number: int
    time: int
    description: bytes
    signature: bytes
    exported: bool


def read_page(connection: Connection, writer: int, after: int, limit: int) -> list[ChainRow]:
    """The next records of a chain, in order."""
    rows = connection.execute(_PAGE, {"writer": writer, "after": after, "limit": limit})
    return [
        ChainRow(writer, as_int(sequence), as_int(time), as_text(tenant), as_bytes(body), as_bytes(digest))
        for sequence, time, tenant, body, digest in rows
    ]


def read_heads(connection: Connection) -> dict[int, int]:
    """How far every chain has come: the number of its last record."""
    return {as_int(number): as_int(sequence) for number, sequence in connection.execute(_WRITERS)}


def read_writer(connection: Connection, number: int) -> WriterRow | None:
    """One writer."""
    row = connection.execute(_WRITER, {"number": number}).one_or_none()
    if row is None:
        return None
    return WriterRow(
        as_int(row.number),
        as_bytes(row.description),
        as_int(row.head_sequence),
        as_bytes(row.head_hash),
        as_int(row.head_time),
        as_bytes(row.head_signature),
        as_int(row.seen_time),
        bool(row.closed),
    )


def read_segments(connection: Connection, writer: int) -> list[SegmentRow]:
    """A writer's segments, in order."""
    return [_segment(row) for row in connection.execute(_SEGMENTS, {"writer": writer})]


def read_segment(connection: Connection, writer: int, first: int) -> SegmentRow | None:
    """One segment."""
    row = connection.execute(_SEGMENT, {"writer": writer, "first": first}).one_or_none()
    return _segment(row) if row is not None else None


def read_kept_segments(connection: Connection) -> list[SegmentRow]:
    """The segments of all writers whose records retention has not removed, in order."""
    return [_segment(row) for row in connection.execute(_KEPT_SEGMENTS)]


def _segment(row: sa.Row[Any]) -> SegmentRow:
    return SegmentRow(
        as_int(row.writer),
        as_int(row.first_sequence),
        as_int(row.last_sequence),
        as_int(row.last_time),
        as_bytes(row.description),
        as_bytes(row.signature),
        bool(row.exported),
        bool(row.removed),
    )


def read_checkpoints(connection: Connection, after: int, limit: int) -> list[CheckpointRow]:
    """The next checkpoints, in order."""
    return [_checkpoint(row) for row in connection.execute(_CHECKPOINTS, {"after": after, "limit": limit})]


def read_newest_checkpoint(connection: Connection) -> CheckpointRow | None:
    """The last checkpoint."""
    row = connection.execute(_NEWEST_CHECKPOINT).one_or_none()
    return _checkpoint(row) if row is not None else None


def _checkpoint(row: sa.Row[Any]) -> CheckpointRow:
    return CheckpointRow(
        as_int(row.number), as_int(row.time), as_bytes(row.description), as_bytes(row.signature), bool(row.exported)
    )


def as_int(value: object) -> int:
    """The number; -1 for what is none."""
    return value if isinstance(value, int) else -1


def as_bytes(value: object) -> bytes:
    """The bytes; a text's in UTF-8, and nothing for what has none."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else b""


def as_text(value: object) -> str:
    """The text; empty for what is none."""
    return value if isinstance(value, str) else ""
