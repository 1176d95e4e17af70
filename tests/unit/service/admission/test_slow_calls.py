"""Calls that take long keep nobody from a place, and leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from ownkey_server.domain.errors import Overloaded
from ownkey_server.service.admission import Priority
from support.admission import LIMITS, Desk, full, opened, until


async def test_slow_calls_keep_nobody_from_their_places(desk: Desk) -> None:
    await full(desk)
    await desk.call("third", tenant="globex")
    assert desk.admission.waiting == 1
    desk.clock.now += 0.06
    await until(lambda: "third" in desk.began)
    assert (desk.admission.working, desk.admission.slow) == (1, 2)
    await desk.end("first", "second")
    assert (desk.admission.working, desk.admission.slow) == (1, 0)


async def test_a_tenant_whose_calls_are_all_slow_is_refused_and_no_other(desk: Desk) -> None:
    for number in range(3):
        await desk.call(f"slow-{number}", tenant="globex")
        desk.clock.now += 0.06
    await full(desk)
    await desk.call("one-more", tenant="globex")
    assert desk.admission.slow == 3
    assert "3 calls of the tenant are slow" in str(desk.refused["one-more"])
    assert desk.began[-2:] == ["first", "second"]


async def test_slow_calls_are_bounded_all_together() -> None:
    async with opened(replace(LIMITS, slow=4)) as desk:
        for number in range(6):
            await desk.call(f"slow-{number}", tenant=f"tenant-{number}")
            desk.clock.now += 0.06
        assert (desk.admission.working, desk.admission.slow) == (2, 4)
        await desk.call("waits")
        assert desk.admission.waiting == 1
        await desk.end("slow-0")
        await until(lambda: "waits" in desk.began)


async def test_no_timer_runs_while_nobody_waits(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    timers = []
    later = loop.call_later
    monkeypatch.setattr(loop, "call_later", lambda *args: timers.append(args) or later(*args))
    await full(desk)
    await desk.end("first", "second")
    assert not timers
    await full(desk)
    await desk.call("third")
    assert len(timers) == 1


async def test_ten_thousand_calls_that_come_end_and_leave_leak_nothing(desk: Desk) -> None:
    async def one(number: int) -> None:
        with contextlib.suppress(Overloaded, TimeoutError):
            async with asyncio.timeout(0.0001 * (number % 7)):
                async with desk.admission.admitted(Priority(1 + number % 4), f"tenant-{number % 5}"):
                    desk.clock.now += 0.001
                    await asyncio.sleep(0)

    for start in range(0, 10_000, 20):
        await asyncio.gather(*(one(number) for number in range(start, start + 20)))
    assert (desk.admission.working, desk.admission.waiting, desk.admission.slow) == (0, 0, 0)
