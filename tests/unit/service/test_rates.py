from __future__ import annotations

import pytest

from ownkey_server.domain.errors import RateLimited
from ownkey_server.service.rates import Rate, RateLimits, Rates


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken(rates: Rates, principal: str, tenant: str, cost: float = 1) -> int:
    """How many calls go through until one is refused."""
    for count in range(1000):
        try:
            rates.take(principal, tenant, cost)
        except RateLimited:
            return count
    return 1000


def test_without_a_limit_nothing_is_refused() -> None:
    assert taken(Rates(RateLimits(), Clock()), "recorder", "acme") == 1000


def test_a_full_bucket_allows_its_burst_and_then_the_rate() -> None:
    clock = Clock()
    rates = Rates(RateLimits(principal=Rate(10, burst=5)), clock)
    assert taken(rates, "recorder", "acme") == 5
    clock.now += 0.35
    assert taken(rates, "recorder", "acme") == 3
    clock.now += 3600
    assert taken(rates, "recorder", "acme") == 5


def test_a_refusal_tells_whose_rate_it_is_and_when_the_same_call_goes_through() -> None:
    clock = Clock()
    rates = Rates(RateLimits(tenant=Rate(4, burst=2)), clock)
    rates.take("recorder", "acme", 2)
    with pytest.raises(RateLimited, match="tenant 'acme' may make 4 calls a second") as caught:
        rates.take("recorder", "acme", 2)
    assert caught.value.limited == "tenant"
    assert caught.value.retry_seconds == pytest.approx(0.5)
    clock.now += caught.value.retry_seconds
    rates.take("recorder", "acme", 2)


def test_principals_and_tenants_have_buckets_of_their_own() -> None:
    rates = Rates(RateLimits(principal=Rate(1, burst=3), tenant=Rate(1, burst=2)), Clock())
    assert taken(rates, "recorder", "acme") == 2
    assert taken(rates, "recorder", "globex") == 1
    assert taken(rates, "player", "globex") == 1


def test_what_the_tenants_rate_refuses_is_not_counted_against_the_caller() -> None:
    rates = Rates(RateLimits(principal=Rate(1, burst=3), tenant=Rate(1, burst=1)), Clock())
    assert taken(rates, "recorder", "acme") == 1
    for _ in range(10):
        with pytest.raises(RateLimited):
            rates.take("recorder", "acme")
    assert taken(rates, "recorder", "globex") + taken(rates, "recorder", "initech") == 2


def test_what_the_callers_rate_refuses_is_not_counted_against_the_tenant() -> None:
    rates = Rates(RateLimits(principal=Rate(1, burst=1), tenant=Rate(1, burst=3)), Clock())
    assert taken(rates, "recorder", "acme") == 1
    for _ in range(10):
        with pytest.raises(RateLimited):
            rates.take("recorder", "acme")
    assert taken(rates, "player", "acme") + taken(rates, "archiver", "acme") == 2


def test_a_batch_larger_than_the_burst_waits_for_a_full_bucket_and_not_for_ever() -> None:
    clock = Clock()
    rates = Rates(RateLimits(tenant=Rate(10, burst=20)), clock)
    rates.take("recorder", "acme", 500)
    with pytest.raises(RateLimited) as caught:
        rates.take("recorder", "acme", 500)
    assert caught.value.retry_seconds == pytest.approx(2.0)
    clock.now += 2
    rates.take("recorder", "acme", 500)


def test_calls_without_a_name_are_not_counted_by_it() -> None:
    rates = Rates(RateLimits(principal=Rate(1, burst=1), tenant=Rate(1, burst=1)), Clock())
    assert taken(rates, "", "") == 1000
    assert taken(rates, "recorder", "") == 1
    assert taken(rates, "", "acme") == 1


def test_memory_is_bounded_and_whoever_keeps_calling_is_not_forgotten() -> None:
    rates = Rates(RateLimits(tenant=Rate(1, burst=2), buckets=10), Clock())
    rates.take("recorder", "acme", 2)
    for number in range(1000):
        rates.take("recorder", f"tenant-{number}")
        with pytest.raises(RateLimited):
            rates.take("recorder", "acme")
    assert rates.kept == 10


@pytest.mark.parametrize(("per_second", "burst"), [(0, 1), (-1, 1), (1, 0), (1, 0.5)])
def test_a_rate_that_would_refuse_everything_is_none(per_second: float, burst: float) -> None:
    with pytest.raises(ValueError, match="burst of at least 1"):
        Rate(per_second, burst)
