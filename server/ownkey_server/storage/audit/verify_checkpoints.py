"""The check of the checkpoints in a database, and of what they say of records."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ownkey_server.domain import audit
from ownkey_server.domain.audit_checkpoints import CheckpointChecker, KnownCheckpoint
from ownkey_server.domain.audit_documents import Checkpoint
from ownkey_server.domain.audit_findings import Finding, Findings, Kind
from ownkey_server.storage.audit.rows import as_bytes, as_int, read_checkpoints
from ownkey_server.storage.audit.signing import Verifier
from ownkey_server.storage.database import Database

PAGE = 200
# How many records are looked up at once: a statement of SQLite takes some thousands of values.
_LOOKUP = 400

_HASHES = sa.text("SELECT writer, sequence, hash FROM audit_records WHERE (writer, sequence) IN :places").bindparams(
    sa.bindparam("places", expanding=True)
)


class CheckpointPass:
    """Reads the checkpoints, all at first and later those that came since.

    Args:
        known: A checkpoint that an auditor kept, as it was printed.
        quick: Whether only the last signature of each page is checked, which covers the others by their hashes, and no
            record is looked up: for who needs what they say, and does not check the whole log.

    Attributes:
        checker: What they say together.
        count: How many were read.
    """

    def __init__(
        self,
        database: Database,
        verifier: Verifier,
        findings: Findings,
        *,
        known: bytes | None = None,
        quick: bool = False,
    ) -> None:
        self.checker = CheckpointChecker(verifier.good, findings)
        self.count = 0
        self._database = database
        self._findings = findings
        self._quick = quick
        self._known = KnownCheckpoint(known, verifier.good) if known is not None else None

    def run(self) -> None:
        """Check all of them, and that they reach as far as the one that an auditor kept."""
        self.read_on()
        if self._known is not None:
            self._known.require_reached(self.checker.number, self._findings)
            with self._database.reading() as connection:
                self._compare_heads(connection, [self._known.checkpoint])
            self.checker.learn(self._known.checkpoint)

    def read_on(self) -> None:
        """Check those that are new since the last time."""
        while True:
            with self._database.reading() as connection:
                rows = read_checkpoints(connection, self.checker.number, PAGE)
                signed = []
                for row in rows:
                    if row.number < 0:
                        continue  # SQLite lets a text be there; what it hides shows as a gap
                    signature = None if self._quick and row is not rows[-1] else row.signature
                    checkpoint = self.checker.feed(row.number, row.description, signature, row.time)
                    if checkpoint is not None:
                        signed.append(checkpoint)
                    if self._known is not None:
                        self._known.compare(row.number, row.description, self._findings)
                if not self._quick:
                    self._compare_heads(connection, signed)
            self.count += len(rows)
            if len(rows) < PAGE or rows[-1].number < 0:
                return

    def _compare_heads(self, connection: Connection, checkpoints: list[Checkpoint]) -> None:
        """Compare every head in these with the record that it names, where one is there; where not, the chain tells."""
        heads = [(head, checkpoint) for checkpoint in checkpoints for head in checkpoint.heads]
        for start in range(0, len(heads), _LOOKUP):
            part = heads[start : start + _LOOKUP]
            hashes = hashes_at(connection, [(head.writer, head.sequence) for head, _ in part])
            for head, checkpoint in part:
                if hashes.get((head.writer, head.sequence), head.hash) != head.hash:
                    text = f"checkpoint {checkpoint.number} is signed for another record in its place"
                    time = audit.from_microseconds(checkpoint.time)
                    self._findings.add(Finding(Kind.ROLLED_BACK, head.writer, head.sequence, text, time))


def hashes_at(connection: Connection, places: list[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
    """The hashes of the records at these places (writer and sequence), where there are any."""
    found = connection.execute(_HASHES, {"places": places})
    return {(as_int(writer), as_int(sequence)): as_bytes(digest) for writer, sequence, digest in found}
