"""The check of one writer's chain in a database: its records, its head, its segments, and what checkpoints say of it.

Each page of records is a transaction of its own. The last page is read together with the head, so that the two must
agree, however much was added in the meantime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ownkey_server.domain import audit
from ownkey_server.domain.audit import Action
from ownkey_server.domain.audit_chain import ChainChecker, ChainRow
from ownkey_server.domain.audit_documents import DocumentInvalid, Segment
from ownkey_server.domain.audit_findings import Finding, Findings, Kind
from ownkey_server.storage.audit.rows import SegmentRow, WriterRow, read_page, read_segments, read_writer
from ownkey_server.storage.audit.signing import Verifier
from ownkey_server.storage.audit.verify_checkpoints import CheckpointPass
from ownkey_server.storage.database import Database

PAGE = 5000
# A writer notes every few seconds that it lives; one that has not for so long is gone. Microseconds.
GONE = 10 * 60 * 1_000_000
_BEFORE_ALL = -(2**62)


class ChainPass:
    """Checks chains, one after another.

    Args:
        checkpoints: What the checkpoints say; read on when retention has gone further in the meantime.
        count: Told how many records were read.
        event: Told of each record about the trail itself: writer, sequence and fields.
        now: Microseconds since 1970.
    """

    def __init__(
        self,
        database: Database,
        verifier: Verifier,
        findings: Findings,
        checkpoints: CheckpointPass,
        count: Callable[[int], None],
        event: Callable[[int, int, Mapping[str, Any]], None],
        now: int,
    ) -> None:
        self.database = database
        self.verifier = verifier
        self.findings = findings
        self.checkpoints = checkpoints
        self.count = count
        self.event = event
        self.now = now
        self.segments = 0

    def check(self, number: int, at_start: int) -> None:
        """Check one chain.

        Args:
            number: The writer's number.
            at_start: How far it had come when the check of all began.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        with self.database.reading() as connection:
            row = read_writer(connection, number)
            segments = read_segments(connection, number)
        if row is None:
            text = "it was removed while the log was being checked"
            self.findings.add(Finding(Kind.MISSING_WRITER, number, 1, text))
        else:
            _Chain(self, row, segments).check(at_start)


def signed_segment(verifier: Verifier, row: SegmentRow) -> Segment | str:
    """The segment that is described, or what is wrong with it."""
    if not verifier.good(row.signature, audit.segment_statement(row.description)):
        return "its signature is not of a key that is trusted"
    try:
        segment = Segment.from_bytes(row.description)
    except DocumentInvalid as error:
        return f"it is signed, but {error}"
    signed = (segment.writer, segment.first_sequence, segment.last_sequence, segment.last_time)
    if signed != (row.writer, row.first_sequence, row.last_sequence, row.last_time):
        return "its columns say something else than what was signed"
    return segment


