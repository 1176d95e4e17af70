"""The audit trail as the services write it: durable before the answer leaves, and cheap by group commit.

Records that come while others are being written wait for these, and are then written together. A few at a time would
cost a durable commit each; so when several calls are under way, a batch waits a moment for its company.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from sqlalchemy.engine import Connection

from ownkey_server.domain.audit import SERVER, Action, AuditRecord, Result
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import AuditUnavailable, DatabaseUnavailable
from ownkey_server.storage.audit.writer import ChainBroken

T = TypeVar("T")

_log = logging.getLogger(__name__)

MAX_BATCH = 1000
MAX_BACKLOG = 10_000
# A batch of this many shows that calls come faster than commits: the next one waits for company.
CROWD = 4
LINGER_SECONDS = 0.005
# How long a call waits for its record before it fails.
PATIENCE_SECONDS = 5.0
RETRY_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.0)
SEEN_SECONDS = 20.0


class Writer(Protocol):
    """What writes records durably: :class:`ownkey_server.storage.audit.writer.AuditWriter`."""

    def write(self, records: Sequence[AuditRecord]) -> None:
        """Add records."""

    def write_with(self, work: Callable[[Connection], tuple[Sequence[AuditRecord], T]]) -> T:
        """Do work, and add its records in the same transaction."""

    def recover(self) -> bool:
        """Whether a transaction whose end was not seen is durable after all."""

    def start_anew(self, why: str) -> None:
        """Begin another chain after this one broke."""

    def seen(self) -> None:
        """Note that the writer lives."""

    def close(self) -> None:
        """End the chain."""


class AuditLog:
    """Makes records durable, many at a time. Belongs to one event loop.

    Args:
        writer: For uses of keys.
        changes: For administrative changes, each in the transaction that makes it; another chain, so that neither waits
            for the other.
        patience: Seconds that a call waits for its record.
        linger: Seconds that a batch waits for company when several calls are under way.
    """

    def __init__(
        self,
        writer: Writer,
        changes: Writer,
        clock: Clock,
        *,
        patience: float = PATIENCE_SECONDS,
        linger: float = LINGER_SECONDS,
    ) -> None:
        self._writer = writer
        self._changes = changes
        self._clock = clock
        self._patience = patience
        self._linger = linger
        self._waiting: deque[tuple[AuditRecord, asyncio.Future[None] | None]] = deque()
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "audit")
        self._changes_thread = ThreadPoolExecutor(1, "audit-changes")
        self._impaired = ""
        self._lost = 0
        self._closing = False
        self._in_hand = 0
        self._task: asyncio.Task[None] | None = None
        self._living: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin the chain: a server that cannot record does not start.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._writer.write, [])
        self._task = loop.create_task(self._run(), name="audit")
        writers = ((self._thread, self._writer), (self._changes_thread, self._changes))
        self._living = [loop.create_task(self._tell_life(*one), name="audit-life") for one in writers]

    @property
    def impaired(self) -> str:
        """Why nothing can be recorded at the moment; empty when it can."""
        return self._impaired

    def require_writable(self) -> None:
        """Refuse what could not be recorded, before any key is used for it.

        Raises:
            AuditUnavailable: Nothing can be recorded at the moment.
        """
        if self._impaired:
            raise AuditUnavailable(self._impaired)
        if len(self._waiting) >= MAX_BACKLOG:
            raise AuditUnavailable(f"{MAX_BACKLOG} records wait to be written")

    def record(self, record: AuditRecord) -> Awaitable[None]:
        """Wait until the record is durable.

        Raises:
            AuditUnavailable: It is not, or not known to be. It may still become so: the trail may say of more than was
                answered, never of less.
        """
        self.require_writable()
        record.to_bytes()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, future))
        self._wake.set()
        return future

    def note(self, record: AuditRecord) -> None:
        """Have the record written without waiting: for what must be answered whatever the state of the trail.

        When too many wait, it is counted instead, and the count is recorded.
        """
        if len(self._waiting) >= MAX_BACKLOG:
            self._lost += 1
            return
        record.to_bytes()
        self._waiting.append((record, None))
        self._wake.set()

    async def change(self, work: Callable[[Connection], tuple[Sequence[AuditRecord], T]]) -> T:
        """Make an administrative change and record it, in one transaction.

        Args:
            work: Makes the change, on another thread; gives what to record, and a result.

        Raises:
            OwnkeyError: Whatever ``work`` raises; nothing was changed then.
            DatabaseUnavailable: The database does not answer. If it fell silent at the very end, the change may have
                been made; its etag tells.
        """
        return await asyncio.get_running_loop().run_in_executor(self._changes_thread, self._change, work)

    async def close(self) -> None:
        """Write what waits, if that is possible within the patience, and end the chains."""
        self._closing = True
        self._wake.set()
        for living in self._living:
            living.cancel()
        if self._task is not None:
            done, _ = await asyncio.wait({self._task}, timeout=self._patience)
            if not done:
                self._task.cancel()
                await asyncio.wait({self._task})
                _log.error("%d audit records of failed calls were not written", self._in_hand + len(self._waiting))
        loop = asyncio.get_running_loop()
        for thread, writer in ((self._thread, self._writer), (self._changes_thread, self._changes)):
            try:
                await asyncio.wait_for(loop.run_in_executor(thread, writer.close), self._patience)
            except (DatabaseUnavailable, ChainBroken, TimeoutError) as error:
                _log.error("the audit chain was not ended: %s", error)
            thread.shutdown(wait=False)

    async def _run(self) -> None:
        crowded = False
        while True:
            if not self._waiting:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            if crowded and not self._closing:
                await asyncio.sleep(self._linger)
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))]
            crowded = len(batch) >= CROWD
            self._in_hand = len(batch)
            try:
                await self._make_durable(batch)
            except Exception:  # noqa: BLE001 - logged whole
                # A defect of ours must not leave callers waiting for ever, nor end the trail.
                _log.exception("the audit trail failed")
                self._impair(batch, "see the service's log")
            self._in_hand = 0

    async def _tell_life(self, thread: ThreadPoolExecutor, writer: Writer) -> None:
        """Say again and again that a chain has not ended, though nothing is written to it. Holds up nobody."""
        while True:
            await asyncio.sleep(SEEN_SECONDS)
            try:
                await asyncio.get_running_loop().run_in_executor(thread, writer.seen)
            except DatabaseUnavailable as error:
                _log.warning("the database does not answer: %s", error.cause)
            except Exception:  # noqa: BLE001 - logged whole
                _log.exception("a chain's life could not be told")

    async def _make_durable(self, batch: list[tuple[AuditRecord, asyncio.Future[None] | None]]) -> None:
        """Write one batch, however long it takes; its callers wait no longer than their patience."""
        records = [record for record, _ in batch]
        if self._lost:
            lost, self._lost = self._lost, 0
            detail = {"records": lost}
            records.append(AuditRecord(self._clock(), Action.RECORDS_LOST, Result.FAILED, SERVER, detail=detail))
        loop = asyncio.get_running_loop()
        writing = asyncio.ensure_future(loop.run_in_executor(self._thread, self._write, records))
        try:
            done, _ = await asyncio.wait({writing}, timeout=self._patience)
            if not done:
                self._impair(batch, "the database is too slow")
            for attempt in range(10**9):
                try:
                    await writing
                    break
                except DatabaseUnavailable as error:
                    self._impair(batch, "the database does not answer", error)
                except Exception:  # noqa: BLE001 - logged whole; the trail must go on
                    _log.exception("the audit trail could not be written")
                    self._impair(batch, "see the service's log")
                await asyncio.sleep(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
                writing = asyncio.ensure_future(loop.run_in_executor(self._thread, self._write_again, records))
        except asyncio.CancelledError:
            self._impair(batch, "the service is stopping")
            raise
        if self._impaired:
            _log.warning("the audit trail is written again")
            self._impaired = ""
        for _, future in batch:
            if future is not None and not future.done():
                future.set_result(None)

    def _impair(
        self,
        batch: list[tuple[AuditRecord, asyncio.Future[None] | None]],
        why: str,
        error: DatabaseUnavailable | None = None,
    ) -> None:
        """Fail everybody who waits. Their records are kept, for a key may have been used."""
        if not self._impaired:
            _log.error("no audit record can be written, so calls that need one fail: %s", error.cause if error else why)
        self._impaired = why
        for _, future in (*batch, *self._waiting):
            if future is not None and not future.done():
                future.set_exception(AuditUnavailable(why))
                future.exception()  # its caller may have gone; nobody need be told of that

    def _write(self, records: Sequence[AuditRecord]) -> None:
        try:
            self._writer.write(records)
        except ChainBroken as error:
            self._start_anew(self._writer, error)
            self._writer.write(records)

    def _write_again(self, records: Sequence[AuditRecord]) -> None:
        try:
            if self._writer.recover():
                return
        except ChainBroken as error:
            self._start_anew(self._writer, error)
        self._write(records)

    def _change(self, work: Callable[[Connection], tuple[Sequence[AuditRecord], T]]) -> T:
        results: list[T] = []

        def remembered(connection: Connection) -> tuple[Sequence[AuditRecord], T]:
            records, result = work(connection)
            results.append(result)
            return records, result

        try:
            self._changes.recover()
            return self._changes.write_with(remembered)
        except ChainBroken as error:
            self._start_anew(self._changes, error)
            return self._changes.write_with(remembered)
        except DatabaseUnavailable:
            # The connection may have broken after the change was made: then it is made.
            if results and self._changes.recover():
                return results[-1]
            raise

    def _start_anew(self, writer: Writer, error: ChainBroken) -> None:
        _log.critical("an audit chain is broken, and another begun: %s", error)
        writer.start_anew(str(error))
