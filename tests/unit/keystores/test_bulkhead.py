"""Threads and shares: bounded, fair, live work first, and nobody forgotten."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from ownkey_server.keystores.bulkhead import Bulkhead, Closed, NoAnswer, NoPlace, Owner, Threads

SECONDS = 20.0


class Hold:
    """Work that does not come back until it may."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.entered = threading.Semaphore(0)

    def __call__(self, deadline: float) -> str:
        self.entered.release()
        assert self.go.wait(SECONDS)
        return "held"

    async def began(self, times: int) -> None:
        for _ in range(times):
            assert await asyncio.to_thread(self.entered.acquire, timeout=SECONDS)


@pytest.fixture
def hold() -> Iterator[Hold]:
    made = Hold()
    yield made
    made.go.set()


def quick(deadline: float) -> str:
    return "quick"


def start(share: Bulkhead, work: object, count: int, *, background: bool = False) -> list[asyncio.Task[str]]:
    return [asyncio.ensure_future(share.run(work, SECONDS, background=background)) for _ in range(count)]  # type: ignore[arg-type]


async def finish(threads: Threads, hold: Hold, tasks: list[asyncio.Task[str]]) -> None:
    hold.go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    threads.close()


async def test_a_share_has_no_more_than_its_own(hold: Hold) -> None:
    threads = Threads(16, "t")
    share = Bulkhead(threads, 3)
    tasks = start(share, hold, 5)
    await hold.began(3)
    assert threads.busy == 3
    with pytest.raises(NoPlace):
        await share.run(quick, 0.01)
    await finish(threads, hold, tasks)
    assert [task.result() for task in tasks] == ["held"] * 5
    assert share.idle


