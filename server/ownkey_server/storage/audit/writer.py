"""One chain of audit records, written in transactions that are durable when they return.

A writer is one process, or one part of it. It alone adds to its chain, so that it needs no lock, and knows what the
database must hold: when that is something else, the chain is broken, and it says so in a new one.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

import ownkey
from ownkey_server.domain import audit
from ownkey_server.domain.audit import SERVER, Action, AuditRecord, Result
from ownkey_server.domain.clock import Clock
from ownkey_server.storage.audit.signing import Signer, SigningKeyError
from ownkey_server.storage.database import Database
from ownkey_server.storage.schema import AUDIT_RECORDS, AUDIT_SEGMENTS, AUDIT_WRITERS

T = TypeVar("T")

# Any number, the same for all instances.
_START_LOCK = 0x77726974
_INSERT_SQLITE = "INSERT INTO audit_records (writer, sequence, time, tenant, body, hash) VALUES (?, ?, ?, ?, ?, ?)"
_INSERT_POSTGRESQL = (
    "INSERT INTO audit_records (writer, sequence, time, tenant, body, hash) SELECT * FROM"
    " unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::bytea[], %s::bytea[])"
)


class ChainBroken(Exception):
    """The database does not hold what this writer has written. Somebody changed it, or an old copy was restored."""


@dataclass(frozen=True, slots=True)
class Head:
    """How far a chain has come: the number and the hash of its last record."""

    sequence: int
    hash: bytes


def require_known_signer(database: Database, fingerprints: frozenset[str]) -> None:
    """Make sure that the trail's newest chain was signed by a key that is known here.

    Instances that sign with keys of their own would leave a trail that nobody verifies by one key.

    Raises:
        SigningKeyError: It was not. The message says what to do.
        DatabaseUnavailable: The database does not answer.
    """
    newest = sa.select(AUDIT_WRITERS.c.description).order_by(AUDIT_WRITERS.c.number.desc()).limit(1)
    with database.reading() as connection:
        description = connection.execute(newest).scalar_one_or_none()
    if description is None:
        return
    try:
        other = str(json.loads(description)["signing_key"])
    except (ValueError, TypeError, KeyError):
        raise SigningKeyError(
            f"{database.place}: the newest writer of the audit trail is no writer of ours: see ownkey audit verify"
        ) from None
    if other not in fingerprints:
        raise SigningKeyError(
            f"{database.place}: the audit trail is signed by another key ({other[:16]}...) than this instance has: copy"
            f" that key here; or, if it was replaced on purpose, name its public half in audit.public_key_files"
        )


class AuditWriter:
    """Writes one chain. Not thread-safe: one thread at a time.

    Args:
        role: What of this process writes it, for whoever reads the trail.
        revision: Gives the number of the last administrative change that is in force in this process; a chain begins
            with it, so that whoever reads the trail knows what was in force before the chain's first use of a key.
    """

    def __init__(
        self, database: Database, signer: Signer, clock: Clock, role: str, revision: Callable[[], int] | None = None
    ) -> None:
        self._revision = revision
        self._database = database
        self._signer = signer
        self._clock = clock
        self._role = role
        self._number = 0
        self._head = Head(0, b"")
        # What a transaction whose end we did not see would have made of the head.
        self._perhaps: Head | None = None
        # What the next chain must begin with.
        self._owed: list[AuditRecord] = []

    @property
    def number(self) -> int:
        """The writer's number; 0 before its first record."""
        return self._number

    def write(self, records: Sequence[AuditRecord]) -> None:
        """Add records. They are durable when this returns.

        Raises:
            DatabaseUnavailable: They may be durable or not; :meth:`recover` tells.
            ChainBroken: The chain cannot go on; :meth:`start_anew` begins another.
        """
        self.write_with(lambda _: (records, None))

    def write_with(self, work: Callable[[Connection], tuple[Sequence[AuditRecord], T]]) -> T:
        """Do work in a transaction, and add its records in the same: both are durable when this returns, or neither.

        Raises:
            DatabaseUnavailable: As :meth:`write`.
            ChainBroken: As :meth:`write`.
            OwnkeyError: Whatever ``work`` raises; nothing was changed then.
        """
        if not self._number:
            self._start()
        with self._database.writing() as connection:
            records, result = work(connection)
            head = self._append(connection, records)
            self._perhaps = head
        self._head, self._perhaps = head, None
        return result

    def recover(self) -> bool:
        """After :class:`DatabaseUnavailable`: whether the transaction is durable after all.

        Raises:
            DatabaseUnavailable: It cannot be told yet.
            ChainBroken: The database holds neither the chain with it nor the chain without.
        """
        if self._perhaps is None:
            return False
        # For update: a transaction whose end we did not see may still be under way, and holds this row until it ends.
        query = sa.select(AUDIT_WRITERS).where(AUDIT_WRITERS.c.number == self._number).with_for_update()
        with self._database.writing() as connection:
            row = connection.execute(query).one_or_none()
        found = Head(row.head_sequence, row.head_hash) if row else None
        if found not in (self._head, self._perhaps):
            raise ChainBroken(self._difference(found))
        durable = found == self._perhaps
        if durable:
            self._head = self._perhaps
        self._perhaps = None
        return durable

    def start_anew(self, why: str) -> None:
        """Begin another chain, whose first records say what became of this one."""
        broken, at = self._number, self._head.sequence
        self._number, self._perhaps = 0, None
        detail = {"writer": broken, "sequence": at, "hash": self._head.hash.hex(), "why": why}
        # Owed until it is durable: a failure at this very moment must not make the next chain an ordinary one.
        self._owed = [AuditRecord(self._clock(), Action.CHAIN_BROKEN, Result.FAILED, SERVER, detail=detail)]
        self.write([])

    def seen(self) -> None:
        """Note that this writer lives, so that nobody seals its chain."""
        if self._number:
            now = audit.microseconds(self._clock())
            with self._database.writing() as connection:
                connection.execute(
                    sa.update(AUDIT_WRITERS).where(AUDIT_WRITERS.c.number == self._number).values(seen_time=now)
                )

    def close(self) -> None:
        """End the chain with a record that says so: what ends without one was cut off, or its process was."""
        if self._number:
            self.write([AuditRecord(self._clock(), Action.WRITER_STOPPED, Result.OK, SERVER)])
            with self._database.writing() as connection:
                connection.execute(
                    sa.update(AUDIT_WRITERS).where(AUDIT_WRITERS.c.number == self._number).values(closed=True)
                )

    def _start(self) -> None:
        """Take the next number. Numbers have no gaps, so that a writer that was removed leaves one."""
        now = self._clock()
        description: dict[str, object] = {
            "host": platform.node(),
            "process": os.getpid(),
            "role": self._role,
            "start_time": audit.timestamp(now),
            "version": ownkey.__version__,
            "signing_key": self._signer.fingerprint,
        }
        if self._revision is not None:
            description["revision"] = self._revision()
        started = AuditRecord(now, Action.WRITER_STARTED, Result.OK, SERVER, detail=description)
        try:
            with self._database.writing() as connection:
                self._number, self._head = self._register(connection, now, description)
                head = self._append(connection, [started, *self._owed])
        except BaseException:
            # If it became durable after all, a chain of one record is left, which harms nobody.
            self._number = 0
            raise
        self._head, self._owed = head, []

    def _register(self, connection: Connection, now: datetime, description: Mapping[str, object]) -> tuple[int, Head]:
        if not self._database.is_sqlite:
            # Not the table: who waits for that would hold up every writer behind it.
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _START_LOCK})
        # Records and segments count too: if somebody removed their writers, their numbers must not be taken anew.
        columns = (AUDIT_WRITERS.c.number, AUDIT_RECORDS.c.writer, AUDIT_SEGMENTS.c.writer)
        taken = [connection.execute(sa.select(sa.func.max(column))).scalar() for column in columns]
        number = max(int(last or 0) for last in taken) + 1
        described = audit.canonical({"writer": number, **description})
        head = Head(0, audit.genesis(described))
        time = audit.microseconds(now)
        connection.execute(
            sa.insert(AUDIT_WRITERS).values(
                number=number,
                description=described,
                head_sequence=0,
                head_hash=head.hash,
                head_time=time,
                head_signature=self._signer.sign(audit.head_statement(number, 0, head.hash, time)),
                seen_time=time,
                closed=False,
            )
        )
        return number, head

    def _append(self, connection: Connection, records: Sequence[AuditRecord]) -> Head:
        """Add the records and move the head; raises when the head is not where this writer left it."""
        sequence, previous = self._head.sequence, self._head.hash
        rows = []
        for record in records:
            sequence += 1
            body = record.to_bytes()
            previous = audit.chained(previous, self._number, sequence, body)
            rows.append((self._number, sequence, audit.microseconds(record.time), record.tenant, body, previous))
        if rows:
            try:
                if self._database.is_sqlite:
                    connection.exec_driver_sql(_INSERT_SQLITE, rows)
                else:
                    columns = tuple(list(column) for column in zip(*rows, strict=True))
                    connection.exec_driver_sql(_INSERT_POSTGRESQL, columns)
            except exc.IntegrityError as error:
                raise ChainBroken(f"somebody else wrote records of writer {self._number}") from error
        now = audit.microseconds(self._clock())
        moved = connection.execute(
            _MOVE_HEAD,
            {
                "writer": self._number,
                "old": self._head.sequence,
                "old_hash": self._head.hash,
                "new": sequence,
                "new_hash": previous,
                "now": now,
                "signature": self._signer.sign(audit.head_statement(self._number, sequence, previous, now)),
            },
        )
        if moved.rowcount != 1:
            raise ChainBroken(self._difference(None))
        return Head(sequence, previous)

    def _difference(self, found: Head | None) -> str:
        there = f"record {found.sequence}" if found else "no such record"
        return f"writer {self._number} left its chain at record {self._head.sequence}, and the database has {there}"


_MOVE_HEAD = sa.text(
    "UPDATE audit_writers SET head_sequence = :new, head_hash = :new_hash, head_time = :now, seen_time = :now,"
    " head_signature = :signature WHERE number = :writer AND head_sequence = :old AND head_hash = :old_hash"
)
