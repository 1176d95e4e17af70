"""What looks after the audit trail, every few seconds, one instance at a time: seals, signs, copies and removes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from ownkey_server.domain import audit
from ownkey_server.domain.audit_findings import Finding, Findings
from ownkey_server.domain.clock import Clock
from ownkey_server.storage.audit.checkpointing import Checkpointer
from ownkey_server.storage.audit.exporting import Exporter
from ownkey_server.storage.audit.retention import Retention
from ownkey_server.storage.audit.sealing import Sealer, SealingRules
from ownkey_server.storage.audit.signing import Signer, Verifier
from ownkey_server.storage.audit.sink import Sink, SinkError
from ownkey_server.storage.database import Database

_log = logging.getLogger(__name__)

# Any number, the same for all instances.
_LOCK = 0x6B656570
_TRY_LOCK = sa.text("SELECT pg_try_advisory_lock(:lock)")
_UNLOCK = sa.text("SELECT pg_advisory_unlock(:lock)")
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Kept:
    """What one round did.

    Attributes:
        elsewhere: Whether another instance was at it, and this one did nothing.
        checkpoints: How many were made.
        segments: How many were sealed.
        exported: How many segments and checkpoints were copied to the sink.
        removed_segments: How many segments' records retention removed.
        removed_records: How many records these were.
        findings: What is wrong with the log. It was neither sealed nor copied nor removed.
        problem: Why the sink does not take files; empty when it does.
    """

    elsewhere: bool = False
    checkpoints: int = 0
    segments: int = 0
    exported: int = 0
    removed_segments: int = 0
    removed_records: int = 0
    findings: tuple[Finding, ...] = ()
    problem: str = ""


class AuditKeeper:
    """Seals, signs, copies and removes what is due. Not thread-safe: one thread at a time.

    Each step is a transaction of its own and can be done again: a keeper that dies half way loses and repeats nothing.
    On PostgreSQL a round holds one connection all the time, and takes a second one for its steps.

    Args:
        sink: Where sealed segments and checkpoints are copied to.
        verifier: The public keys that are trusted, the signer's among them; the signer's alone by default.
        checkpoint_interval: How far apart checkpoints are, when there is something new.
        segment_records: How many records are sealed together.
        segment_age: After how long fewer are sealed.
        retention: How old records become; None for ever.
        guarded: Whether less than what was agreed does not count (``retention_agreement.py``).
    """

    def __init__(
        self,
        database: Database,
        signer: Signer,
        clock: Clock,
        sink: Sink | None = None,
        *,
        verifier: Verifier | None = None,
        checkpoint_interval: timedelta,
        segment_records: int = 10_000,
        segment_age: timedelta,
        retention: timedelta | None = None,
        guarded: bool = False,
    ) -> None:
        self._database = database
        self._clock = clock
        verifier = verifier or signer.verifier
        self._checkpointer = Checkpointer(database, signer, verifier, checkpoint_interval // _MICROSECOND)
        rules = SealingRules(segment_records, segment_age // _MICROSECOND)
        self._sealer = Sealer(database, signer, verifier, rules, self._checkpointer.known)
        self._exporter = Exporter(database, verifier, sink) if sink is not None else None
        self._retention = None
        if retention is not None:
            age = retention // _MICROSECOND
            self._retention = Retention(database, verifier, age, exported_only=sink is not None, guarded=guarded)

    def keep(self) -> Kept:
        """Do one round.

        Raises:
            DatabaseUnavailable: The database does not answer. What was done until then is done.
        """
        with self._alone() as alone:
            return self._round() if alone else Kept(elsewhere=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other instance is at it. SQLite needs no lock: it has one writer at a time, and steps check."""
        if self._database.is_sqlite:
            yield True
            return
        # A lock of the session and no transaction: that would be ended for idling while files are copied.
        with self._database.session() as connection:
            alone = bool(connection.execute(_TRY_LOCK, {"lock": _LOCK}).scalar())
            try:
                yield alone
            finally:
                if alone:
                    connection.execute(_UNLOCK, {"lock": _LOCK})

    def _round(self) -> Kept:
        now = audit.microseconds(self._clock())
        findings = Findings()
        self._checkpointer.read_on(findings)
        segments = sum(self._sealer.seal(number, now, findings) for number in self._sealer.unsealed())
        checkpoints = int(self._checkpointer.make(now, findings))
        copied_before = self._exporter.copied if self._exporter is not None else 0
        problem = self._export(findings)
        removed_segments, removed_records, announced = self._remove(now, findings)
        if announced and not problem:
            problem = self._export(findings)
        for finding in findings:
            if not finding.informational:
                _log.critical("the audit log was changed: %s: %s: %s", finding.place, finding.kind, finding.explanation)
        return Kept(
            checkpoints=checkpoints + announced,
            segments=segments,
            exported=self._exporter.copied - copied_before if self._exporter is not None else 0,
            removed_segments=removed_segments,
            removed_records=removed_records,
            findings=tuple(findings),
            problem=problem,
        )

    def _export(self, findings: Findings) -> str:
        """Copy what waits; gives what the sink has against it."""
        if self._exporter is not None:
            try:
                self._exporter.export(findings)
            except SinkError as error:
                _log.error("the audit log is not copied to its sink: %s", error)
                return str(error)
        return ""

    def _remove(self, now: int, findings: Findings) -> tuple[int, int, int]:
        """Remove what is too old; gives how many segments and records, and how many checkpoints that took."""
        due = self._retention.due(now, findings) if self._retention is not None else []
        if self._retention is None or not due:
            return 0, 0, 0
        upto = {segment.writer: segment.last_sequence for segment in due}
        announced = 0
        if any(sequence > self._checkpointer.known.removed.get(writer, 0) for writer, sequence in upto.items()):
            announced = int(self._checkpointer.make(now, findings, upto))
        segments = records = 0
        for segment in due:
            if segment.last_sequence <= self._checkpointer.known.removed.get(segment.writer, 0):
                records += self._retention.remove(segment)
                segments += 1
        return segments, records, announced
