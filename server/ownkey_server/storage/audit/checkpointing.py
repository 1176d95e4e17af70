"""Making checkpoints: signed statements of how far every chain has come, each bound to the one before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ownkey_server.domain import audit
from ownkey_server.domain.audit_checkpoints import CheckpointChecker
from ownkey_server.domain.audit_documents import NO_CHECKPOINT, Checkpoint, Mark, SignedHead
from ownkey_server.domain.audit_findings import Finding, Findings, Kind
from ownkey_server.storage.audit.rows import (
    CheckpointRow,
    as_bytes,
    as_int,
    read_newest_checkpoint,
    read_segments,
)
from ownkey_server.storage.audit.signing import Signer, Verifier
from ownkey_server.storage.audit.verify_chain import signed_segment
from ownkey_server.storage.audit.verify_checkpoints import CheckpointPass
from ownkey_server.storage.database import Database
from ownkey_server.storage.schema import AUDIT_CHECKPOINTS

_HEADS = sa.text(
    "SELECT number, head_sequence, head_hash, head_time, head_signature FROM audit_writers ORDER BY number"
)
_SEALED = sa.text("SELECT writer, max(last_sequence) FROM audit_segments GROUP BY writer ORDER BY writer")


class Checkpointer:
    """Makes checkpoints, and remembers what they say: a log that was rolled back since is not signed again.

    Args:
        signer: Signs them.
        verifier: The public keys that are trusted for what is there already.
        interval: How far apart they are at least, in microseconds.
    """

    def __init__(self, database: Database, signer: Signer, verifier: Verifier, interval: int) -> None:
        self._database = database
        self._signer = signer
        self._verifier = verifier
        self._interval = interval
        self._findings = Findings()
        self._read = CheckpointPass(database, verifier, self._findings, quick=True)

    @property
    def known(self) -> CheckpointChecker:
        """What the checkpoints say together."""
        return self._read.checker

    def read_on(self, findings: Findings) -> None:
        """Take in the checkpoints that were made since.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        self._read.read_on()
        for finding in self._findings:
            findings.add(finding)

    def make(self, now: int, findings: Findings, removed: Mapping[int, int] | None = None) -> bool:
        """Make one, if it is time and there is something new to say; gives whether it was made.

        Args:
            now: Microseconds since 1970.
            findings: Where what is wrong goes. What is wrong is not signed.
            removed: Up to where retention is about to remove each writer's records: these are signed at once.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        if any(finding.writer == 0 for finding in self._findings):
            return False
        with self._database.writing() as connection:
            newest = read_newest_checkpoint(connection)
            if not self._is_known(newest, findings):
                return False
            if newest is not None and not removed and now < newest.time + self._interval:
                return False
            checkpoint = self._describe(connection, now, findings, removed or {})
            if not (checkpoint.heads or checkpoint.sealed or checkpoint.removed):
                return False
            description = checkpoint.to_bytes()
            connection.execute(
                sa.insert(AUDIT_CHECKPOINTS).values(
                    number=checkpoint.number,
                    time=checkpoint.time,
                    description=description,
                    signature=self._signer.sign(audit.checkpoint_statement(description)),
                    exported=False,
                )
            )
        self._read.read_on()
        return True

    def _is_known(self, newest: CheckpointRow | None, findings: Findings) -> bool:
        number = newest.number if newest is not None else 0
        digest = hashlib.sha256(newest.description).digest() if newest is not None else NO_CHECKPOINT
        if (number, digest) == (self.known.number, self.known.digest):
            return True
        if number < self.known.number:
            text = "this process has seen it, and it is not there: the log was rolled back"
            findings.add(Finding(Kind.ROLLED_BACK, 0, number + 1, text, last=self.known.number))
        elif number == self.known.number:
            findings.add(Finding(Kind.FORGED_CHECKPOINT, 0, number, "it is not the one that this process has seen"))
        # A later one: another instance made it this moment, and the next round knows it.
        return False

    def _describe(self, connection: Connection, now: int, findings: Findings, removed: Mapping[int, int]) -> Checkpoint:
        heads, last = [], 0
        for row in connection.execute(_HEADS):
            number = as_int(row.number)
            last = max(last, number)
            head = SignedHead(number, as_int(row.head_sequence), as_bytes(row.head_hash))
            known = self.known.heads.get(number)
            if known is not None and known[0] == head:
                continue
            wrong = self._wrong_head(head, as_int(row.head_time), as_bytes(row.head_signature))
            if wrong is None:
                heads.append(head)
            else:
                findings.add(wrong)
        if last < self.known.writers:
            text = "a checkpoint counts it, and it is not there"
            findings.add(Finding(Kind.MISSING_WRITER, last + 1, 1, text, last=self.known.writers))
        return Checkpoint(
            number=self.known.number + 1,
            time=now,
            previous=self.known.digest,
            writers=max(last, self.known.writers),
            heads=tuple(heads),
            sealed=tuple(self._newly_sealed(connection, findings)),
            removed=tuple(
                Mark(writer, sequence)
                for writer, sequence in sorted(removed.items())
                if sequence > self.known.removed.get(writer, 0)
            ),
        )

    def _wrong_head(self, head: SignedHead, time: int, signature: bytes) -> Finding | None:
        number, sequence = head.writer, head.sequence
        if min(number, sequence, time) < 0 or not self._verifier.good(
            signature, audit.head_statement(number, sequence, head.hash, time)
        ):
            text = "the signature of the chain's head is not of a key that is trusted"
            return Finding(Kind.FORGED_HEAD, number, sequence, text)
        known = self.known.heads.get(number)
        if known is None or known[0].sequence < sequence:
            return None
        before, by = known
        if before.sequence == sequence:
            text = f"checkpoint {by.number} is signed for another record in its place"
            return Finding(Kind.ROLLED_BACK, number, sequence, text)
        text = f"checkpoint {by.number} says that the chain had come to record {before.sequence}; now it ends before"
        return Finding(Kind.ROLLED_BACK, number, sequence + 1, text, last=before.sequence)

    def _newly_sealed(self, connection: Connection, findings: Findings) -> list[Mark]:
        marks = []
        for writer, last in connection.execute(_SEALED).all():
            known = self.known.sealed.get(as_int(writer), 0)
            if as_int(last) <= known:
                continue
            row = read_segments(connection, as_int(writer))[-1]
            segment = signed_segment(self._verifier, row)
            if isinstance(segment, str):
                findings.add(Finding(Kind.FORGED_SEGMENT, row.writer, row.first_sequence, segment))
            elif segment.last_sequence > known:
                marks.append(Mark(segment.writer, segment.last_sequence))
        return marks