class _Chain:
    def __init__(self, chains: ChainPass, row: WriterRow, segments: list[SegmentRow]) -> None:
        self._all = chains
        self._number = row.number
        self._row = row
        self._checker = ChainChecker(
            row.number,
            0,
            audit.genesis(row.description),
            chains.findings,
            lambda sequence, fields: chains.event(row.number, sequence, fields),
        )
        self._segments = segments
        self._removed: list[Segment] = []
        self._last_sealed = 0
        # As they were read before the chain was: those that are read on meanwhile may speak of what is newer.
        self._known_head = chains.checkpoints.checker.heads.get(row.number)
        self._known_sealed = chains.checkpoints.checker.sealed.get(row.number, 0)

    def check(self, at_start: int) -> None:
        self._check_segments()
        self._check_records()
        self._bridge(self._row.head_sequence)
        self._check_head()
        self._check_closing()
        self._check_past(at_start)

    def _check_segments(self) -> None:
        """Check the descriptions, and have the records compared with them."""
        previous: bytes | None = None
        for row in self._segments:
            expected = self._last_sealed + 1
            self._all.segments += 1
            if row.first_sequence > expected:
                text = "no segment is there, though one after it is sealed"
                self._add(Kind.MISSING_SEGMENT, expected, text, row.first_sequence - 1)
                previous = None
            self._last_sealed = max(self._last_sealed, row.last_sequence)
            segment = signed_segment(self._all.verifier, row)
            if isinstance(segment, str):
                self._add(Kind.FORGED_SEGMENT, row.first_sequence, segment, row.last_sequence)
                previous = None
                continue
            if row.first_sequence < expected or (previous is not None and segment.previous != previous):
                self._add(Kind.FORGED_SEGMENT, row.first_sequence, "it does not continue the segment before it")
            text = (
                f"the segment of records {row.first_sequence} to {row.last_sequence} is signed for another in its place"
            )
            self._checker.expect(segment.first_sequence - 1, segment.previous, text)
            self._checker.expect(segment.last_sequence, segment.hash, text)
            previous = segment.hash
        self._note_removed(self._segments)

    def _note_removed(self, rows: list[SegmentRow]) -> None:
        signed = [signed_segment(self._all.verifier, row) for row in rows if row.removed]
        self._removed = [segment for segment in signed if isinstance(segment, Segment)]

    def _check_records(self) -> None:
        after, more = _BEFORE_ALL, True
        while more:
            with self._all.database.reading() as connection:
                rows = read_page(connection, self._number, after, PAGE)
                self._row = read_writer(connection, self._number) or self._row
                if not rows or rows[0].sequence != self._checker.sequence + 1:
                    # Retention may have removed records since the page before.
                    self._note_removed(read_segments(connection, self._number))
            more = len(rows) == PAGE
            for row in rows:
                if 1 <= row.sequence <= self._row.head_sequence:
                    self._feed(row)
                else:
                    self._add(Kind.INSERTED, row.sequence, "it is not one that the signed head of the chain covers")
                    # What comes after it is not covered either.
                    more = more and row.sequence < 1
            self._all.count(len(rows))
            more = more and rows[-1].sequence > after
            after = rows[-1].sequence if rows else after

    def _feed(self, row: ChainRow) -> None:
        if row.sequence > self._checker.sequence + 1:
            self._bridge(row.sequence - 1)
        self._checker.feed(row)

    def _bridge(self, last: int) -> None:
        """Go over what retention removed, as far as that explains why records are not there."""
        for segment in self._removed:
            here = self._checker.sequence + 1
            if not segment.first_sequence <= here <= segment.last_sequence <= last:
                continue
            if self._announced() < segment.last_sequence:
                self._all.checkpoints.read_on()
            if self._announced() < segment.last_sequence:
                text = "they are marked as removed by retention, and no signed checkpoint says that they were to be"
                self._checker.missing(segment.last_sequence, text)
            self._checker.skip_to(segment.last_sequence, segment.hash)

    def _announced(self) -> int:
        return self._all.checkpoints.checker.removed.get(self._number, 0)

    def _check_head(self) -> None:
        row, end = self._row, self._checker.sequence
        if min(row.head_sequence, row.head_time) < 0 or not self._all.verifier.good(
            row.head_signature, audit.head_statement(row.number, row.head_sequence, row.head_hash, row.head_time)
        ):
            text = "the signature of the chain's head is not of a key that is trusted"
            self._add(Kind.FORGED_HEAD, row.head_sequence, text)
        if end < row.head_sequence:
            text = "the head of the chain names it, and it is not there"
            self._add(Kind.TRUNCATED, end + 1, text, row.head_sequence)
        elif end == row.head_sequence and self._checker.hash != row.head_hash:
            text = (
                "the head of the chain has another hash: this record was changed, or others before it and it with them"
            )
            self._add(Kind.CHANGED, end, text)

    def _check_closing(self) -> None:
        if self._checker.last_action in ("", Action.WRITER_STOPPED):
            return
        end = self._checker.sequence
        if self._row.closed:
            text = "the writer had ended its chain, and the record that says so is not there"
            self._add(Kind.TRUNCATED, end + 1, text)
        elif self._row.seen_time < self._all.now - GONE:
            self._add(Kind.NOT_CLOSED, end, "its process ended without ending the chain: it was killed, or cut off")

    def _check_past(self, at_start: int) -> None:
        """Compare with how far the chain had once come."""
        end = self._checker.sequence
        if self._known_head is not None and self._known_head[0].sequence > end:
            head, by = self._known_head
            text = f"checkpoint {by.number} says that the chain had come to record {head.sequence}; now it ends before"
            time = audit.from_microseconds(by.time)
            self._all.findings.add(Finding(Kind.ROLLED_BACK, self._number, end + 1, text, time, head.sequence))
        elif at_start > self._row.head_sequence:
            self._add(Kind.ROLLED_BACK, end + 1, "it was there when this check began", at_start)
        if self._known_sealed > self._last_sealed:
            text = "a checkpoint says that it was sealed, and no segment is there"
            self._add(Kind.MISSING_SEGMENT, self._last_sealed + 1, text, self._known_sealed)

    def _add(self, kind: Kind, sequence: int, explanation: str, last: int | None = None) -> None:
        self._all.findings.add(Finding(kind, self._number, sequence, explanation, last=last))
