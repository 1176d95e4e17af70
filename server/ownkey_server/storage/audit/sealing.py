"""Sealing: what was written to a chain since it was last sealed is checked once more, and signed in parts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ownkey_server.domain import audit
from ownkey_server.domain.audit_chain import ChainChecker, ChainRow
from ownkey_server.domain.audit_checkpoints import CheckpointChecker
from ownkey_server.domain.audit_documents import Segment, line
from ownkey_server.domain.audit_findings import Finding, Findings, Kind
from ownkey_server.storage.audit.rows import WriterRow, read_page, read_segments, read_writer
from ownkey_server.storage.audit.signing import Signer, Verifier
from ownkey_server.storage.audit.verify_chain import GONE, PAGE, signed_segment
from ownkey_server.storage.database import Database
from ownkey_server.storage.schema import AUDIT_SEGMENTS, AUDIT_WRITERS

_UNSEALED = sa.text(
    "SELECT number FROM audit_writers WHERE head_sequence > coalesce((SELECT max(last_sequence) FROM audit_segments"
    " WHERE writer = number), 0) ORDER BY number"
)


@dataclass(frozen=True, slots=True)
class SealingRules:
    """When a part of a chain is sealed.

    Attributes:
        records: As soon as it has so many.
        age: Or its oldest record is so old, in microseconds.
    """

    records: int
    age: int


class Sealer:
    """Seals what is due.

    Args:
        signer: Signs the descriptions.
        verifier: The public keys that are trusted for what is there already.
        checkpoints: What the checkpoints say of every chain.
    """

    def __init__(
        self,
        database: Database,
        signer: Signer,
        verifier: Verifier,
        rules: SealingRules,
        checkpoints: CheckpointChecker,
    ) -> None:
        self._database = database
        self._signer = signer
        self._verifier = verifier
        self._rules = rules
        self._checkpoints = checkpoints

    def unsealed(self) -> list[int]:
        """The writers whose last records are not sealed."""
        with self._database.reading() as connection:
            return [int(row.number) for row in connection.execute(_UNSEALED)]

    def seal(self, number: int, now: int, findings: Findings) -> int:
        """Seal what is due of one chain; gives how many segments.

        Nothing is sealed when something is wrong with anything up to the chain's head: a signature of ours under what
        somebody else has written would be worse than none.

        Args:
            number: The writer.
            now: Microseconds since 1970.
            findings: Where what is wrong goes.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        with self._database.reading() as connection:
            row = read_writer(connection, number)
            segments = read_segments(connection, number)
            first = read_page(connection, number, segments[-1].last_sequence if segments else 0, 1)
        if row is None or not first or not self._due(row, first[0], now):
            return 0
        sealed, previous = 0, audit.genesis(row.description)
        if segments:
            last = signed_segment(self._verifier, segments[-1])
            if isinstance(last, str):
                findings.add(Finding(Kind.FORGED_SEGMENT, number, segments[-1].first_sequence, last))
                return 0
            sealed, previous = last.last_sequence, last.hash
        bad_before = findings.bad
        parts = self._check(row, sealed, previous, findings)
        if findings.bad > bad_before:
            return 0
        whole_rest = self._all_due(row, now)
        count = 0
        for part in parts:
            whole = part.last_sequence - part.first_sequence + 1 == self._rules.records
            if not whole and not whole_rest and part.first_time > now - self._rules.age:
                break
            if not self._store(part):
                break
            count += 1
        return count

    def _due(self, row: WriterRow, first: ChainRow, now: int) -> bool:
        enough = row.head_sequence - first.sequence + 1 >= self._rules.records
        return enough or self._all_due(row, now) or first.time <= now - self._rules.age

    def _all_due(self, row: WriterRow, now: int) -> bool:
        return row.closed or row.seen_time < now - GONE

    def _check(self, row: WriterRow, sealed: int, previous: bytes, findings: Findings) -> list[Segment]:
        """Check everything up to the signed head; gives it in parts."""
        bad_before = findings.bad
        statement = audit.head_statement(row.number, row.head_sequence, row.head_hash, max(row.head_time, 0))
        if not self._verifier.good(row.head_signature, statement):
            text = "the signature of the chain's head is not of a key that is trusted"
            findings.add(Finding(Kind.FORGED_HEAD, row.number, row.head_sequence, text))
            return []
        checker = ChainChecker(row.number, sealed, previous, findings)
        checker.expect(row.head_sequence, row.head_hash, "the head of the chain has another hash")
        self._compare(row, sealed, checker, findings)
        parts: list[Segment] = []
        part = _Part(row.number, sealed + 1, previous)
        while checker.sequence < row.head_sequence and findings.bad == bad_before:
            with self._database.reading() as connection:
                rows = read_page(connection, row.number, checker.sequence, PAGE)
            for each in rows:
                if each.sequence > row.head_sequence:
                    break
                checker.feed(each)
                part.add(each)
                if part.count == self._rules.records:
                    parts.append(part.segment())
                    part = _Part(row.number, each.sequence + 1, each.hash)
            if not rows or rows[-1].sequence > row.head_sequence:
                break
        if checker.sequence < row.head_sequence and findings.bad == bad_before:
            text = "the signed head of the chain names it, and it is not there"
            last = row.head_sequence
            findings.add(Finding(Kind.TRUNCATED, row.number, checker.sequence + 1, text, last=last))
        return [*parts, part.segment()] if part.count else parts

    def _compare(self, row: WriterRow, sealed: int, checker: ChainChecker, findings: Findings) -> None:
        """Compare with what the checkpoints say of the chain."""
        known_sealed = self._checkpoints.sealed.get(row.number, 0)
        if known_sealed > sealed:
            text = "a checkpoint says that it was sealed, and no segment is there"
            findings.add(Finding(Kind.MISSING_SEGMENT, row.number, sealed + 1, text, last=known_sealed))
        if row.number in self._checkpoints.heads:
            head, by = self._checkpoints.heads[row.number]
            text = f"checkpoint {by.number} is signed for another record in its place"
            checker.expect(head.sequence, head.hash, text, Kind.ROLLED_BACK)
            if head.sequence > row.head_sequence:
                text = f"checkpoint {by.number} says that the chain had come to record {head.sequence}"
                findings.add(Finding(Kind.ROLLED_BACK, row.number, row.head_sequence + 1, text, last=head.sequence))

    def _store(self, segment: Segment) -> bool:
        """Store it, unless another instance has sealed something in the meantime."""
        description = segment.to_bytes()
        with self._database.writing() as connection:
            if _sealed_to(connection, segment.writer) != segment.first_sequence - 1:
                return False
            connection.execute(
                sa.insert(AUDIT_SEGMENTS).values(
                    writer=segment.writer,
                    first_sequence=segment.first_sequence,
                    last_sequence=segment.last_sequence,
                    last_time=segment.last_time,
                    description=description,
                    signature=self._signer.sign(audit.segment_statement(description)),
                    exported=False,
                    removed=False,
                )
            )
        return True


