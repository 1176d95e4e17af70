"""Which branch key wraps for a tenant under a key: remembered until the tenant changes, for so many of both."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from ownkey_server.domain.branch_keys import BranchKey
from ownkey_server.domain.tenants import CustomerKey, Tenant
from ownkey_server.service.branch_leases import BranchCounters, Evictions

# After a new branch key could not be made, the one that is too old goes on for so long before that is tried again.
RETRY_MAKING_SECONDS = 30.0


class BranchActives:
    """Remembers active branch keys. Belongs to one event loop.

    Whatever changes which one is active changes the tenant: its revision tells whether what is known is still so.

    Args:
        capacity: For how many tenants and keys. Beyond it, the one not used for the longest is read again when needed.
        monotonic: The present time of a clock that is never set.
    """

    def __init__(self, capacity: int, counters: BranchCounters, monotonic: Callable[[], float]) -> None:
        self._capacity = capacity
        self._counters = counters
        self._monotonic = monotonic
        self._known: OrderedDict[tuple[str, str], tuple[int, BranchKey]] = OrderedDict()
        self._retry_making: dict[tuple[str, str], float] = {}
        self._evictions = Evictions(
            "which branch key wraps was forgotten %d times, because there is room for %d: each costs a question to the"
            " database; raise storage.cached_tenants",
            capacity,
            monotonic,
        )

    def __len__(self) -> int:
        return len(self._known)

    def of(self, tenant: Tenant, key: CustomerKey) -> BranchKey | None:
        """The one that wraps, if that is known for the tenant as it is in this view."""
        place = tenant.id, key.name
        known = self._known.get(place)
        if known is None or known[0] != tenant.revision:
            return None
        self._known.move_to_end(place)
        return known[1]

    def remember(self, tenant: Tenant, key: CustomerKey, branch: BranchKey) -> None:
        """The one that wraps was found with this view of the tenant."""
        place = tenant.id, key.name
        self._known[place] = (tenant.revision, branch)
        self._known.move_to_end(place)
        while len(self._known) > self._capacity:
            gone, _ = self._known.popitem(last=False)
            self._retry_making.pop(gone, None)
            self._counters.forgotten += 1
            self._evictions.happened()

    def forget(self, tenant: Tenant, key: CustomerKey) -> None:
        """The one that was known wraps no more."""
        self._known.pop((tenant.id, key.name), None)

    def may_make(self, tenant: Tenant, key: CustomerKey) -> bool:
        """Whether it is time to make a new one in place of one that is too old."""
        return self._monotonic() >= self._retry_making.get((tenant.id, key.name), float("-inf"))

    def made(self, tenant: Tenant, key: CustomerKey) -> None:
        """A new one was made."""
        self._retry_making.pop((tenant.id, key.name), None)

    def not_made(self, tenant: Tenant, key: CustomerKey) -> None:
        """No new one could be made."""
        self._retry_making[tenant.id, key.name] = self._monotonic() + RETRY_MAKING_SECONDS
