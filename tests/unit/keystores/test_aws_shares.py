from __future__ import annotations

import asyncio
import threading

from ownkey_server.keystores.aws.shares import FAILURE_SECONDS, Pulse, TenantShare
from ownkey_server.keystores.budget import RateBudget
from ownkey_server.keystores.bulkhead import Threads

SECONDS = 20.0


class Now:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_a_failure_counts_until_an_answer_and_not_for_ever() -> None:
    now = Now()
    pulse = Pulse(5.0, now)
    assert not pulse.unwell
    pulse.says(answered=False)
    now.seconds += FAILURE_SECONDS - 0.1
    assert pulse.unwell
    now.seconds += 0.1
    assert not pulse.unwell
    pulse.says(answered=False)
    pulse.says(answered=True)
    assert not pulse.unwell


def test_a_call_that_hangs_counts_for_as_long_as_it_does() -> None:
    now = Now()
    pulse = Pulse(5.0, now)
    with pulse.beat():
        assert not pulse.unwell
        now.seconds += 1000
        assert pulse.unwell
    assert not pulse.unwell


async def test_a_tenant_that_hangs_in_every_region_leaves_a_thread_to_each_of_many_others() -> None:
    threads = Threads(64, "t")
    go, begun = threading.Event(), threading.Semaphore(0)

    def hangs(deadline: float) -> None:
        begun.release()
        assert go.wait(SECONDS)

    def share() -> TenantShare:
        return TenantShare(threads, 8, RateBudget(None), 1.0)

    def call(tenant: TenantShare, region: str) -> asyncio.Task[None]:
        return asyncio.ensure_future(tenant.region(region).bulkhead.run(hangs, SECONDS))

    async def began(times: int) -> None:
        for _ in range(times):
            assert await asyncio.to_thread(begun.acquire, timeout=SECONDS)

    everywhere = share()
    calls = [call(everywhere, f"region-{number}") for number in range(36) for _ in range(8)]
    await began(16)
    assert threads.busy == 16
    calls += [call(share(), "region-0") for _ in range(32)]
    await began(32)
    assert threads.busy == 48
    go.set()
    await asyncio.gather(*calls)
    assert everywhere.idle
    threads.close()


def test_a_tenant_has_in_all_regions_no_less_than_it_may_have_in_one() -> None:
    for most, concurrency, whole in ((64, 8, 16), (16, 8, 8), (2, 1, 1), (1024, 8, 16), (40, 8, 10)):
        threads = Threads(most, "t")
        assert TenantShare(threads, concurrency, RateBudget(None), 1.0)._owner._most == whole
        threads.close()
