"""What each tenant may do at AWS KMS, and how that went: threads by region, a rate, retries, credentials of roles.

A share is by region, because a region that does not answer must not hold up what another region can do instead. But a
tenant may have keys in every region there is, so that it is bounded in all of them together, too.
"""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ownkey_server.keystores.aws.retries import RetryBudget
from ownkey_server.keystores.aws.roles import TenantRoles
from ownkey_server.keystores.budget import RateBudget
from ownkey_server.keystores.bulkhead import Bulkhead, Owner, Threads

# Beyond so many tenants, those that have nothing under way are forgotten, the longest unused first.
MOST_TENANTS = 10_000
_LOOKED_AT = 16
# How long a call that got no answer speaks for its region, when none has ended since.
FAILURE_SECONDS = 10.0


class Pulse:
    """Whether a region answers a tenant: what a caller with little time cannot find out alone. Used by many threads.

    Args:
        patience: Seconds after which a call that is still under way has hung.
    """

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._clock = clock
        self._begun: dict[int, float] = {}
        self._numbers = itertools.count()
        self._failed_at = float("-inf")

    @contextmanager
    def beat(self) -> Iterator[None]:
        """Around a call; :meth:`says` tells how it ended."""
        number = next(self._numbers)
        self._begun[number] = self._clock()
        try:
            yield
        finally:
            del self._begun[number]

    def says(self, *, answered: bool) -> None:
        """A call ended, by an answer of whatever kind or by none."""
        self._failed_at = float("-inf") if answered else self._clock()

    @property
    def unwell(self) -> bool:
        """Whether the last call that ended got no answer just now, or one under way has hung."""
        now = self._clock()
        begun = min(tuple(self._begun.values()), default=None)
        return now - self._failed_at < FAILURE_SECONDS or (begun is not None and now - begun >= self._patience)


class RegionShare:
    """A tenant's share of one region."""

    def __init__(self, threads: Threads, concurrency: int, patience: float, owner: Owner) -> None:
        self.bulkhead = Bulkhead(threads, concurrency, owner)
        self.pulse = Pulse(patience)
        self.retries = RetryBudget()


class TenantShare:
    """All that is kept for a tenant."""

    def __init__(self, threads: Threads, concurrency: int, rate: RateBudget, patience: float) -> None:
        self._threads = threads
        self._concurrency = concurrency
        self._patience = patience
        # In all regions: enough for two, but a quarter of what all tenants have, unless one region may have more.
        self._owner = Owner(threads, max(concurrency, min(2 * concurrency, threads.most // 4)))
        self._regions: dict[str, RegionShare] = {}
        self.rate = rate
        self.roles = TenantRoles()

    def region(self, region: str) -> RegionShare:
        """The share of a region."""
        found = self._regions.get(region)
        if found is None:
            found = RegionShare(self._threads, self._concurrency, self._patience, self._owner)
            self._regions[region] = found
        return found

    @property
    def idle(self) -> bool:
        """Whether another, made later, would be the same."""
        return self.rate.full and all(one.bulkhead.idle for one in self._regions.values())


class Shares:
    """The tenants' shares, those used last."""

    def __init__(self, make: Callable[[], TenantShare], most: int = MOST_TENANTS) -> None:
        self._make = make
        self._most = most
        self._shares: collections.OrderedDict[str, TenantShare] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._shares)

    def get(self, tenant: str) -> TenantShare:
        """A tenant's share."""
        found = self._shares.get(tenant)
        if found is None:
            self._make_room()
            found = self._shares[tenant] = self._make()
        self._shares.move_to_end(tenant)
        return found

    def _make_room(self) -> None:
        if len(self._shares) >= self._most:
            for tenant, share in tuple(itertools.islice(self._shares.items(), _LOOKED_AT)):
                if share.idle and len(self._shares) >= self._most:
                    del self._shares[tenant]
