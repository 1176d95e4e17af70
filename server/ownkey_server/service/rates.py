"""How often one caller, and one tenant, may call: token buckets.

A rate says what was agreed with a caller; it is refused even when the server is idle. What protects the server itself
is ``admission.py``. Emergency calls are never counted: whoever asks here sees to that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ownkey_server.domain.errors import RateLimited

MAX_BUCKETS = 10_000


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket's measures.

    Attributes:
        per_second: Tokens that come each second.
        burst: Tokens that a full bucket holds: what may be taken at once after a pause.
    """

    per_second: float
    burst: float

    def __post_init__(self) -> None:
        if self.per_second <= 0 or self.burst < 1:
            raise ValueError("a rate needs more than 0 tokens a second, and a burst of at least 1")


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What callers and tenants may do. None is without limit.

    Attributes:
        principal: For each principal: a service that calls.
        tenant: For each tenant, whoever calls for it.
        buckets: How many of each kind are kept; whoever was not seen for the longest is forgotten first, and begins
            again with a full bucket.
    """

    principal: Rate | None = None
    tenant: Rate | None = None
    buckets: int = MAX_BUCKETS


class Rates:
    """Counts calls against their rates. Belongs to one event loop.

    Args:
        limits: What may be done.
        monotonic: The present time of a clock that is never set.
    """

    def __init__(self, limits: RateLimits, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._principals = _Buckets("principal", limits.principal, limits.buckets) if limits.principal else None
        self._tenants = _Buckets("tenant", limits.tenant, limits.buckets) if limits.tenant else None

    @property
    def kept(self) -> int:
        """How many buckets are in memory."""
        return sum(len(buckets) for buckets in (self._principals, self._tenants) if buckets is not None)

    def take(self, principal: str, tenant: str, cost: float = 1) -> None:
        """Count a call. A call that is refused is counted against neither.

        Args:
            principal: Who calls; empty when it is not known, and then not counted by this name.
            tenant: For whom; empty when the call is for no tenant.
            cost: How many tokens the call is worth: the items of a batch. More than the burst is taken as the burst,
                so that a large batch waits for a full bucket, and not for ever.

        Raises:
            RateLimited: One of the two has too few tokens; the error says which, and when there will be enough.
        """
        principals = self._principals if principal else None
        tenants = self._tenants if tenant else None
        if principals is None and tenants is None:
            return
        now = self._monotonic()
        if principals is not None:
            principals.require(principal, cost, now)
        if tenants is not None:
            tenants.require(tenant, cost, now)
            tenants.spend(tenant, cost)
        if principals is not None:
            principals.spend(principal, cost)


class _Bucket:
    __slots__ = ("at", "tokens")

    def __init__(self, tokens: float, at: float) -> None:
        self.tokens = tokens
        self.at = at


class _Buckets:
    """The buckets of one kind, by name."""

    def __init__(self, kind: str, rate: Rate, most: int) -> None:
        self._kind = kind
        self._rate = rate
        self._most = most
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def require(self, name: str, cost: float, now: float) -> None:
        """Fill the bucket for the time that passed, and refuse what it has too few tokens for."""
        rate = self._rate
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= self._most:
                self._buckets.popitem(last=False)
            self._buckets[name] = bucket = _Bucket(rate.burst, now)
        else:
            self._buckets.move_to_end(name)
            bucket.tokens = min(rate.burst, bucket.tokens + (now - bucket.at) * rate.per_second)
            bucket.at = now
        missing = min(cost, rate.burst) - bucket.tokens
        if missing > 0:
            raise RateLimited(self._kind, name, rate.per_second, missing / rate.per_second)

    def spend(self, name: str, cost: float) -> None:
        """Take the tokens that :meth:`require` found."""
        self._buckets[name].tokens -= min(cost, self._rate.burst)
