"""Who waits, who makes room, and who leaves."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from support.admission import BACKGROUND, LIMITS, LIVE, PLAYBACK, Desk, full, opened, until


async def test_tenants_take_turns_so_that_a_flood_delays_another_by_one_call(desk: Desk) -> None:
    await full(desk)
    for number in range(5):
        await desk.call(f"flood-{number}", tenant="globex")
    await desk.call("single", tenant="initech")
    await desk.end_all()
    assert desk.began[2:5] == ["flood-0", "single", "flood-1"]


async def test_when_the_queue_is_full_the_newest_of_the_lowest_priority_goes(desk: Desk) -> None:
    await full(desk)
    await desk.call("background-old", BACKGROUND)
    await desk.call("background-new", BACKGROUND)
    for number in range(4):
        await desk.call(f"live-{number}")
    await desk.call("live-4")
    await until(lambda: set(desk.refused) == {"background-new"})
    await desk.call("live-5")
    await until(lambda: set(desk.refused) == {"background-new", "background-old"})
    assert desk.admission.waiting == 6


async def test_what_comes_to_a_full_queue_of_more_urgent_calls_is_refused_itself(desk: Desk) -> None:
    await full(desk)
    for number in range(6):
        await desk.call(f"live-{number}")
    await desk.call("playback", PLAYBACK)
    await desk.call("live-6")
    assert set(desk.refused) == {"playback", "live-6"}
    error = desk.refused["playback"]
    assert error.priority == "playback"
    assert error.retry_seconds > desk.refused["live-6"].retry_seconds > 0
    assert "too busy for playback work: too many calls wait" in str(error)


@pytest.mark.parametrize("flood", ["globex", ""])
async def test_in_a_full_queue_the_tenant_with_the_most_calls_makes_room(desk: Desk, flood: str) -> None:
    await full(desk)
    for number in range(6):
        await desk.call(f"flood-{number}", tenant=flood)
    await desk.call("single", tenant="initech")
    await until(lambda: set(desk.refused) == {"flood-5"})
    await desk.call("flood-6", tenant=flood)
    assert set(desk.refused) == {"flood-5", "flood-6"}


@pytest.mark.parametrize("flood", ["globex", ""])
async def test_a_more_urgent_call_makes_room_for_itself_whoever_fills_the_queue(desk: Desk, flood: str) -> None:
    await full(desk)
    for number in range(6):
        await desk.call(f"flood-{number}", BACKGROUND, tenant=flood)
    await desk.call("live", tenant=flood)
    await until(lambda: set(desk.refused) == {"flood-5"})


async def test_a_call_that_waited_for_as_long_as_its_priority_may_is_refused() -> None:
    async with opened(replace(LIMITS, place_seconds=3600)) as desk:
        await full(desk)
        await desk.call("live", LIVE)
        await desk.call("background", BACKGROUND)
        desk.clock.now += 0.2
        await until(lambda: set(desk.refused) == {"background"})
        assert "it waited for 0.1 s" in str(desk.refused["background"])
        desk.clock.now += 1
        await until(lambda: set(desk.refused) == {"background", "live"})


async def test_those_who_waited_too_long_are_refused_a_few_at_a_time_the_least_urgent_first() -> None:
    async with opened(replace(LIMITS, place_seconds=3600)) as desk:
        await full(desk)
        for number in range(3):
            await desk.call(f"live-{number}", tenant=f"tenant-{number}")
            await desk.call(f"background-{number}", BACKGROUND)
        desk.clock.now += 2
        seen: list[set[str]] = []

        def refused() -> bool:
            if not seen or set(desk.refused) != seen[-1]:
                seen.append(set(desk.refused))
            return len(desk.refused) == 6

        await until(refused)
        assert seen[1:] == [
            {"background-0", "background-1"},
            {"background-0", "background-1", "background-2", "live-0"},
            {"background-0", "background-1", "background-2", "live-0", "live-1", "live-2"},
        ]


async def test_a_caller_that_leaves_while_it_waits_frees_its_place_in_the_queue_at_once(desk: Desk) -> None:
    await full(desk)
    for number in range(6):
        await desk.call(f"live-{number}")
    await desk.leave("live-2", "live-4")
    assert desk.admission.waiting == 4
    await desk.end_all()
    assert desk.began[2:] == ["live-0", "live-1", "live-3", "live-5"]


async def test_a_caller_that_leaves_as_its_turn_comes_leaks_no_place(desk: Desk) -> None:
    await full(desk)
    await desk.call("third")
    await desk.call("fourth")
    first, third = desk.tasks["first"], desk.tasks["third"]
    first.cancel()
    while desk.admission.waiting != 1:
        await asyncio.sleep(0)
    third.cancel()  # its turn has come, and it does not know yet
    await asyncio.gather(first, third, return_exceptions=True)
    await until(lambda: desk.began == ["first", "second", "fourth"])


async def test_a_caller_that_leaves_just_before_its_turn_is_passed_over(desk: Desk) -> None:
    await full(desk)
    await desk.call("third")
    await desk.call("fourth")
    desk.tasks["third"].cancel()  # the queue does not know yet
    await desk.end("first")
    await until(lambda: desk.began == ["first", "second", "fourth"])


async def test_a_call_that_fails_gives_its_place_back(desk: Desk) -> None:
    for _ in range(10):
        with pytest.raises(ZeroDivisionError):
            async with desk.admission.admitted(LIVE, "acme"):
                raise ZeroDivisionError
    assert desk.admission.working == 0


async def test_nobody_works_for_a_caller_whose_deadline_has_passed() -> None:
    async with opened(replace(LIMITS, place_seconds=3600)) as desk:
        await full(desk)
        await desk.call("impatient", remaining=0.3)
        await desk.call("patient", remaining=0.9)
        desk.clock.now += 0.5
        await desk.end("first")
        await until(lambda: desk.began == ["first", "second", "patient"])
        assert "deadline" in str(desk.refused["impatient"])
