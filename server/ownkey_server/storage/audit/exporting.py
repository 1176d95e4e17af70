"""Copying sealed segments and checkpoints into the sink."""

from __future__ import annotations

import hashlib

import sqlalchemy as sa

from ownkey_server.domain.audit_chain import ChainChecker, ChainRow
from ownkey_server.domain.audit_documents import Checkpoint, DocumentInvalid, Segment, line, signed_document
from ownkey_server.domain.audit_findings import Finding, Findings, Kind
from ownkey_server.storage.audit.rows import as_bytes, as_int, read_page, read_segment
from ownkey_server.storage.audit.signing import Verifier
from ownkey_server.storage.audit.sink import Sink
from ownkey_server.storage.audit.verify_chain import PAGE, signed_segment
from ownkey_server.storage.database import Database

_WAITING_SEGMENTS = sa.text(
    "SELECT writer, first_sequence FROM audit_segments WHERE NOT exported ORDER BY writer, first_sequence"
)
_WAITING_CHECKPOINTS = sa.text(
    "SELECT number, description, signature FROM audit_checkpoints WHERE NOT exported ORDER BY number LIMIT 100"
)
_SEGMENT_DONE = sa.text("UPDATE audit_segments SET exported = true WHERE writer = :writer AND first_sequence = :first")
_CHECKPOINT_DONE = sa.text("UPDATE audit_checkpoints SET exported = true WHERE number = :number")


class Exporter:
    """Copies what is not yet there. A file may be put twice, and none is forgotten: each is marked when it is there.

    Attributes:
        copied: How many segments and checkpoints were copied so far.
    """

    def __init__(self, database: Database, verifier: Verifier, sink: Sink) -> None:
        self._database = database
        self._verifier = verifier
        self._sink = sink
        self.copied = 0

    def export(self, findings: Findings) -> None:
        """Copy segments first, then checkpoints: so that a checkpoint there finds all that it says was sealed.

        Args:
            findings: Where what is wrong goes. What is wrong is not copied, and no checkpoint after it.

        Raises:
            SinkError: The sink does not take them.
            DatabaseUnavailable: The database does not answer.
        """
        with self._database.reading() as connection:
            waiting = [(as_int(writer), as_int(first)) for writer, first in connection.execute(_WAITING_SEGMENTS)]
        done = [self._export_segment(writer, first, findings) for writer, first in waiting]
        if all(done):
            self._export_checkpoints(findings)

    def _export_segment(self, writer: int, first: int, findings: Findings) -> bool:
        with self._database.reading() as connection:
            row = read_segment(connection, writer, first)
            rows: list[ChainRow] = []
            after = first - 1
            while row is not None and not row.removed and after < row.last_sequence:
                page = read_page(connection, writer, after, min(PAGE, row.last_sequence - after))
                rows += [each for each in page if each.sequence <= row.last_sequence]
                if not page:
                    break
                after = page[-1].sequence
        if row is None:
            return True
        segment = signed_segment(self._verifier, row)
        if isinstance(segment, str):
            findings.add(Finding(Kind.FORGED_SEGMENT, writer, first, segment, last=row.last_sequence))
            return False
        # What retention removed before there was a sink is gone; its description still ties the chain together.
        if not row.removed and not self._put_records(segment, rows, findings):
            return False
        self._sink.put(f"{segment.name}.json", signed_document(row.description, row.signature))
        self._mark(_SEGMENT_DONE, writer=writer, first=first)
        self.copied += 1
        return True

    def _put_records(self, segment: Segment, rows: list[ChainRow], findings: Findings) -> bool:
        content = b"".join(map(line, rows))
        if hashlib.sha256(content).digest() == segment.file_sha256:
            self._sink.put(f"{segment.name}.jsonl", content)
            return True
        checker = ChainChecker(segment.writer, segment.first_sequence - 1, segment.previous, findings)
        checker.expect(segment.last_sequence, segment.hash, "the segment is signed for another in its place")
        for row in rows:
            checker.feed(row)
        if checker.sequence < segment.last_sequence:
            checker.missing(segment.last_sequence, "a signed segment covers it, and it is not there")
        return False

    def _export_checkpoints(self, findings: Findings) -> None:
        while True:
            with self._database.reading() as connection:
                rows = connection.execute(_WAITING_CHECKPOINTS).all()
            for row in rows:
                description = as_bytes(row.description)
                try:
                    name = Checkpoint.from_bytes(description).name
                except DocumentInvalid as error:
                    text = f"it {error}"
                    findings.add(Finding(Kind.FORGED_CHECKPOINT, 0, as_int(row.number), text))
                    return
                self._sink.put(f"{name}.json", signed_document(description, as_bytes(row.signature)))
                self._mark(_CHECKPOINT_DONE, number=row.number)
                self.copied += 1
            if not rows:
                return

    def _mark(self, statement: sa.TextClause, **values: int) -> None:
        with self._database.writing() as connection:
            connection.execute(statement, values)
