"""Branch keys in clear: each a lease that ends, at most so many, and none tenant's at the cost of all others.

Pure bookkeeping: nothing here waits for anything. ``branch_keys.py`` asks key stores.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ownkey_server.domain.branch_keys import BranchKey
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.tenants import CustomerKey

_log = logging.getLogger(__name__)

WARN_SECONDS = 60.0


@dataclass(slots=True)
class BranchCounters:
    """What has happened to branch keys in this process, counted upwards only.

    Attributes:
        cached: Uses that a lease served, without asking a key store.
        filled: Times a key store opened or made a branch key, while somebody waited.
        shared: Uses that waited for another's question instead of asking themselves.
        renewed: Leases that were renewed ahead of their end.
        made: Branch keys made.
        ended: Leases that ended early: revoked, or not to be renewed.
        lapsed: Leases that ended in their time.
        evicted: Leases that had to go because there were too many.
        graced: Uses beyond a lease, while the key store did not answer and the tenant had chosen a grace.
        forgotten: Times it had to be forgotten which branch key wraps, because there were too many.
    """

    cached: int = 0
    filled: int = 0
    shared: int = 0
    renewed: int = 0
    made: int = 0
    ended: int = 0
    lapsed: int = 0
    evicted: int = 0
    graced: int = 0
    forgotten: int = 0


class Evictions:
    """Tells of what had to go for want of room: at once, and then once a minute with the number.

    Args:
        text: What is told, with a place for how many had to go and one for the capacity.
        monotonic: The present time of a clock that is never set.
    """

    def __init__(self, text: str, capacity: int, monotonic: Callable[[], float]) -> None:
        self._text = text
        self._capacity = capacity
        self._monotonic = monotonic
        self._warned_at = float("-inf")
        self._untold = 0

    def happened(self) -> None:
        """One more had to go."""
        self._untold += 1
        now = self._monotonic()
        if now - self._warned_at >= WARN_SECONDS:
            _log.warning(self._text, self._untold, self._capacity)
            self._warned_at, self._untold = now, 0


@dataclass(slots=True)
class Lease:
    """A branch key in clear, until a moment of the monotonic clock.

    Attributes:
        key: The key that opened it, as the last use knew it.
        until: From then on it serves nobody; counted from before the key store was asked.
        renew_at: When it is renewed, if it is in use.
        replica: Where the key store opened it.
        request_id: By which the key store's own log has that.
        used: Whether it has served since it was opened.
        grace: Seconds that the tenant lets it serve on while the key store does not answer.
        unreachable: Whether the last thing that the key store showed was that it does not answer.
        retry_at: Not before then it is tried again.
        over: Whether it has ended, and is wiped.
        turn: Number of the one entry by which it is due.
    """

    branch: BranchKey
    key: CustomerKey
    plaintext: SecretBytes
    until: float
    renew_at: float
    replica: str
    request_id: str
    used: bool = False
    grace: float = 0.0
    unreachable: bool = False
    retry_at: float = float("-inf")
    over: bool = False
    turn: int = 0

    @property
    def last_moment(self) -> float:
        """Until when it serves at most, by the grace if an outage has shown itself."""
        return self.until + self.grace if self.unreachable else self.until


class BranchLeases:
    """The leases of one process. Belongs to one event loop.

    Args:
        capacity: How many are held. Beyond it, one goes of the tenant that has the most; of tenants that have as many,
            the one that was not used for the longest.
        monotonic: The present time of a clock that is never set.
    """

    def __init__(self, capacity: int, monotonic: Callable[[], float]) -> None:
        self.counters = BranchCounters()
        self._capacity = capacity
        self._monotonic = monotonic
        # The one that was not used for the longest first.
        self._leases: OrderedDict[str, Lease] = OrderedDict()
        self._held_by: Counter[str] = Counter()
        self._due: list[tuple[float, int, Lease]] = []
        self._serial = 0
        self._evictions = Evictions(
            "%d branch keys were let go before their lease ended, because there is room for %d: each costs its key"
            " store a call when it is needed again; raise keys.branch_keys_per_tenant or storage.cached_tenants",
            capacity,
            monotonic,
        )

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._leases.values()))

    @property
    def next_due(self) -> float | None:
        """When the next lease is to be looked at."""
        return self._due[0][0] if self._due else None

    def get(self, branch_id: str, tenant: str) -> Lease | None:
        """The lease on that branch key of that tenant, if it is held; it may be past its time."""
        lease = self._leases.get(branch_id)
        if lease is None or lease.branch.tenant != tenant:
            return None
        self._leases.move_to_end(branch_id)
        return lease

    def put(self, lease: Lease) -> None:
        """Hold a lease; what was held on the same branch key ends."""
        before = self._leases.pop(lease.branch.id, None)
        if before is not None:
            self._end(before)
        self._leases[lease.branch.id] = lease
        self._held_by[lease.branch.tenant] += 1
        self.look_again(lease, lease.renew_at)
        while len(self._leases) > self._capacity:
            self._evict(self._victim())

    def drop(self, lease: Lease) -> None:
        """End a lease at once, and wipe its key."""
        if self._leases.get(lease.branch.id) is lease:
            del self._leases[lease.branch.id]
            self._end(lease)

    def look_again(self, lease: Lease, at: float) -> None:
        """Have a lease be due at that time, and at no other."""
        self._serial += 1
        lease.turn = self._serial
        heapq.heappush(self._due, (at, self._serial, lease))

    def due(self) -> Iterator[Lease]:
        """The leases whose time to be looked at has come, each once."""
        while self._due and self._due[0][0] <= self._monotonic():
            _, turn, lease = heapq.heappop(self._due)
            if not lease.over and turn == lease.turn:
                yield lease

    def close(self) -> None:
        """End all leases."""
        for lease in self:
            self.drop(lease)
        self._due.clear()

    def _end(self, lease: Lease) -> None:
        lease.over = True
        lease.plaintext.wipe()
        self._held_by[lease.branch.tenant] -= 1
        if self._held_by[lease.branch.tenant] <= 0:
            del self._held_by[lease.branch.tenant]

    def _victim(self) -> Lease:
        most = max(self._held_by.values())
        return next(lease for lease in self._leases.values() if self._held_by[lease.branch.tenant] == most)

    def _evict(self, lease: Lease) -> None:
        self.drop(lease)
        self.counters.evicted += 1
        self._evictions.happened()