class _Part:
    """Records on their way to become a segment."""

    def __init__(self, writer: int, first: int, previous: bytes) -> None:
        self.count = 0
        self._writer = writer
        self._first = first
        self._previous = previous
        self._digest = hashlib.sha256()
        self._hash = previous
        self._times: tuple[int, int] | None = None

    def add(self, row: ChainRow) -> None:
        self.count += 1
        self._digest.update(line(row))
        self._hash = row.hash
        first, last = self._times or (row.time, row.time)
        self._times = min(first, row.time), max(last, row.time)

    def segment(self) -> Segment:
        first, last = self._times or (0, 0)
        return Segment(
            writer=self._writer,
            first_sequence=self._first,
            last_sequence=self._first + self.count - 1,
            first_time=first,
            last_time=last,
            previous=self._previous,
            hash=self._hash,
            file_sha256=self._digest.digest(),
        )


def _sealed_to(connection: Connection, writer: int) -> int:
    """Up to where a chain is sealed. Takes the writer's row on PostgreSQL, so that one instance at a time looks."""
    connection.execute(sa.select(AUDIT_WRITERS.c.number).where(AUDIT_WRITERS.c.number == writer).with_for_update())
    query = sa.select(sa.func.max(AUDIT_SEGMENTS.c.last_sequence)).where(AUDIT_SEGMENTS.c.writer == writer)
    return int(connection.execute(query).scalar() or 0)
