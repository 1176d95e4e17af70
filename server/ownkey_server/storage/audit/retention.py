"""Retention: old records are removed, from the front of their chain and in whole sealed segments.

First a signed checkpoint says up to where, and only then they are removed: so nobody else can remove records, and say
that retention did.
"""

from __future__ import annotations

import itertools

import sqlalchemy as sa

from ownkey_server.domain.audit_documents import Segment
from ownkey_server.domain.audit_findings import Finding, Findings, Kind
from ownkey_server.storage.audit.retention_agreement import Agreement, agreed, longer
from ownkey_server.storage.audit.rows import SegmentRow, read_kept_segments
from ownkey_server.storage.audit.signing import Verifier
from ownkey_server.storage.audit.verify_chain import signed_segment
from ownkey_server.storage.database import Database

_DELETE = sa.text("DELETE FROM audit_records WHERE writer = :writer AND sequence BETWEEN :first AND :last")
_REMOVED = sa.text("UPDATE audit_segments SET removed = true WHERE writer = :writer AND first_sequence = :first")
# A statement may take a few seconds, and a segment may have a million records.
_AT_ONCE = 20_000


class Retention:
    """Removes what is too old.

    Args:
        age: How old records become, in microseconds.
        exported_only: Whether there is a sink, and what is not copied there yet must stay.
        guarded: Whether less than what was agreed does not count (``retention_agreement.py``).
    """

    def __init__(
        self, database: Database, verifier: Verifier, age: int, *, exported_only: bool, guarded: bool = False
    ) -> None:
        self._database = database
        self._verifier = verifier
        self._age = age
        self._exported_only = exported_only
        self._guarded = guarded

    def due(self, now: int, findings: Findings) -> list[Segment]:
        """The segments to be removed, each writer's from the front.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        with self._database.reading() as connection:
            age = self._in_force(agreed(connection))
            kept = read_kept_segments(connection) if age is not None else []
        segments: list[Segment] = []
        if age is None:
            return segments
        for _, rows in itertools.groupby(kept, lambda row: row.writer):
            for row in rows:
                if not self._may_go(row, now - age):
                    break
                segment = signed_segment(self._verifier, row)
                if isinstance(segment, str):
                    findings.add(Finding(Kind.FORGED_SEGMENT, row.writer, row.first_sequence, segment))
                    break
                segments.append(segment)
        return segments

    def remove(self, segment: Segment) -> int:
        """Remove a segment's records, once a checkpoint says so; gives how many.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        with self._database.writing() as connection:
            where = {"writer": segment.writer, "first": segment.first_sequence}
            removed = 0
            for start in range(segment.first_sequence, segment.last_sequence + 1, _AT_ONCE):
                last = min(start + _AT_ONCE - 1, segment.last_sequence)
                part = {"writer": segment.writer, "first": start, "last": last}
                removed += connection.execute(_DELETE, part).rowcount
            connection.execute(_REMOVED, where)
        return removed

    def _in_force(self, agreement: Agreement | None) -> int | None:
        """How old records become; None for ever."""
        if not self._guarded:
            return self._age
        return longer(self._age, agreement.age) if agreement is not None else None

    def _may_go(self, row: SegmentRow, before: int) -> bool:
        return row.last_time < before and (row.exported or not self._exported_only)
