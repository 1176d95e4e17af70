"""The audit trail, read by those who may."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ownkey_server.service.administration.desk import Desk
from ownkey_server.storage.audit.export import Cursor, cursor, read_records
from ownkey_server.storage.database import Database


@dataclass(frozen=True, slots=True)
class AuditRow:
    """A record as it is stored."""

    cursor: Cursor
    body: bytes
    hash: bytes


class AuditTrail:
    """Reads records in the order of their times."""

    def __init__(self, desk: Desk, database: Database) -> None:
        self._desk = desk
        self._database = database

    async def list(
        self, tenant: str, start: datetime | None, end: datetime | None, after: tuple[int, int, int] | None, limit: int
    ) -> list[AuditRow]:
        """The next records.

        Args:
            tenant: Whose; empty means everybody's.
            start: From then on.
            end: Before then.
            after: Only what stands after this record.
            limit: At most so many.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """

        def question() -> list[AuditRow]:
            rows = read_records(self._database, tenant=tenant or None, start=start, end=end, after=after, limit=limit)
            return [AuditRow(cursor(row), row.body, row.hash) for row in rows]

        return await self._desk.on_thread(question)
