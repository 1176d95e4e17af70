"""Branch keys opened by their key stores, and the leases on them looked after: renewed ahead of their end, or ended."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Coroutine

from ownkey_server.domain.branch_keys import BranchKey
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import (
    CiphertextInvalid,
    KeyNotFound,
    KeyStoreThrottled,
    KeyUnreachable,
    OwnkeyError,
    ServiceImpaired,
)
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.tenants import CustomerKey, Tenant
from ownkey_server.service.branch_flights import KEY_STORE, Flight, Flights, Landed, NoBranchKey
from ownkey_server.service.branch_leases import BranchLeases, Lease
from ownkey_server.service.branch_source import BranchSource
from ownkey_server.service.status_board import StatusBoard

_log = logging.getLogger(__name__)

# A lease is renewed ahead of its end by twice the time that its key store took, but by no less and no more than these
# parts of a lease: a server that is busy at the moment must have it back in time, or callers ask besides. Ahead costs
# calls: 1 + elapsed / (lease - ahead) of them instead of 1 + elapsed / lease.
LEAST_AHEAD = 0.05
MOST_AHEAD = 0.1
# How long after an outage has shown itself the key store is tried again.
RETRY_SECONDS = 1.0
# How often leases are compared with what is known of their keys, to wipe what a revocation has ended.
SWEEP_SECONDS = 5.0
TICK_SECONDS = 0.5

TRANSIENT = (KeyUnreachable, KeyStoreThrottled, ServiceImpaired)

KeyNamed = Callable[[str], CustomerKey | None]
"""Gives the key of that name, by which a branch key may be opened."""


class BranchOpenings:
    """Opens branch keys, and holds them. Belongs to one event loop.

    Args:
        source: Where they come from.
        board: What is known of their keys; whoever is revoked there has no lease here.
        clock: Tells the time, for what is known of keys.
        leases: Those that are held.
        flights: The questions under way.
        length: Seconds that a lease lasts.
        monotonic: The present time of the clock of leases.
    """

    def __init__(
        self,
        source: BranchSource,
        board: StatusBoard,
        clock: Clock,
        leases: BranchLeases,
        flights: Flights,
        length: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._source = source
        self._board = board
        self._clock = clock
        self._leases = leases
        self._flights = flights
        self._length = length
        self._monotonic = monotonic
        self._swept_at = monotonic()

    def look_after(self) -> None:
        """Begin to renew leases that are in use and end soon; wipe those that have ended, or whose key is revoked."""
        now = self._monotonic()
        for lease in self._leases.due():
            if now >= lease.until + lease.grace:
                self._leases.drop(lease)
                self._leases.counters.lapsed += 1
                continue
            if lease.used and now < lease.until:
                self.renew(lease)
            self._leases.look_again(lease, lease.until if now < lease.until else lease.until + lease.grace)
        if now - self._swept_at >= SWEEP_SECONDS:
            self._swept_at = now
            for lease in self._leases:
                self._end_if_revoked(lease)

    def open_once(self, tenant: str, branch_id: str, key_named: KeyNamed, *, background: bool) -> tuple[Flight, bool]:
        """The question to open a branch key that is under way, or a new one; and whether there was one.

        Who does not wait is content with what anybody has asked. Who waits does not stand in line behind what nobody
        waits for: beside a renewal that has not come back in time, one more is asked.
        """
        return self.join(
            ("open", tenant, branch_id),
            lambda flight: self._open(flight, tenant, branch_id, key_named, background=background),
            background=background,
        )

    def join(
        self, what: tuple[object, ...], work: Callable[[Flight], Coroutine[None, None, Landed]], *, background: bool
    ) -> tuple[Flight, bool]:
        """The one question of its kind that is under way, begun now if there is none; and whether there was one."""
        behind = background and not self._flights.under_way(what)
        return self._flights.join((*what, "background") if behind else what, work)

    def held(self, tenant: Tenant, other: CustomerKey, branch_id: str) -> Lease | None:
        """The lease on a branch key, if it may serve."""
        lease = self._leases.get(branch_id, tenant.id)
        if lease is None:
            return None
        key = key_named_in(lease.branch.key, tenant, other)
        if key is None or not key.lifecycle.unwraps:
            # Removed; or the branch key was moved to another key, which the database knows.
            self._leases.drop(lease)
            self._leases.counters.ended += 1
            return None
        lease.key = key
        lease.grace = tenant.policy.outage_grace
        if self._end_if_revoked(lease):
            return None
        return lease if self._monotonic() < lease.last_moment else None

    async def _open(
        self, flight: Flight, tenant: str, branch_id: str, key_named: KeyNamed, *, background: bool
    ) -> Landed:
        """Have the key store open a branch key, and hold it, or go on holding it."""
        lease = self._leases.get(branch_id, tenant)
        try:
            branch, key = await self._kept(tenant, branch_id, key_named)
            flight.waits_for = KEY_STORE
            began = self._monotonic()
            use = await self._source.unwrap(branch, key, background=background)
        except (OwnkeyError, NoBranchKey) as error:
            if lease is not None:
                self._not_renewed(lease, error)
            raise
        plaintext, request_id = use.value.plaintext, use.value.request_id
        if lease is None or lease.over:
            # Of two questions that were under way when a lease ended, the second to land goes on holding what the first
            # has brought: a new lease would end that one, and with it every use that is not recorded yet.
            lease = self._leases.get(branch_id, tenant)
        try:
            if lease is None or lease.over:
                self.grant(branch, key, plaintext, began, use.replica, request_id)
                self._leases.counters.filled += 1
                return Landed(branch, asked=True)
            self._require_same(lease, plaintext)
            if began + self._length < lease.until:
                return Landed(branch, asked=True)  # one that began later has landed first: that counts
            if began >= lease.until:
                self._leases.counters.filled += 1
            else:
                self._leases.counters.renewed += 1
            lease.branch, lease.key, lease.replica, lease.request_id = branch, key, use.replica, request_id
            lease.used = lease.unreachable = False
            self._extend(lease, began)
            self._leases.look_again(lease, lease.renew_at)
        finally:
            plaintext.wipe()
        return Landed(branch, asked=True)

    async def _kept(self, tenant: str, branch_id: str, key_named: KeyNamed) -> tuple[BranchKey, CustomerKey]:
        branch = await self._source.find(tenant, branch_id)
        if branch is None:
            raise NoBranchKey
        key = key_named(branch.key)
        if key is None or not key.lifecycle.unwraps:
            raise KeyNotFound(tenant, f"the key {branch.key!r}, under which a branch key is, is not there any more")
        return branch, key

    def renew(self, lease: Lease) -> None:
        """Begin to ask the key store once more, ahead of the lease's end or in an outage; nobody waits for it."""
        lease.retry_at = self._monotonic() + RETRY_SECONDS
        branch, key = lease.branch, lease.key

        def key_named(name: str) -> CustomerKey | None:
            return key if key.name == name else None  # moved to another key: the next use finds that

        self.open_once(branch.tenant, branch.id, key_named, background=True)

    def _not_renewed(self, lease: Lease, error: Exception) -> None:
        if isinstance(error, KeyUnreachable):
            lease.unreachable = True
            lease.retry_at = self._monotonic() + RETRY_SECONDS
        elif isinstance(error, KeyStoreThrottled) and not error.ours:
            # It is there, and so the outage is over; a grace bridges nothing else.
            lease.unreachable = False
        elif not isinstance(error, TRANSIENT) and not lease.over:
            # The key store decided, or the branch key is not what it was: an outage would be told apart.
            self._leases.drop(lease)
            self._leases.counters.ended += 1

    def _require_same(self, lease: Lease, plaintext: SecretBytes) -> None:
        """Make sure that a branch key is what it was."""
        if not hmac.compare_digest(lease.plaintext.reveal(), plaintext.reveal()):
            self._leases.drop(lease)
            _log.critical("branch key %s was exchanged in the database", lease.branch.id)
            place = lease.key.primary
            raise CiphertextInvalid(place.name, place.reference, "the branch key is not the one that it was")

    def grant(
        self, branch: BranchKey, key: CustomerKey, plaintext: SecretBytes, began: float, replica: str, request_id: str
    ) -> None:
        """Hold a branch key that was opened, or made, by a question that began then."""
        lease = Lease(branch, key, SecretBytes(plaintext.reveal()), began, began, replica, request_id)
        self._extend(lease, began)
        self._leases.put(lease)

    def _extend(self, lease: Lease, began: float) -> None:
        took = self._monotonic() - began
        ahead = min(MOST_AHEAD * self._length, max(LEAST_AHEAD * self._length, 2 * took))
        lease.until = began + self._length
        lease.renew_at = lease.until - ahead

    def is_revoked(self, key: CustomerKey) -> bool:
        """Whether its holder is known to have taken a key away, or may have, and it was not seen to work since."""
        evidence = self._board.of(key, self._clock())
        # An outage that came after does not undo it.
        return evidence is not None and (evidence.state is KeyState.REVOKED or evidence.revoked_at is not None)

    def _end_if_revoked(self, lease: Lease) -> bool:
        if not self.is_revoked(lease.key):
            return False
        self._leases.drop(lease)
        self._leases.counters.ended += 1
        return True


def key_named_in(name: str, tenant: Tenant, other: CustomerKey) -> CustomerKey | None:
    """The key of that name among a tenant's and one other; None when it is none of these."""
    if other.name == name:
        return other
    return next((key for key in tenant.keys.values() if key.name == name), None)