@pytest.mark.parametrize("hanging", [1, 2, 3, 7, 8])
async def test_a_healthy_share_finds_a_thread_however_many_others_hang(hold: Hold, hanging: int) -> None:
    threads = Threads(16, "t")
    tasks = [task for _ in range(hanging) for task in start(Bulkhead(threads, 8), hold, 8)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await Bulkhead(threads, 8).run(quick, SECONDS) == "quick"
    await finish(threads, hold, tasks)


async def test_the_more_others_have_the_less_a_share_may(hold: Hold) -> None:
    threads = Threads(16, "t")
    tasks = start(Bulkhead(threads, 4), hold, 4)
    await hold.began(4)
    tasks += start(Bulkhead(threads, 7), hold, 7)
    await hold.began(4)
    assert threads.busy == 8
    tasks += start(Bulkhead(threads, 4), hold, 4)
    await hold.began(1)
    assert threads.busy == 9
    await finish(threads, hold, tasks)


async def test_an_owner_of_many_shares_has_no_more_than_its_own_in_all_of_them(hold: Hold) -> None:
    threads = Threads(32, "t")
    owner = Owner(threads, 6)
    tasks = [task for _ in range(10) for task in start(Bulkhead(threads, 4, owner), hold, 4)]
    await hold.began(6)
    with pytest.raises(NoPlace):
        await Bulkhead(threads, 4, owner).run(quick, 0.01)
    assert threads.busy == 6
    await finish(threads, hold, tasks)
    assert [task.result() for task in tasks] == ["held"] * 40
    assert (threads.busy, threads.owners, owner.busy, owner.shares) == (0, 0, 0, 0)


async def test_an_owner_s_own_shares_are_none_of_the_others_that_make_its_shares_shrink(hold: Hold) -> None:
    threads = Threads(32, "t")
    owner = Owner(threads, 8)
    tasks = start(Bulkhead(threads, 4, owner), hold, 4) + start(Bulkhead(threads, 4, owner), hold, 4)
    await hold.began(8)
    await finish(threads, hold, tasks)


async def test_a_second_share_finds_a_thread_though_the_first_hangs_and_others_have_half(hold: Hold) -> None:
    threads = Threads(16, "t")
    owner = Owner(threads, 4)
    tasks = start(Bulkhead(threads, 4, owner), hold, 4)
    tasks += [task for _ in range(8) for task in start(Bulkhead(threads, 1), hold, 1)]
    await hold.began(12)
    other = Bulkhead(threads, 4, owner)
    assert await other.run(quick, SECONDS) == "quick"
    assert await other.run(quick, SECONDS, background=True) == "quick"
    tasks += start(other, hold, 1)
    await hold.began(1)
    with pytest.raises(NoPlace):
        await Bulkhead(threads, 4, owner).run(quick, 0.01)
    await finish(threads, hold, tasks)


async def test_half_as_many_owners_as_threads_leave_one_however_many_of_their_shares_hang(hold: Hold) -> None:
    threads = Threads(16, "t")
    owners = [Owner(threads, 4) for _ in range(8)]
    tasks = [task for _ in range(4) for owner in owners for task in start(Bulkhead(threads, 2, owner), hold, 2)]
    await hold.began(8)
    assert await Bulkhead(threads, 2).run(quick, SECONDS) == "quick"
    assert threads.free > 0
    await finish(threads, hold, tasks)


async def test_background_work_leaves_half_of_all_shares_to_live_work(hold: Hold) -> None:
    threads = Threads(32, "t")
    owner = Owner(threads, 8)
    shares = [Bulkhead(threads, 4, owner) for _ in range(8)]
    tasks = [task for share in shares for task in start(share, hold, 4, background=True)]
    await hold.began(4)
    assert threads.busy == 4
    assert await shares[7].run(quick, SECONDS) == "quick"
    await finish(threads, hold, tasks)


async def test_a_thread_that_becomes_free_wakes_those_who_wait_in_other_shares(hold: Hold) -> None:
    threads = Threads(2, "t")
    mine, others = Bulkhead(threads, 2), Bulkhead(threads, 2)
    first, second = start(mine, hold, 1), start(others, hold, 1)
    await hold.began(2)
    waits = asyncio.ensure_future(Bulkhead(threads, 2).run(quick, SECONDS))
    await asyncio.sleep(0)
    assert not waits.done()
    hold.go.set()  # of two shares that have nobody waiting
    assert await waits == "quick"
    await finish(threads, hold, first + second)


async def test_live_work_of_any_share_comes_before_background_work(hold: Hold) -> None:
    threads = Threads(2, "t")
    held = start(Bulkhead(threads, 2), hold, 1) + start(Bulkhead(threads, 2), hold, 1)
    await hold.began(2)
    order: list[str] = []
    share = Bulkhead(threads, 2)
    background = asyncio.ensure_future(share.run(lambda _: order.append("background"), SECONDS, background=True))
    await asyncio.sleep(0)
    live = asyncio.ensure_future(Bulkhead(threads, 1).run(lambda _: order.append("live"), SECONDS))
    await asyncio.sleep(0)
    hold.go.set()
    await asyncio.gather(background, live)
    assert order == ["live", "background"]
    await finish(threads, hold, held)


async def test_background_work_leaves_half_of_a_share_to_live_work(hold: Hold) -> None:
    threads = Threads(16, "t")
    share = Bulkhead(threads, 4)
    tasks = start(share, hold, 4, background=True)
    await hold.began(2)
    assert threads.busy == 2
    assert await share.run(quick, SECONDS) == "quick"
    await finish(threads, hold, tasks)


async def test_a_call_that_is_given_up_keeps_its_place_until_it_comes_back(hold: Hold) -> None:
    threads = Threads(2, "t")
    share = Bulkhead(threads, 1)
    with pytest.raises(NoAnswer):
        await share.run(hold, 0.02)
    assert threads.busy == 1
    with pytest.raises(NoPlace):
        await share.run(quick, 0.02)
    hold.go.set()
    assert await share.run(quick, SECONDS) == "quick"
    threads.close()


async def test_a_waiter_that_is_cancelled_takes_nobodys_place(hold: Hold) -> None:
    threads = Threads(2, "t")
    share = Bulkhead(threads, 1)
    tasks = start(share, hold, 1)
    await hold.began(1)
    waits = start(share, quick, 3)
    await asyncio.sleep(0)
    waits[0].cancel()
    hold.go.set()
    assert await asyncio.gather(*waits[1:]) == ["quick"] * 2
    assert share.idle
    assert threads.busy == 0
    await finish(threads, hold, tasks)


async def test_closing_tells_those_who_wait_and_those_who_come(hold: Hold) -> None:
    threads = Threads(2, "t")
    share = Bulkhead(threads, 1)
    tasks = start(share, hold, 2)
    await hold.began(1)
    threads.close()
    with pytest.raises(Closed):
        await tasks[1]
    with pytest.raises(Closed):
        await share.run(quick, SECONDS)
    hold.go.set()
    assert await tasks[0] == "held"


async def test_no_time_is_no_place() -> None:
    threads = Threads(2, "t")
    with pytest.raises(NoPlace):
        await Bulkhead(threads, 1).run(quick, 0.0)
    threads.close()


async def test_the_works_own_error_comes_through_even_a_timeout() -> None:
    threads = Threads(2, "t")

    def fails(deadline: float) -> None:
        raise TimeoutError("the work's own")

    with pytest.raises(TimeoutError, match="own"):
        await Bulkhead(threads, 1).run(fails, SECONDS)
    threads.close()


@pytest.mark.parametrize("how", ["too late", "the caller left"])
async def test_what_comes_when_nobody_waits_any_more_is_discarded(how: str) -> None:
    threads = Threads(2, "t")
    share = Bulkhead(threads, 2)
    go, entered = threading.Event(), threading.Event()
    discarded: asyncio.Queue[bytearray] = asyncio.Queue()
    key = bytearray(b"secret")

    def opens(deadline: float) -> bytearray:
        entered.set()
        assert go.wait(SECONDS)
        return key

    def wipe(opened: bytearray) -> None:
        opened[:] = bytes(len(opened))
        discarded.put_nowait(opened)

    if how == "too late":
        with pytest.raises(NoAnswer):
            await share.run(opens, 0.05, discard=wipe)
    else:
        caller = asyncio.ensure_future(share.run(opens, SECONDS, discard=wipe))
        assert await asyncio.to_thread(entered.wait, SECONDS)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
    assert key == b"secret"
    go.set()
    assert await asyncio.wait_for(discarded.get(), SECONDS) is key
    assert key == bytes(6)
    assert threads.busy == 0
    threads.close()


async def test_what_its_caller_gets_is_not_discarded() -> None:
    threads = Threads(1, "t")
    discarded: list[str] = []
    assert await Bulkhead(threads, 1).run(quick, SECONDS, discard=discarded.append) == "quick"
    await asyncio.sleep(0)
    assert discarded == []
    threads.close()
