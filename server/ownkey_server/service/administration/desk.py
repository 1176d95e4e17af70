"""How every administrative act is done: on another thread, in one transaction with its audit record."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from ownkey_server.domain import approvals as agreements
from ownkey_server.domain.approvals import Danger, Effect
from ownkey_server.domain.audit import AuditRecord, Caller, Result, microseconds
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import ApprovalInvalid, ApprovalRequired, InvalidRequest, OwnkeyError, TooManyWaiting
from ownkey_server.domain.notifications import Notice
from ownkey_server.domain.roles import Grant
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.directory import Directory
from ownkey_server.service.roster import Roster
from ownkey_server.storage import approvals, outbox
from ownkey_server.storage.database import Database
from ownkey_server.storage.records import ApprovalRecord
from ownkey_server.storage.registry import Change, Reader

T = TypeVar("T")

MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Act:
    """Who changes something, and why.

    Attributes:
        author: Who stands behind it, in words, as the caller says.
        reason: Why, for whoever reads the trail.
        method: Name of the call.
        digest: SHA-256 of the request, with its author and reason.
        approval: Id of the approval by which it is made; empty for none.
    """

    caller: Caller
    author: str = ""
    reason: str = ""
    method: str = ""
    digest: bytes = b""
    approval: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """What a change did, for its record.

    Attributes:
        value: What the caller gets.
        detail: What was before, and what is now, as far as it differs.
    """

    value: Any
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """What the trail says of a change to one tenant."""

    tenant: str
    resource: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Dangerous:
    """What a second person has to agree to.

    Attributes:
        tenant: Whose it is; empty for the service itself.
        resource: What the change is about.
        summary: What it does, in one line.
        effects: All of it that is dangerous, whole.
        field: The request's field that it comes from.
    """

    tenant: str
    resource: str
    summary: str
    effects: Sequence[Effect]
    field: str


class _SecondPersonNeeded(Exception):
    """A change may not be made yet: nobody else has agreed to it.

    Attributes:
        dangerous: What it is.
        change: The same, written.
        instead_of: Id of an approval that was for something else, and falls.
    """

    def __init__(self, dangerous: Dangerous, change: str, instead_of: str = "") -> None:
        super().__init__(dangerous.summary)
        self.dangerous = dangerous
        self.change = change
        self.instead_of = instead_of


@dataclass(frozen=True, slots=True)
class SecondPerson:
    """Which changes need one, and for how long they wait."""

    dangers: frozenset[Danger] = frozenset()
    patience: timedelta = timedelta(days=1)


class Desk:
    """Reads and changes the registry.

    Args:
        executor: Where reading waits for the database.
        second_person: Which changes need one.
        roster: Who may do what, to be told of changes to that.
    """

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        directory: Directory,
        clock: Clock,
        executor: Executor,
        second_person: SecondPerson | None = None,
        roster: Roster | None = None,
    ) -> None:
        self._roster = roster
        self._second_person = second_person or SecondPerson()
        self._database = database
        self._audit = audit
        self._directory = directory
        self._clock = clock
        self._executor = executor
        self._on_change: list[Callable[[], None]] = []

    def on_change(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called whenever a change was made here."""
        self._on_change.append(tell)

    @property
    def clock(self) -> Clock:
        """Tells the time."""
        return self._clock

    @property
    def directory(self) -> Directory:
        """What the services know of tenants."""
        return self._directory

    async def read(self, question: Callable[[Reader], T]) -> T:
        """Ask the registry, in one transaction.

        Raises:
            DatabaseUnavailable: It does not answer.
        """
        return await self.on_thread(lambda: self._read(question))

    async def on_thread(self, work: Callable[[], T]) -> T:
        """Work that waits for the database."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def tell(self, notice: Notice) -> None:
        """Tell a tenant of something that changes nothing.

        Raises:
            DatabaseUnavailable: It is not known to be told.
        """

        def work() -> None:
            with self._database.writing() as connection:
                outbox.put(connection, notice)

        await self.on_thread(work)

    async def change(
        self,
        act: Act,
        name: str,
        tenant: str,
        resource: str,
        work: Callable[[Change], Done],
        more: Mapping[str, Any] | None = None,
    ) -> Any:
        """Change the registry, and record it, in one transaction. A refusal is recorded too.

        Args:
            act: Who, and why.
            name: The call's name, such as ``create_tenant``.
            tenant: Whose views it changes; empty for nobody's.
            resource: Name of what it is about.
            work: Makes the change; nothing is changed when it raises.
            more: What was done for it already, for the detail of a refusal.

        Raises:
            OwnkeyError: Whatever ``work`` raises.
            ServiceImpaired: It could not be made, or not be recorded; nothing was changed.
        """

        def of_one(change: Change) -> tuple[Any, list[Entry]]:
            done = work(change)
            return done.value, [Entry(tenant, resource, done.detail)]

        try:
            return await self.change_many(act, name, of_one)
        except OwnkeyError as error:
            await self.refuse(act, name, tenant, resource, error, more)
            raise

    async def change_many(self, act: Act, name: str, work: Callable[[Change], tuple[T, list[Entry]]]) -> T:
        """Change what is of several tenants at once, with a record for each entry; arguments as for :meth:`change`."""
        touched: list[Entry] = []

        def transaction(connection: Connection) -> tuple[list[AuditRecord], T]:
            value, entries = work(Change(connection, self._clock()))
            touched[:] = entries
            records = [
                self._record(act, name, entry.tenant, entry.resource, Result.OK, "", entry.detail) for entry in entries
            ]
            return records, value

        try:
            value = await self._audit.change(transaction)
        except _SecondPersonNeeded as needed:
            raise await self._ask(act, needed) from None
        for tell in self._on_change:
            tell()
        # The other instances hear of it from the feed; whoever asks here next must not have to wait for that.
        for entry in touched:
            self._directory.forget(entry.tenant)
            if self._roster is not None:
                self._roster.forget(entry.resource)
        return value

    def takes_two(self, danger: Danger) -> bool:
        """Whether changes of that kind need a second person."""
        return danger in self._second_person.dangers

    def require_agreement(self, change: Change, act: Act, dangerous: Dangerous) -> Mapping[str, str]:
        """To be called in a change that is a danger: it goes on only if somebody else has agreed, where that is set.

        To be called before anything is changed: an approver counts by what they may do without the change.

        Args:
            change: The change; the agreement is used up with it.
            act: Who, and by which request.
            dangerous: What is to be agreed to, as things are now.

        Returns:
            What the change's record has to say of it.

        Raises:
            ApprovalInvalid: What the request names is not somebody's agreement to it.
            InvalidRequest: It is too large to be shown to whoever is to agree.
        """
        needed = [one for one in dangerous.effects if one.danger in self._second_person.dangers]
        if not needed:
            return {}
        written = agreements.written(needed)
        size = len(written.encode())
        if size > agreements.MAX_CHANGE_BYTES:
            raise InvalidRequest(
                dangerous.field,
                f"changes more than a second person can be shown: {size} bytes of dangerous changes, and there may be"
                f" {agreements.MAX_CHANGE_BYTES}: split it",
            )
        if not act.approval:
            raise _SecondPersonNeeded(dangerous, written)
        resource = dangerous.resource
        found = approvals.find(change.connection, act.approval, microseconds(self._clock()))
        if found is None or found.requested_by != act.caller.principal:
            raise ApprovalInvalid(resource, act.approval, "is none of yours, or has expired")
        if found.digest != act.digest:
            why = "is for another request: repeat the very same one, with its author and reason"
            raise ApprovalInvalid(resource, act.approval, why)
        if found.change != written:
            # What it does has become something else since it was asked for: nobody has agreed to that.
            raise _SecondPersonNeeded(dangerous, written, instead_of=found.id)
        if found.approved_by in ("", act.caller.principal):
            raise ApprovalInvalid(resource, act.approval, "is not approved yet")
        if not agreements.may_approve(self._held(change, found.approved_by), found.method, found.tenant):
            why = f"was approved by {found.approved_by}, who may not do so any more: somebody else must approve it"
            raise ApprovalInvalid(resource, act.approval, why)
        approvals.remove(change.connection, act.approval)
        return {"approved_by": found.approved_by, "effect": agreements.digest(written)}

    def _held(self, change: Change, principal: str) -> Sequence[Grant]:
        """All that a principal holds, as the change finds it."""
        record = change.principal(principal)
        fixed = self._roster.of_settings(principal) if self._roster is not None else ()
        return (*fixed, *(record.grants if record is not None else ()))

    async def _ask(self, act: Act, needed: _SecondPersonNeeded) -> ApprovalRequired:
        """Let the change wait; gives the error that says so.

        Raises:
            TooManyWaiting: Too many wait already.
        """
        now = self._clock()
        at = microseconds(now)
        dangerous = needed.dangerous
        asked = ApprovalRecord(
            id=secrets.token_hex(8),
            requested_by=act.caller.principal,
            method=act.method,
            tenant=dangerous.tenant,
            resource=dangerous.resource,
            summary=dangerous.summary,
            author=act.author,
            reason=act.reason,
            change=needed.change,
            digest=act.digest,
            approved_by="",
            create_time=now,
            expire_time=now + self._second_person.patience,
        )

        def transaction(connection: Connection) -> tuple[list[AuditRecord], ApprovalRecord]:
            approvals.in_turn(connection)
            before = approvals.same(connection, asked.requested_by, asked.digest, at)
            if before is not None and before.change == asked.change:
                return [], before
            # The same request that would do something else by now: one of the two waits, the one that is true.
            fallen = before.id if before is not None else needed.instead_of
            approvals.remove(connection, fallen)
            why = approvals.full(connection, asked.requested_by, asked.tenant, at)
            if why:
                raise TooManyWaiting(asked.resource, why)
            approvals.insert(connection, asked)
            detail = {
                "approval": asked.id,
                "instead_of": fallen,
                "summary": asked.summary,
                "effect": agreements.digest(asked.change),
                "change": json.loads(asked.change),
            }
            record = self._record(act, "request_approval", asked.tenant, asked.resource, Result.OK, "", detail)
            return [record], asked

        waiting = await self._audit.change(transaction)
        return ApprovalRequired(dangerous.resource, waiting.id, changed=bool(needed.instead_of))

    async def refuse(
        self,
        act: Act,
        name: str,
        tenant: str,
        resource: str,
        error: OwnkeyError,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Record that a change was not made; ``more`` goes into its detail."""
        result = Result.REFUSED if error.refusal else Result.FAILED
        detail = {"error": str(error), **(more or {})}
        await self._audit.record(self._record(act, name, tenant, resource, result, error.reason, detail))

    def _read(self, question: Callable[[Reader], T]) -> T:
        with self._database.reading() as connection:
            return question(Reader(connection))

    def _record(
        self,
        act: Act,
        name: str,
        tenant: str,
        resource: str,
        result: Result,
        reason: str,
        detail: Mapping[str, Any],
    ) -> AuditRecord:
        said = {"resource": resource, "author": act.author, "reason": act.reason, "approval": act.approval, **detail}
        return AuditRecord(
            time=self._clock(),
            action=f"admin.{name}",
            result=result,
            caller=act.caller,
            reason=reason,
            tenant=tenant,
            detail={field: value for field, value in said.items() if value not in ("", None)},
        )
