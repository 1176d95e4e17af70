"""The check of the whole audit trail in a database, while it is being written to, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ownkey_server.domain import audit
from ownkey_server.domain.audit import Action
from ownkey_server.domain.audit_findings import Finding, Findings, Kind
from ownkey_server.domain.clock import Clock, system_clock
from ownkey_server.storage.audit.rows import as_int, read_heads
from ownkey_server.storage.audit.signing import Verifier
from ownkey_server.storage.audit.verify_chain import ChainPass
from ownkey_server.storage.audit.verify_checkpoints import CheckpointPass, hashes_at
from ownkey_server.storage.database import Database

Progress = Callable[[int, int], None]

_STRAYS = sa.text(
    # Two ranges of the primary key: with OR, a database may read the whole table.
    "SELECT writer, min(sequence), max(sequence) FROM ("
    "SELECT writer, sequence FROM audit_records WHERE writer > :last"
    " UNION ALL SELECT writer, sequence FROM audit_records WHERE writer < 1"
    ") AS strays GROUP BY writer ORDER BY writer LIMIT 100"
)


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked, and what was found.

    Attributes:
        findings: What is wrong, and what is only to be known.
        omitted: How many more there are.
        ok: Whether nothing is wrong.
        records: How many records were read.
        checkpoint: The newest checkpoint; 0 for none.
        checkpoint_time: When it was made.
    """

    findings: tuple[Finding, ...]
    omitted: int
    ok: bool
    writers: int
    records: int
    segments: int
    checkpoints: int
    checkpoint: int
    checkpoint_time: datetime | None


def no_progress(_done: int, _about: int) -> None:
    """Tell nobody."""


def verify(
    database: Database,
    verifier: Verifier,
    *,
    progress: Progress = no_progress,
    known_checkpoint: bytes | None = None,
    clock: Clock = system_clock,
) -> Report:
    """Check every record, head, segment and checkpoint.

    Args:
        database: Where the log is.
        verifier: The public keys that are trusted.
        progress: Called now and then with the records checked, and about how many there are.
        known_checkpoint: What ``ownkey audit checkpoint`` printed once: the log must hold it, and all that it covers.
        clock: The time, to tell which writers are gone.

    Raises:
        DatabaseUnavailable: It does not answer.
        DocumentInvalid: The known checkpoint is none, or not signed by a key that is trusted.
    """
    return _Verification(database, verifier, progress, known_checkpoint, clock).run()


class _Verification:
    def __init__(
        self, database: Database, verifier: Verifier, progress: Progress, known: bytes | None, clock: Clock
    ) -> None:
        self._database = database
        self._progress = progress
        self._findings = Findings()
        self._checkpoints = CheckpointPass(database, verifier, self._findings, known=known)
        self._chains = ChainPass(
            database, verifier, self._findings, self._checkpoints, self._count, self._event, audit.microseconds(clock())
        )
        self._records = 0
        self._about = 0
        self._broken: list[tuple[int, int, Mapping[str, Any]]] = []

    def run(self) -> Report:
        with self._database.reading() as connection:
            heads = read_heads(connection)
        self._about = sum(max(sequence, 0) for sequence in heads.values())
        self._checkpoints.run()
        self._check_numbers(sorted(heads))
        for number, head_sequence in sorted(heads.items()):
            if number > 0:
                self._chains.check(number, head_sequence)
        self._find_strays(max(heads, default=0))
        self._compare_broken()
        checkpoints = self._checkpoints.checker
        return Report(
            findings=tuple(sorted(self._findings, key=lambda finding: (finding.writer, finding.sequence))),
            omitted=self._findings.omitted,
            ok=not self._findings.bad,
            writers=len(heads),
            records=self._records,
            segments=self._chains.segments,
            checkpoints=self._checkpoints.count,
            checkpoint=checkpoints.number,
            checkpoint_time=checkpoints.time,
        )

    def _count(self, records: int) -> None:
        self._records += records
        self._progress(self._records, max(self._about, self._records))

    def _event(self, writer: int, sequence: int, fields: Mapping[str, Any]) -> None:
        """Note what the service itself recorded about its trail."""
        detail = fields.get("detail")
        if not isinstance(detail, dict):
            return  # nothing that the service writes: the chain's own check tells, or a signature is forged
        if fields.get("action") == Action.CHAIN_BROKEN:
            self._broken.append((writer, sequence, detail))
        elif fields.get("action") == Action.RECORDS_LOST:
            text = f"the service could not record {detail.get('records')} answers that it had to give all the same"
            self._findings.add(Finding(Kind.RECORDS_LOST, writer, sequence, text))

    def _check_numbers(self, numbers: list[int]) -> None:
        """Writers are numbered from 1 without a gap, and checkpoints say how far."""
        expected = 1
        for number in [*numbers, max(self._checkpoints.checker.writers, *numbers, 0) + 1]:
            if number < 1:
                self._findings.add(Finding(Kind.INSERTED, number, 1, "no writer has such a number"))
                continue
            if number > expected:
                text = "it is not there with any of its records, and numbers of writers have no gaps"
                self._findings.add(Finding(Kind.MISSING_WRITER, expected, 1, text, last=number - 1))
            expected = number + 1

    def _find_strays(self, last: int) -> None:
        """Records of a writer that is not there, and did not come to be there while the check ran."""
        with self._database.reading() as connection:
            last = max([last, *read_heads(connection)])
            rows = connection.execute(_STRAYS, {"last": last}).all()
        for writer, first, end in rows:
            text = "it is a record of a writer that is not there"
            self._findings.add(Finding(Kind.INSERTED, as_int(writer), as_int(first), text, last=as_int(end)))

    def _compare_broken(self) -> None:
        """Compare what writers recorded of chains that they found changed with what is there now."""
        for writer, sequence, detail in self._broken:
            place = as_int(detail.get("writer")), as_int(detail.get("sequence"))
            if max(map(abs, place)) >= 1 << 63:
                continue
            with self._database.reading() as connection:
                found = hashes_at(connection, [place]).get(place)
            if found is not None and found.hex() == detail.get("hash"):
                text = f"its process found the chain of writer {place[0]} changed after record {place[1]}"
                self._findings.add(Finding(Kind.CHAIN_BROKEN, writer, sequence, text))
            elif place[1] > self._checkpoints.checker.removed.get(place[0], 0):
                there = "another record is" if found is not None else "no record is"
                text = f"record {sequence} of writer {writer} says that it had been written; {there} there now"
                self._findings.add(Finding(Kind.ROLLED_BACK, *place, text))
