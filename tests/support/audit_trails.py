"""Audit trails for tests: a database, writers whose clock the test moves, and plain SQL to tamper with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ownkey_server.domain.audit import Action, AuditRecord, Caller, Result
from ownkey_server.domain.audit_documents import signed_document
from ownkey_server.domain.audit_findings import Finding
from ownkey_server.storage import schema
from ownkey_server.storage.audit.keeper import AuditKeeper
from ownkey_server.storage.audit.signing import Signer
from ownkey_server.storage.audit.sink import Sink
from ownkey_server.storage.audit.verify import Report, verify
from ownkey_server.storage.audit.writer import AuditWriter
from ownkey_server.storage.database import Database

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TABLES = ("audit_records", "audit_writers", "audit_segments", "audit_checkpoints")


class Trail:
    """An audit trail, what writes it, and a hand that changes it behind its back."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        schema.METADATA.create_all(self.database.engine)
        self.signer = Signer(Ed25519PrivateKey.generate())
        self.now = START

    def clock(self) -> datetime:
        """The present time, as the test has it."""
        return self.now

    def after(self, **length: float) -> None:
        """Let time pass."""
        self.now += timedelta(**length)

    def writer(self, role: str = "calls") -> AuditWriter:
        """A writer; its number comes with its first record, which says that it was started."""
        return AuditWriter(self.database, self.signer, self.clock, role)

    def write(self, writer: AuditWriter, count: int, *, tenant: str = "acme") -> None:
        """Write records, each in its own time and transaction but for the last few together."""
        for number in range(count):
            self.after(seconds=1)
            writer.write([record(self.now, number, tenant)])

    def run(self, sql: str, **values: Any) -> None:
        """Change the database as whoever has its password can."""
        with self.database.writing() as connection:
            connection.execute(sa.text(sql), values)

    def rows(self, sql: str, **values: Any) -> list[Any]:
        """What a query gives."""
        with self.database.reading() as connection:
            return list(connection.execute(sa.text(sql), values))

    def empty(self) -> None:
        """Remove everything."""
        for table in TABLES:
            self.run(f"DELETE FROM {table}")

    def verify(self, known_checkpoint: bytes | None = None) -> Report:
        """Check it."""
        return verify(self.database, self.signer.verifier, known_checkpoint=known_checkpoint, clock=self.clock)

    def found(self, known_checkpoint: bytes | None = None) -> list[Finding]:
        """What a check finds wrong."""
        return [finding for finding in self.verify(known_checkpoint).findings if not finding.informational]


def record(time: datetime, number: int, tenant: str = "acme") -> AuditRecord:
    """A record, different for every number."""
    return AuditRecord(
        time,
        Action.UNWRAP if number % 3 else Action.GENERATE_DATA_KEY,
        Result.OK if number % 5 else Result.REFUSED,
        Caller("spiffe://provider/recorder", "127.0.0.1:5000", f"request-{number}"),
        tenant=tenant,
        key=f"tenants/{tenant}/keys/main",
        context={"asset": f'tëst "{number}"'},
        detail={"number": number},
    )


@contextlib.contextmanager
def trail(folder: Path, url: str = "") -> Iterator[Trail]:
    """An empty trail: in a new file of SQLite's, or in the database of that URL."""
    made = Trail(url or f"sqlite:///{folder / 'audit.db'}")
    made.empty()
    try:
        yield made
    finally:
        made.database.close()


def keeper(trail: Trail, sink: Sink | None = None, **changes: Any) -> AuditKeeper:
    """A keeper with segments of five records, and a checkpoint a minute."""
    settings: dict[str, Any] = {
        "checkpoint_interval": timedelta(minutes=1),
        "segment_records": 5,
        "segment_age": timedelta(hours=1),
    }
    database = changes.pop("database", trail.database)
    return AuditKeeper(database, trail.signer, trail.clock, sink, **(settings | changes))


def newest_checkpoint(trail: Trail) -> bytes:
    """What an auditor keeps."""
    (row,) = trail.rows("SELECT description, signature FROM audit_checkpoints ORDER BY number DESC LIMIT 1")
    return signed_document(bytes(row.description), bytes(row.signature))
