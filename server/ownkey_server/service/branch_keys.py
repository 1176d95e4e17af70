"""Branch keys: made and opened by key stores, held in clear as leases, and lent to whoever wraps or opens data keys.

A lease lasts from before the key store was asked, so that the key store has agreed to every use within its length. It
is renewed shortly before it ends, if it is in use, by really opening the branch key once more: a revocation ends it at
once, an outage lets it run to its end, and on by a tenant's grace. Of those that need the same branch key at once, one
asks.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from sqlalchemy.engine import Connection

from ownkey.container import ContainerError, EncryptedDataKey, branch_id_of, new_branch_id
from ownkey.wrapped_key import WrappedKey
from ownkey_server.domain.audit import Action, AuditRecord, Caller, Result
from ownkey_server.domain.branch_keys import BRANCH, BranchKey, BranchKeyState, branch_context
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.encryption_context import TENANT
from ownkey_server.domain.errors import (
    CiphertextInvalid,
    DatabaseUnavailable,
    KeyMisconfigured,
    KeyNotFound,
    KeyStoreThrottled,
    KeyUnreachable,
    OwnkeyError,
    ServiceImpaired,
)
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.tenants import CustomerKey, Tenant
from ownkey_server.keystores.base import GeneratedDataKey
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.branch_leases import BranchCounters, BranchLeases, Lease
from ownkey_server.service.key_ring import KeyRing, Use
from ownkey_server.service.status_board import StatusBoard
from ownkey_server.storage import branch_keys as kept
from ownkey_server.storage.database import Database
from ownkey_server.storage.registry import Change

T = TypeVar("T")

_log = logging.getLogger(__name__)

OURSELVES = Caller("ownkey")
LOAD_SECONDS = 5.0
# A lease is renewed ahead of its end by twice the time that its key store took, but by no less and no more than this:
# the seconds, and the part of a lease. Ahead costs calls: 1 + elapsed / (lease - ahead) of them instead of
# 1 + elapsed / lease.
LEAST_AHEAD = 0.05
MOST_AHEAD = 0.1
# How long after an outage has shown itself the key store is tried again, and after a new branch key could not be made.
RETRY_SECONDS = 1.0
RETRY_MAKING_SECONDS = 30.0
# How often leases are compared with what is known of their keys, to wipe what a revocation has ended.
SWEEP_SECONDS = 5.0
TICK_SECONDS = 0.5
# Which branch key is the active one is remembered for so many tenants and keys.
MAX_ACTIVE = 2_000
# An object may name several branch keys. Nobody writes more than one.
MAX_TRIED = 4
ATTEMPTS = 3

_TRANSIENT = (KeyUnreachable, KeyStoreThrottled, ServiceImpaired)


@dataclass(frozen=True, slots=True)
class BranchKeyOptions:
    """How branch keys are held.

    Attributes:
        lease: How long a branch key serves after its key store has agreed.
        capacity: How many are held in clear.
        max_age: A branch key that is older wraps no more: the next use makes a new one.
    """

    lease: timedelta = timedelta(seconds=60)
    capacity: int = 10_000
    max_age: timedelta = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Loan:
    """A branch key for one use, to be used at once: whoever waits for anything in between asks :meth:`holds` again.

    Attributes:
        key: The key under which it is wrapped at present.
        cached: Whether no key store was asked for this use.
        replica: Where it was opened for this use; empty when cached.
        request_id: By which the key store's log has that; empty when cached.
        beyond: Seconds since the lease ended, when the tenant's grace lets it serve in an outage; else 0.
        seconds: For how many it may serve yet.
    """

    branch: BranchKey
    key: CustomerKey
    plaintext: SecretBytes
    cached: bool
    replica: str
    request_id: str
    beyond: float
    seconds: float
    lease: Lease


class BranchKeys:
    """Lends branch keys. Belongs to one event loop.

    Args:
        ring: Opens and makes them.
        board: What is known of their keys; whoever is revoked there has no lease here.
        database: Where they are kept, wrapped.
        executor: Where reading waits for the database.
        clock: Tells the time, for their age.
        monotonic: The present time of a clock that is never set, for leases.
    """

    def __init__(
        self,
        ring: KeyRing,
        board: StatusBoard,
        database: Database,
        executor: Executor,
        audit: AuditLog,
        clock: Clock,
        options: BranchKeyOptions,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ring = ring
        self._board = board
        self._database = database
        self._executor = executor
        self._audit = audit
        self._clock = clock
        self._monotonic = monotonic
        self._length = options.lease.total_seconds()
        self._max_age = options.max_age
        self._leases = BranchLeases(options.capacity, monotonic)
        # What wraps for a tenant under a key, and the view of the tenant with which it was read: whatever changes which
        # one that is changes the tenant, and so gives another view.
        self._active: OrderedDict[tuple[str, str], tuple[Tenant, BranchKey]] = OrderedDict()
        self._flights: dict[tuple[str, ...], asyncio.Task[BranchKey]] = {}
        self._retry_making: dict[tuple[str, str], float] = {}
        self._swept_at = monotonic()

    @property
    def counters(self) -> BranchCounters:
        """What has happened so far."""
        return self._leases.counters

    @property
    def held(self) -> int:
        """How many branch keys are in clear."""
        return len(self._leases)

    async def to_wrap(self, tenant: Tenant, key: CustomerKey, remaining: float | None) -> Loan:
        """The branch key that wraps what the tenant has under a key; made if there is none, or it is too old.

        Args:
            tenant: Whose content it is.
            key: The key that policy named.
            remaining: Seconds that the caller is still waiting, if it said so.

        Raises:
            KeyStoreError: The key cannot be used.
            ServiceImpaired: The database does not answer, or nothing can be recorded.
        """
        if not key.lifecycle.wraps:
            raise KeyMisconfigured(key.primary.name, key.primary.reference, f"it is {key.lifecycle}, and wraps nothing")
        deadline = None if remaining is None else self._monotonic() + remaining
        branch = await self._active_of(tenant, key, deadline)
        loan = await self._lend(tenant, key, branch.id, deadline)
        if loan.key.name != key.name:  # moved meanwhile: another one wraps now
            self._active.pop((tenant.id, key.name), None)
            return await self._lend(tenant, key, (await self._active_of(tenant, key, deadline)).id, deadline)
        return loan

    async def to_open(
        self,
        tenant: Tenant,
        provider_key: CustomerKey,
        entries: Sequence[EncryptedDataKey],
        remaining: float | None,
    ) -> tuple[EncryptedDataKey, Loan] | None:
        """The branch key that wrapped one of the entries, and the entry; None when none of the tenant's did.

        Raises:
            KeyStoreError: The key under which it is wrapped cannot be used.
            KeyNotFound: That key is not there any more.
            ServiceImpaired: The database does not answer.
        """
        deadline = None if remaining is None else self._monotonic() + remaining
        named = [(entry, branch_id) for entry in entries if (branch_id := branch_id_of(entry))]
        for entry, branch_id in named[:MAX_TRIED]:
            try:
                return entry, await self._lend(tenant, provider_key, branch_id, deadline)
            except _NoBranchKey:
                continue
        return None

    def holds(self, loan: Loan) -> bool:
        """Whether what a loan has opened may still be given out."""
        lease = loan.lease
        return not lease.over and not self._is_revoked(lease.key) and self._monotonic() < lease.last_moment

    def forget(self, branch: BranchKey) -> None:
        """End the lease on a branch key that was changed; the next use reads it anew."""
        lease = self._leases.get(branch.id, branch.tenant)
        if lease is not None:
            self._leases.drop(lease)

    async def make(self, tenant: str, key: CustomerKey) -> tuple[BranchKey, Use[GeneratedDataKey]]:
        """A new branch key for a tenant under a key, not kept yet. Whoever asks wipes the plaintext.

        Raises:
            KeyStoreError: The key cannot be used.
        """
        branch_id = new_branch_id()
        context = branch_context(tenant, branch_id)
        use = await self._ring.generate(key, context, None)
        branch = BranchKey(
            id=branch_id,
            tenant=tenant,
            key=key.name,
            first_key=key.name,
            state=BranchKeyState.ACTIVE,
            version=0,
            wrapped=WrappedKey(key.name, (use.value.wrapped,)).to_bytes(),
            context=context,
            create_time=self._clock(),
        )
        return branch, use

    async def run(self) -> None:
        """Look after the leases until cancelled."""
        while True:
            try:
                self.look_after()
            except Exception:  # noqa: BLE001 - logged whole; leases end by themselves, so that nothing serves too long
                _log.exception("leases on branch keys were not looked after")
            due = self._leases.next_due
            pause = TICK_SECONDS if due is None else min(TICK_SECONDS, max(0.005, due - self._monotonic()))
            await asyncio.sleep(pause)

    def look_after(self) -> None:
        """Begin to renew leases that are in use and end soon; wipe those that have ended, or whose key is revoked."""
        now = self._monotonic()
        for lease in self._leases.due():
            if now >= lease.until + lease.grace:
                self._leases.drop(lease)
                self.counters.lapsed += 1
                continue
            if lease.used and now < lease.until:
                self._renew(lease)
            self._leases.look_again(lease, lease.until if now < lease.until else lease.until + lease.grace)
        if now - self._swept_at >= SWEEP_SECONDS:
            self._swept_at = now
            for lease in self._leases:
                self._end_if_revoked(lease)

    async def close(self) -> None:
        """End what is under way, and wipe all."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        if flights:
            await asyncio.wait(flights)
        self._leases.close()

    async def _lend(self, tenant: Tenant, other: CustomerKey, branch_id: str, deadline: float | None) -> Loan:
        """The branch key of that id, by its lease or by asking its key store.

        Args:
            tenant: Whose it must be.
            other: A key under which it may be, besides the tenant's own.
            branch_id: Its id.
            deadline: When the caller stops waiting.

        Raises:
            _NoBranchKey: The tenant has none of that id.
        """
        lease = self._held(tenant, other, branch_id)
        cached = lease is not None
        if lease is None:
            lease, cached = await self._ask(tenant, other, branch_id, deadline)
        if cached:
            lease.used = True
            self.counters.cached += 1
        now = self._monotonic()
        beyond = max(0.0, now - lease.until)
        if beyond:
            self.counters.graced += 1
            if now >= lease.retry_at:
                self._renew(lease)
        return Loan(
            branch=lease.branch,
            key=lease.key,
            plaintext=lease.plaintext,
            cached=cached,
            replica="" if cached else lease.replica,
            request_id="" if cached else lease.request_id,
            beyond=beyond,
            seconds=lease.last_moment - now,
            lease=lease,
        )

    async def _ask(
        self, tenant: Tenant, other: CustomerKey, branch_id: str, deadline: float | None
    ) -> tuple[Lease, bool]:
        """A lease by asking the key store, or by the tenant's grace when it does not answer: then True."""

        def key_named(name: str) -> CustomerKey | None:
            return _key_named(name, tenant, other)

        for attempt in range(ATTEMPTS):
            flight, shared = self._flight(
                ("open", tenant.id, branch_id), lambda: self._open(tenant.id, branch_id, key_named)
            )
            self.counters.shared += shared
            try:
                await self._wait(flight, deadline, other)
            except KeyUnreachable:
                graced = self._held(tenant, other, branch_id)
                if graced is None:
                    raise
                return graced, True
            except KeyNotFound:
                # The question that was under way was another's, who knew the keys of another moment.
                if shared and attempt + 1 < ATTEMPTS:
                    continue
                raise
            lease = self._leases.get(branch_id, tenant.id)
            if lease is not None and self._monotonic() < lease.until:
                lease.grace = tenant.policy.outage_grace
                return lease, False
        place = other.primary
        raise KeyStoreThrottled(place.name, place.reference, "a branch key's lease ended before it could be used")

    def _held(self, tenant: Tenant, other: CustomerKey, branch_id: str) -> Lease | None:
        """The lease on a branch key, if it may serve."""
        lease = self._leases.get(branch_id, tenant.id)
        if lease is None:
            return None
        key = _key_named(lease.branch.key, tenant, other)
        if key is None or not key.lifecycle.unwraps:
            # Removed; or the branch key was moved to another key, which the database knows.
            self._leases.drop(lease)
            self.counters.ended += 1
            return None
        lease.key = key
        lease.grace = tenant.policy.outage_grace
        if self._end_if_revoked(lease):
            return None
        return lease if self._monotonic() < lease.last_moment else None

    async def _active_of(self, tenant: Tenant, key: CustomerKey, deadline: float | None) -> BranchKey:
        place = (tenant.id, key.name)
        # What another view's question finds may be from before the change that made this view.
        view = str(id(tenant))
        known = self._active.get(place)
        branch = known[1] if known and known[0] is tenant else None
        if branch is None:
            flight, _ = self._flight(("active", *place, view), lambda: self._read_or_make(tenant.id, key))
            branch = await self._wait(flight, deadline, key)
        elif self._is_old(branch) and self._monotonic() >= self._retry_making.get(place, float("-inf")):
            old = branch
            flight, _ = self._flight(("active", *place, view), lambda: self._make_and_keep(tenant.id, key, old))
            try:
                branch = await self._wait(flight, deadline, key)
                self._retry_making.pop(place, None)
            except _TRANSIENT:
                # The same key protects as before, only not by a new branch key yet.
                if self._held(tenant, key, old.id) is None:
                    raise
                self._retry_making[place] = self._monotonic() + RETRY_MAKING_SECONDS
        self._active[place] = (tenant, branch)
        self._active.move_to_end(place)
        while len(self._active) > MAX_ACTIVE:
            gone, _ = self._active.popitem(last=False)
            self._retry_making.pop(gone, None)
        return branch

    async def _read_or_make(self, tenant: str, key: CustomerKey) -> BranchKey:
        branch = await self._read(lambda connection: kept.active(connection, tenant, key.name))
        if branch is None or self._is_old(branch):
            branch = await self._make_and_keep(tenant, key, branch)
        return branch

    async def _make_and_keep(self, tenant: str, key: CustomerKey, old: BranchKey | None) -> BranchKey:
        """Make a branch key and keep it, unless another instance has done so: then that one's counts."""
        began = self._monotonic()
        made, use = await self.make(tenant, key)
        plaintext = use.value.plaintext
        try:
            branch = await self._keep(made, use, old.id if old else "")
            if branch.id == made.id:
                self.counters.made += 1
                self.counters.filled += 1
                self._grant(branch, key, plaintext, began, use.replica, use.value.request_id)
        finally:
            plaintext.wipe()
        return branch

    async def _keep(self, made: BranchKey, use: Use[GeneratedDataKey], instead_of: str) -> BranchKey:
        def transaction(connection: Connection) -> tuple[list[AuditRecord], BranchKey]:
            change = Change(connection, self._clock())
            branch = kept.add(connection, made, instead_of)
            result = Result.OK if branch.id == made.id else Result.REFUSED
            detail = {"branch": made.id} | ({} if result is Result.OK else {"made_already": branch.id})
            change.touch(made.tenant)
            record = self._record(
                Action.MAKE_BRANCH_KEY, made, use.replica, use.value.request_id, result, detail=detail
            )
            return [record], branch

        return await self._audit.change(transaction)

    async def _open(self, tenant: str, branch_id: str, key_named: Callable[[str], CustomerKey | None]) -> BranchKey:
        """Have the key store open a branch key, and hold it, or go on holding it.

        Args:
            tenant: Whose it must be.
            branch_id: Its id.
            key_named: Gives the key of that name, by which it may be opened.
        """
        lease = self._leases.get(branch_id, tenant)
        try:
            found = await self._read(lambda connection: kept.find(connection, tenant, [branch_id]))
            if not found:
                raise _NoBranchKey(tenant, f"has no branch key {branch_id}")
            branch = found[0]
            key = key_named(branch.key)
            if key is None or not key.lifecycle.unwraps:
                raise KeyNotFound(tenant, f"the key {branch.key!r}, under which a branch key is, is not there any more")
            plaintext, began, replica, request_id = await self._unwrap(branch, key)
        except OwnkeyError as error:
            if lease is not None:
                self._not_renewed(lease, error)
            raise
        try:
            if lease is None or lease.over:
                self._grant(branch, key, plaintext, began, replica, request_id)
                self.counters.filled += 1
                return branch
            self._require_same(lease, plaintext)
            if began >= lease.until:
                self.counters.filled += 1
            else:
                self.counters.renewed += 1
            lease.branch, lease.key, lease.replica, lease.request_id = branch, key, replica, request_id
            lease.used = lease.unreachable = False
            self._extend(lease, began)
            self._leases.look_again(lease, lease.renew_at)
        finally:
            plaintext.wipe()
        return branch

    def _renew(self, lease: Lease) -> None:
        """Begin to ask the key store once more, ahead of the lease's end or in an outage; nobody waits for it."""
        lease.retry_at = self._monotonic() + RETRY_SECONDS
        branch, key = lease.branch, lease.key

        def key_named(name: str) -> CustomerKey | None:
            return key if key.name == name else None  # moved to another key: the next use finds that

        self._flight(("open", branch.tenant, branch.id), lambda: self._open(branch.tenant, branch.id, key_named))

    def _not_renewed(self, lease: Lease, error: OwnkeyError) -> None:
        if isinstance(error, KeyUnreachable):
            lease.unreachable = True
            lease.retry_at = self._monotonic() + RETRY_SECONDS
        elif not isinstance(error, _TRANSIENT) and not lease.over:
            # The key store decided, or the branch key is not what it was: an outage would be told apart.
            self._leases.drop(lease)
            self.counters.ended += 1

    def _require_same(self, lease: Lease, plaintext: SecretBytes) -> None:
        """Make sure that a branch key is what it was."""
        if not hmac.compare_digest(lease.plaintext.reveal(), plaintext.reveal()):
            self._leases.drop(lease)
            _log.critical("branch key %s was exchanged in the database", lease.branch.id)
            place = lease.key.primary
            raise CiphertextInvalid(place.name, place.reference, "the branch key is not the one that it was")

    async def _unwrap(self, branch: BranchKey, key: CustomerKey) -> tuple[SecretBytes, float, str, str]:
        """The branch key in clear, when the question for it began, where it was opened, and by which request."""
        place = key.primary
        if branch.context.get(TENANT) != branch.tenant or branch.context.get(BRANCH) != branch.id:
            raise CiphertextInvalid(place.name, place.reference, "the branch key is kept under another's name")
        began = self._monotonic()
        try:
            entry = WrappedKey.from_bytes(branch.wrapped).encrypted_data_keys[0]
            use = await self._ring.unwrap(key, entry, branch.context, None)
        except ContainerError:
            raise CiphertextInvalid(place.name, place.reference, "the branch key was changed") from None
        except OwnkeyError as error:
            result = Result.REFUSED if error.refusal else Result.FAILED
            replica = getattr(error, "replica", "")
            self._audit.note(self._record(Action.OPEN_BRANCH_KEY, branch, replica, "", result, error.reason))
            raise
        request_id = use.value.request_id
        self._audit.note(self._record(Action.OPEN_BRANCH_KEY, branch, use.replica, request_id, Result.OK))
        return use.value.plaintext, began, use.replica, request_id

    def _grant(
        self, branch: BranchKey, key: CustomerKey, plaintext: SecretBytes, began: float, replica: str, request_id: str
    ) -> None:
        lease = Lease(branch, key, SecretBytes(plaintext.reveal()), began, began, replica, request_id)
        self._extend(lease, began)
        self._leases.put(lease)

    def _extend(self, lease: Lease, began: float) -> None:
        took = self._monotonic() - began
        ahead = min(MOST_AHEAD * self._length, max(LEAST_AHEAD, 2 * took))
        lease.until = began + self._length
        lease.renew_at = lease.until - ahead

    def _is_old(self, branch: BranchKey) -> bool:
        return self._clock() - branch.create_time > self._max_age

    def _is_revoked(self, key: CustomerKey) -> bool:
        evidence = self._board.of(key, self._clock())
        return evidence is not None and evidence.state is KeyState.REVOKED

    def _end_if_revoked(self, lease: Lease) -> bool:
        if not self._is_revoked(lease.key):
            return False
        self._leases.drop(lease)
        self.counters.ended += 1
        return True

    def _flight(
        self, what: tuple[str, ...], work: Callable[[], Coroutine[None, None, BranchKey]]
    ) -> tuple[asyncio.Task[BranchKey], bool]:
        """The one question of its kind that is under way, begun now if there is none; and whether there was one."""
        running = self._flights.get(what)
        if running is not None:
            return running, True
        flight = asyncio.get_running_loop().create_task(work(), name=" ".join(what))
        self._flights[what] = flight

        def landed(done: asyncio.Task[BranchKey]) -> None:
            self._flights.pop(what, None)
            # Nobody may be waiting any more; what is no error of ours was recorded.
            if not done.cancelled() and (error := done.exception()) and not isinstance(error, OwnkeyError):
                _log.error("a branch key could not be had", exc_info=error)

        flight.add_done_callback(landed)
        return flight, False

    async def _wait(self, flight: asyncio.Task[BranchKey], deadline: float | None, key: CustomerKey) -> BranchKey:
        left = None if deadline is None else max(0.0, deadline - self._monotonic())
        try:
            return await asyncio.wait_for(asyncio.shield(flight), left)
        except TimeoutError:
            place = key.primary
            raise KeyUnreachable(place.name, place.reference, "no answer within the caller's deadline") from None

    async def _read(self, question: Callable[[Connection], T]) -> T:
        def ask() -> T:
            with self._database.reading() as connection:
                return question(connection)

        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.run_in_executor(self._executor, ask), LOAD_SECONDS)
        except TimeoutError:
            raise DatabaseUnavailable(f"no answer within {LOAD_SECONDS:g} s") from None

    def _record(
        self,
        action: Action,
        branch: BranchKey,
        replica: str,
        request_id: str,
        result: Result,
        reason: str = "",
        detail: Mapping[str, str] | None = None,
    ) -> AuditRecord:
        return AuditRecord(
            time=self._clock(),
            action=action,
            result=result,
            caller=OURSELVES,
            reason=reason,
            tenant=branch.tenant,
            key=branch.key,
            replica=replica,
            backend_request_id=request_id,
            context=branch.context,
            detail=detail or {"branch": branch.id},
        )


class _NoBranchKey(KeyNotFound):
    """The tenant has no branch key of that id."""


def _key_named(name: str, tenant: Tenant, other: CustomerKey) -> CustomerKey | None:
    if other.name == name:
        return other
    return next((key for key in tenant.keys.values() if key.name == name), None)
