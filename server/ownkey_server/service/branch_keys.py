"""Branch keys: made and opened by key stores, held in clear as leases, and lent to whoever wraps or opens data keys.

A lease lasts from before the key store was asked, so that the key store has agreed to every use within its length. It
is renewed shortly before it ends, if it is in use, by really opening the branch key once more: a revocation ends it at
once, an outage lets it run to its end, and on by a tenant's grace. Of those that need the same branch key at once, one
asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta

from ownkey.container import EncryptedDataKey, branch_id_of
from ownkey_server.domain.branch_keys import BranchKey
from ownkey_server.domain.clock import Clock, elapsed
from ownkey_server.domain.errors import (
    CiphertextInvalid,
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
from ownkey_server.service.branch_leases import BranchCounters, BranchLeases, Lease
from ownkey_server.service.branch_source import BranchSource
from ownkey_server.service.status_board import StatusBoard

_log = logging.getLogger(__name__)

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


@dataclass(frozen=True, slots=True)
class _Landed:
    """What came of a question, and whether a key store was asked so that there is a lease."""

    branch: BranchKey
    asked: bool


class BranchKeys:
    """Lends branch keys. Belongs to one event loop.

    Args:
        source: Where they come from.
        board: What is known of their keys; whoever is revoked there has no lease here.
        clock: Tells the time, for their age.
        monotonic: The present time of a clock that is never set and never stands still, for leases.
    """

    def __init__(
        self,
        source: BranchSource,
        board: StatusBoard,
        clock: Clock,
        options: BranchKeyOptions,
        *,
        monotonic: Callable[[], float] = elapsed,
    ) -> None:
        self._source = source
        self._board = board
        self._clock = clock
        self._monotonic = monotonic
        self._length = options.lease.total_seconds()
        self._max_age = options.max_age
        self._leases = BranchLeases(options.capacity, monotonic)
        # What wraps for a tenant under a key, and the view of the tenant with which it was read: whatever changes which
        # one that is changes the tenant, and so gives another view.
        self._active: OrderedDict[tuple[str, str], tuple[Tenant, BranchKey]] = OrderedDict()
        self._flights: dict[tuple[str, ...], asyncio.Task[_Landed]] = {}
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
        for _ in range(ATTEMPTS):
            found = await self._active_of(tenant, key, deadline)
            with contextlib.suppress(_NoBranchKey):
                loan = await self._lend(tenant, key, found.branch.id, deadline, asked=found.asked)
                if loan.key.name == key.name:
                    return loan
            self._active.pop((tenant.id, key.name), None)  # moved meanwhile: another one wraps now
        raise KeyStoreThrottled(key.primary.name, key.primary.reference, "its branch keys are being moved")

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

    async def _lend(
        self, tenant: Tenant, other: CustomerKey, branch_id: str, deadline: float | None, *, asked: bool = False
    ) -> Loan:
        """The branch key of that id, by its lease or by asking its key store.

        Args:
            tenant: Whose it must be.
            other: A key under which it may be, besides the tenant's own.
            branch_id: Its id.
            deadline: When the caller stops waiting.
            asked: Whether a key store was asked for this use already, by which there is a lease.

        Raises:
            _NoBranchKey: The tenant has none of that id.
        """
        lease = self._held(tenant, other, branch_id)
        cached = not asked
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

    async def _active_of(self, tenant: Tenant, key: CustomerKey, deadline: float | None) -> _Landed:
        place = (tenant.id, key.name)
        # What another view's question finds may be from before the change that made this view.
        view = str(id(tenant))
        known = self._active.get(place)
        old = known[1] if known and known[0] is tenant else None
        if old is None:
            flight, _ = self._flight(("active", *place, view), lambda: self._read_or_make(tenant.id, key))
            found = await self._wait(flight, deadline, key)
        elif not self._is_old(old) or self._monotonic() < self._retry_making.get(place, float("-inf")):
            found = _Landed(old, asked=False)
        else:
            flight, _ = self._flight(("active", *place, view), lambda: self._make_and_keep(tenant.id, key, old))
            try:
                found = await self._wait(flight, deadline, key)
                self._retry_making.pop(place, None)
            except _TRANSIENT:
                # The same key protects as before, only not by a new branch key yet.
                if self._held(tenant, key, old.id) is None:
                    raise
                self._retry_making[place] = self._monotonic() + RETRY_MAKING_SECONDS
                found = _Landed(old, asked=False)
        self._active[place] = (tenant, found.branch)
        self._active.move_to_end(place)
        while len(self._active) > MAX_ACTIVE:
            gone, _ = self._active.popitem(last=False)
            self._retry_making.pop(gone, None)
        return found

    async def _read_or_make(self, tenant: str, key: CustomerKey) -> _Landed:
        branch = await self._source.active(tenant, key.name)
        if branch is None or self._is_old(branch):
            return await self._make_and_keep(tenant, key, branch)
        return _Landed(branch, asked=False)

    async def _make_and_keep(self, tenant: str, key: CustomerKey, old: BranchKey | None) -> _Landed:
        """Make a branch key and keep it, unless another instance has done so: then that one's counts."""
        began = self._monotonic()
        made, use = await self._source.make(tenant, key)
        plaintext = use.value.plaintext
        try:
            branch = await self._source.keep(made, use, old.id if old else "")
            if branch.id == made.id:
                self.counters.made += 1
                self.counters.filled += 1
                self._grant(branch, key, plaintext, began, use.replica, use.value.request_id)
        finally:
            plaintext.wipe()
        return _Landed(branch, asked=branch.id == made.id)

    async def _open(self, tenant: str, branch_id: str, key_named: Callable[[str], CustomerKey | None]) -> _Landed:
        """Have the key store open a branch key, and hold it, or go on holding it.

        Args:
            tenant: Whose it must be.
            branch_id: Its id.
            key_named: Gives the key of that name, by which it may be opened.
        """
        lease = self._leases.get(branch_id, tenant)
        try:
            branch, key = await self._kept(tenant, branch_id, key_named)
            began = self._monotonic()
            use = await self._source.unwrap(branch, key)
        except (OwnkeyError, _NoBranchKey) as error:
            if lease is not None:
                self._not_renewed(lease, error)
            raise
        plaintext, request_id = use.value.plaintext, use.value.request_id
        try:
            if lease is None or lease.over:
                self._grant(branch, key, plaintext, began, use.replica, request_id)
                self.counters.filled += 1
                return _Landed(branch, asked=True)
            self._require_same(lease, plaintext)
            if began >= lease.until:
                self.counters.filled += 1
            else:
                self.counters.renewed += 1
            lease.branch, lease.key, lease.replica, lease.request_id = branch, key, use.replica, request_id
            lease.used = lease.unreachable = False
            self._extend(lease, began)
            self._leases.look_again(lease, lease.renew_at)
        finally:
            plaintext.wipe()
        return _Landed(branch, asked=True)

    async def _kept(
        self, tenant: str, branch_id: str, key_named: Callable[[str], CustomerKey | None]
    ) -> tuple[BranchKey, CustomerKey]:
        branch = await self._source.find(tenant, branch_id)
        if branch is None:
            raise _NoBranchKey
        key = key_named(branch.key)
        if key is None or not key.lifecycle.unwraps:
            raise KeyNotFound(tenant, f"the key {branch.key!r}, under which a branch key is, is not there any more")
        return branch, key

    def _renew(self, lease: Lease) -> None:
        """Begin to ask the key store once more, ahead of the lease's end or in an outage; nobody waits for it."""
        lease.retry_at = self._monotonic() + RETRY_SECONDS
        branch, key = lease.branch, lease.key

        def key_named(name: str) -> CustomerKey | None:
            return key if key.name == name else None  # moved to another key: the next use finds that

        self._flight(("open", branch.tenant, branch.id), lambda: self._open(branch.tenant, branch.id, key_named))

    def _not_renewed(self, lease: Lease, error: Exception) -> None:
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
        # An outage that came after does not undo it.
        return evidence is not None and (evidence.state is KeyState.REVOKED or evidence.revoked_at is not None)

    def _end_if_revoked(self, lease: Lease) -> bool:
        if not self._is_revoked(lease.key):
            return False
        self._leases.drop(lease)
        self.counters.ended += 1
        return True

    def _flight(
        self, what: tuple[str, ...], work: Callable[[], Coroutine[None, None, _Landed]]
    ) -> tuple[asyncio.Task[_Landed], bool]:
        """The one question of its kind that is under way, begun now if there is none; and whether there was one."""
        running = self._flights.get(what)
        if running is not None:
            return running, True
        flight = asyncio.get_running_loop().create_task(work(), name=" ".join(what))
        self._flights[what] = flight

        def landed(done: asyncio.Task[_Landed]) -> None:
            self._flights.pop(what, None)
            # Nobody may be waiting any more; what is no error of ours was recorded.
            if (
                not done.cancelled()
                and (error := done.exception())
                and not isinstance(error, OwnkeyError | _NoBranchKey)
            ):
                _log.error("a branch key could not be had", exc_info=error)

        flight.add_done_callback(landed)
        return flight, False

    async def _wait(self, flight: asyncio.Task[_Landed], deadline: float | None, key: CustomerKey) -> _Landed:
        left = None if deadline is None else max(0.0, deadline - self._monotonic())
        try:
            return await asyncio.wait_for(asyncio.shield(flight), left)
        except TimeoutError:
            place = key.primary
            raise KeyUnreachable(place.name, place.reference, "no answer within the caller's deadline") from None


class _NoBranchKey(Exception):
    """The tenant has no branch key of that id."""


def _key_named(name: str, tenant: Tenant, other: CustomerKey) -> CustomerKey | None:
    if other.name == name:
        return other
    return next((key for key in tenant.keys.values() if key.name == name), None)
