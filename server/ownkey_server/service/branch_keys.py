"""Branch keys: made and opened by key stores, held in clear as leases, and lent to whoever wraps or opens data keys.

A lease lasts from before the key store was asked, so that the key store has agreed to every use within its length. It
is renewed shortly before it ends, if it is in use, by really opening the branch key once more: a revocation ends it at
once, an outage lets it run to its end, and on by a tenant's grace. Of those that need the same branch key at once, one
asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from ownkey.container import EncryptedDataKey, branch_id_of
from ownkey_server.domain.branch_keys import BranchKey
from ownkey_server.domain.clock import Clock, elapsed
from ownkey_server.domain.errors import (
    DeadlineExceeded,
    KeyMisconfigured,
    KeyNotFound,
    KeyStoreThrottled,
    KeyUnreachable,
)
from ownkey_server.domain.revocations import Revocation, of_whole_key
from ownkey_server.domain.tenants import CustomerKey, Tenant
from ownkey_server.service.branch_actives import BranchActives
from ownkey_server.service.branch_flights import DATABASE, KEY_STORE, Flight, Flights, Landed, NoBranchKey
from ownkey_server.service.branch_leases import BranchCounters, BranchLeases, Lease
from ownkey_server.service.branch_loans import Borrower, BranchKeyOptions, Loan
from ownkey_server.service.branch_openings import TICK_SECONDS, TRANSIENT, BranchOpenings, key_named_in
from ownkey_server.service.branch_source import BranchSource
from ownkey_server.service.status_board import StatusBoard

_log = logging.getLogger(__name__)

# An object may name several branch keys. Nobody writes more than one.
MAX_TRIED = 4
ATTEMPTS = 3


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
        self._clock = clock
        self._monotonic = monotonic
        self._max_age = options.max_age
        self._leases = BranchLeases(options.capacity, monotonic)
        self._actives = BranchActives(options.capacity, self._leases.counters, monotonic)
        self._flights = Flights(monotonic)
        length = options.lease.total_seconds()
        self._openings = BranchOpenings(source, board, clock, self._leases, self._flights, length, monotonic)

    @property
    def counters(self) -> BranchCounters:
        """What has happened so far."""
        return self._leases.counters

    @property
    def held(self) -> int:
        """How many branch keys are in clear."""
        return len(self._leases)

    async def to_wrap(
        self, tenant: Tenant, key: CustomerKey, remaining: float | None, *, background: bool = False
    ) -> Loan:
        """The branch key that wraps what the tenant has under a key; made if there is none, or it is too old.

        Args:
            tenant: Whose content it is.
            key: The key that policy named.
            remaining: Seconds that the caller is still waiting, if it said so.
            background: Whether nobody waits for it, so that it comes after all that somebody waits for.

        Raises:
            DeadlineExceeded: The caller's time was up first.
            KeyStoreError: The key cannot be used.
            ServiceImpaired: The database does not answer, or nothing can be recorded.
        """
        if not key.lifecycle.wraps:
            raise KeyMisconfigured(key.primary.name, key.primary.reference, f"it is {key.lifecycle}, and wraps nothing")
        borrower = self._borrower(remaining, background)
        for _ in range(ATTEMPTS):
            found = await self._active_of(tenant, key, borrower)
            with contextlib.suppress(NoBranchKey):
                loan = await self._lend(tenant, key, found.branch.id, borrower, asked=found.asked)
                if loan.key.name == key.name:
                    return loan
            self._actives.forget(tenant, key)  # moved meanwhile: another one wraps now
        raise KeyStoreThrottled(key.primary.name, key.primary.reference, "its branch keys are being moved", ours=True)

    async def is_active(
        self, tenant: Tenant, key: CustomerKey, branch: BranchKey, remaining: float | None, *, background: bool = False
    ) -> bool:
        """Whether a branch key is the one that wraps what the tenant has under a key; arguments as for :meth:`to_wrap`.

        One that is too old is not: another is made.
        """
        found = await self._active_of(tenant, key, self._borrower(remaining, background))
        return found.branch.id == branch.id

    async def to_open(
        self,
        tenant: Tenant,
        provider_key: CustomerKey,
        entries: Sequence[EncryptedDataKey],
        remaining: float | None,
        *,
        background: bool = False,
    ) -> tuple[EncryptedDataKey, Loan] | None:
        """The branch key that wrapped one of the entries, and the entry; None when none of the tenant's did.

        Raises:
            DeadlineExceeded: The caller's time was up first.
            KeyStoreError: The key under which it is wrapped cannot be used.
            KeyNotFound: That key is not there any more.
            ServiceImpaired: The database does not answer.
        """
        borrower = self._borrower(remaining, background)
        named = [(entry, branch_id) for entry in entries if (branch_id := branch_id_of(entry))]
        for entry, branch_id in named[:MAX_TRIED]:
            try:
                return entry, await self._lend(tenant, provider_key, branch_id, borrower)
            except NoBranchKey:
                continue
        return None

    def holds(self, loan: Loan) -> bool:
        """Whether what a loan has opened may still be given out."""
        lease = loan.lease
        return not lease.over and not self._openings.is_revoked(lease.key) and self._monotonic() < lease.last_moment

    def end_taken_back(self, revocation: Revocation) -> int:
        """End the leases that serve nothing but what was taken back; gives their number."""
        leases = self._taken_back(revocation)
        for lease in leases:
            self._leases.drop(lease)
        return len(leases)

    def would_end(self, revocation: Revocation) -> int:
        """How many leases a revocation would end."""
        return len(self._taken_back(revocation))

    def _taken_back(self, revocation: Revocation) -> list[Lease]:
        return [
            one
            for one in self._leases
            if one.branch.tenant == revocation.tenant and of_whole_key([revocation], one.key.id) is not None
        ]

    def end_under(self, key_name: str) -> int:
        """End the leases under a key that its holder has taken away; gives their number."""
        leases = [one for one in self._leases if one.key.name == key_name]
        for lease in leases:
            self._leases.drop(lease)
        self.counters.ended += len(leases)
        return len(leases)

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
        self._openings.look_after()

    async def close(self) -> None:
        """End what is under way, and wipe all."""
        await self._flights.close()
        self._leases.close()

    def _borrower(self, remaining: float | None, background: bool) -> Borrower:
        return Borrower(None if remaining is None else self._monotonic() + remaining, background)

    async def _lend(
        self, tenant: Tenant, other: CustomerKey, branch_id: str, borrower: Borrower, *, asked: bool = False
    ) -> Loan:
        """The branch key of that id, by its lease or by asking its key store.

        Args:
            tenant: Whose it must be.
            other: A key under which it may be, besides the tenant's own.
            branch_id: Its id.
            borrower: Who waits for it.
            asked: Whether a key store was asked for this use already, by which there is a lease.

        Raises:
            NoBranchKey: The tenant has none of that id.
        """
        lease = self._openings.held(tenant, other, branch_id)
        cached = not asked
        if lease is None:
            lease, cached = await self._ask(tenant, other, branch_id, borrower)
        if cached:
            lease.used = True
            self.counters.cached += 1
        now = self._monotonic()
        beyond = max(0.0, now - lease.until)
        if beyond:
            self.counters.graced += 1
            if now >= lease.retry_at:
                self._openings.renew(lease)
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

    async def _ask(self, tenant: Tenant, other: CustomerKey, branch_id: str, borrower: Borrower) -> tuple[Lease, bool]:
        """A lease by asking the key store, or by the tenant's grace when it does not answer: then True."""

        def key_named(name: str) -> CustomerKey | None:
            return key_named_in(name, tenant, other)

        for attempt in range(ATTEMPTS):
            flight, shared = self._openings.open_once(tenant.id, branch_id, key_named, background=borrower.background)
            self.counters.shared += shared
            try:
                await self._flights.wait(flight, borrower)
            except (KeyUnreachable, DeadlineExceeded):
                graced = self._openings.held(tenant, other, branch_id)
                if graced is None:
                    raise
                return graced, True
            except KeyNotFound:
                # The question that was under way was another's, who knew the keys of another moment.
                if shared and attempt + 1 < ATTEMPTS:
                    continue
                raise
            # What was asked by another, or when the tenant was another, may not be this one's to use.
            lease = self._openings.held(tenant, other, branch_id)
            if lease is not None and self._monotonic() < lease.until:
                return lease, False
        place = other.primary
        cause = "a branch key's lease ended before it could be used"
        raise KeyStoreThrottled(place.name, place.reference, cause, ours=True)

    async def _active_of(self, tenant: Tenant, key: CustomerKey, borrower: Borrower) -> Landed:
        old = self._actives.of(tenant, key)
        if old is not None and not (self._is_old(old) and self._actives.may_make(tenant, key)):
            return Landed(old, asked=False)

        async def work(flight: Flight) -> Landed:
            branch = old or await self._source.active(tenant.id, key.name)
            if branch is None or self._is_old(branch):
                return await self._make_and_keep(flight, tenant.id, key, branch, background=borrower.background)
            return Landed(branch, asked=False)

        # By the revision: what is found for another view may be from before the change that made this one.
        what = ("active", tenant.id, key.name, tenant.revision)
        flight, _ = self._openings.join(what, work, background=borrower.background)
        try:
            found = await self._flights.wait(flight, borrower)
        except (*TRANSIENT, DeadlineExceeded) as error:
            # The same key protects as before, only not by a new branch key yet.
            if old is None or self._openings.held(tenant, key, old.id) is None:
                raise
            if not isinstance(error, DeadlineExceeded):
                self._actives.not_made(tenant, key)
            return Landed(old, asked=False)
        self._actives.made(tenant, key)
        self._actives.remember(tenant, key, found.branch)
        return found

    async def _make_and_keep(
        self, flight: Flight, tenant: str, key: CustomerKey, old: BranchKey | None, *, background: bool
    ) -> Landed:
        """Make a branch key and keep it, unless another instance has done so: then that one's counts."""
        flight.waits_for = KEY_STORE
        began = self._monotonic()
        made, use = await self._source.make(tenant, key, background=background)
        plaintext = use.value.plaintext
        try:
            flight.waits_for = DATABASE
            branch = await self._source.keep(made, use, old.id if old else "")
            if branch.id == made.id:
                self.counters.made += 1
                self.counters.filled += 1
                self._openings.grant(branch, key, plaintext, began, use.replica, use.value.request_id)
        finally:
            plaintext.wipe()
        return Landed(branch, asked=branch.id == made.id)

    def _is_old(self, branch: BranchKey) -> bool:
        return self._clock() - branch.create_time > self._max_age
