"""Who is worked on at once: places, those that are reserved, and who goes first."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from ownkey_server.service.admission import BEGUN_AT_ONCE, Priority
from support.admission import BACKGROUND, CHANGE, LIMITS, LIVE, PLAYBACK, READ, Desk, full, opened, until


async def test_as_many_calls_as_there_are_places_are_worked_on_and_the_next_waits(desk: Desk) -> None:
    await full(desk)
    await desk.call("third")
    assert (desk.admission.working, desk.admission.waiting) == (2, 1)
    await desk.end("first")
    await until(lambda: desk.began == ["first", "second", "third"])
    assert (desk.admission.working, desk.admission.waiting) == (2, 0)


async def test_the_most_urgent_goes_first_whenever_it_came(desk: Desk) -> None:
    await full(desk)
    for priority in (BACKGROUND, READ, CHANGE, PLAYBACK, LIVE):
        await desk.call(priority.name, priority)
    await desk.end_all()
    assert desk.began[2:] == ["LIVE", "PLAYBACK", "CHANGE", "READ", "BACKGROUND"]


async def test_the_call_gate_never_waits_and_takes_no_place(desk: Desk) -> None:
    await full(desk)
    for number in range(100):
        await desk.call(f"gate-{number}", Priority.GATE)
    assert len(desk.began) == 102
    assert (desk.admission.working, desk.admission.waiting) == (2, 0)


ROOM = replace(LIMITS, places={LIVE: 4, PLAYBACK: 3, CHANGE: 3, READ: 3, BACKGROUND: 1})


async def test_background_work_goes_on_beside_little_else_and_leaves_room_for_what_is_urgent() -> None:
    async with opened(ROOM) as desk:
        await desk.call("background-0", BACKGROUND)
        await desk.call("background-1", BACKGROUND)
        await desk.call("playback-0", PLAYBACK)
        await desk.call("playback-1", PLAYBACK)
        await desk.call("playback-2", PLAYBACK)
        await desk.call("live-0")
        assert desk.began == ["background-0", "playback-0", "playback-1", "live-0"]
        await desk.end("background-0", "playback-0")
        await until(lambda: desk.began[4:] == ["playback-2"])
        await desk.end("playback-1", "playback-2")
        await desk.call("live-1")
        assert desk.admission.waiting == 1
        await desk.end("live-0", "live-1")
        await until(lambda: desk.began[-1] == "background-1")


async def test_what_is_less_urgent_and_waits_holds_up_nothing_that_may_begin() -> None:
    async with opened(ROOM) as desk:
        for number in range(3):
            await desk.call(f"background-{number}", BACKGROUND)
        await desk.call("live-0")
        assert desk.began == ["background-0", "live-0"]


async def test_nobody_overtakes_who_is_more_urgent_and_waits_as_a_place_becomes_free(desk: Desk) -> None:
    await full(desk)
    await desk.call("live")
    desk.tasks["first"].cancel()
    while desk.admission.working == 2:
        await asyncio.sleep(0)
    await desk.call("playback", PLAYBACK)  # the place is free, and not yet given to the one that waits
    await until(lambda: desk.began == ["first", "second", "live"])


RESERVED = replace(LIMITS, reserved={CHANGE: 3, READ: 1}, reserved_of_tenant=2, place_seconds=3600)


async def test_changes_are_possible_whatever_else_there_is_to_do_and_take_no_place_from_it() -> None:
    async with opened(RESERVED) as desk:
        await full(desk)
        await desk.call("live")
        await desk.call("revoke", CHANGE)
        await desk.call("look", READ)
        assert desk.began == ["first", "second", "revoke", "look"]
        assert (desk.admission.working, desk.admission.reserved, desk.admission.waiting) == (2, 2, 1)
        await desk.end("first")
        await until(lambda: desk.began[-1] == "live")


async def test_of_the_places_that_are_reserved_one_tenant_has_its_share_alone() -> None:
    async with opened(RESERVED) as desk:
        await full(desk)
        for number in range(4):
            await desk.call(f"flood-{number}", CHANGE, "globex")
        assert desk.began[2:] == ["flood-0", "flood-1"]
        await desk.call("revoke", CHANGE)
        assert desk.began[4:] == ["revoke"]
        await desk.call("another", CHANGE)
        await desk.call("more", CHANGE, "initech")
        assert desk.admission.waiting == 4
        await desk.end("flood-0", "flood-1", "revoke")
        await until(lambda: desk.began[5:] == ["flood-2", "another", "more"])


async def test_those_who_wait_for_a_reserved_place_take_turns() -> None:
    async with opened(replace(RESERVED, reserved={READ: 1})) as desk:
        await full(desk)
        for number in range(3):
            await desk.call(f"flood-{number}", READ, "globex")
        await desk.call("look", READ)
        for name in ("flood-0", "flood-1", "look"):
            assert desk.began[-1] == name
            await desk.end(name)
        await until(lambda: desk.began[-1] == "flood-2")


async def test_whoever_leaves_or_whose_deadline_passes_keeps_no_reserved_place() -> None:
    async with opened(replace(RESERVED, reserved={CHANGE: 1})) as desk:
        await full(desk)
        await desk.call("one", CHANGE)
        await desk.call("impatient", CHANGE, remaining=0.3)
        await desk.call("leaves", CHANGE, "globex")
        await desk.call("two", CHANGE)
        desk.clock.now += 0.5
        desk.tasks["leaves"].cancel()
        await desk.end("one")
        await until(lambda: desk.began[-1] == "two")
        assert set(desk.refused) == {"impatient"}
        assert desk.admission.reserved == 1


async def test_what_finds_no_reserved_place_takes_its_chance_among_the_others() -> None:
    async with opened(replace(RESERVED, reserved={CHANGE: 1})) as desk:
        for number in range(4):
            await desk.call(f"change-{number}", CHANGE)
        assert (desk.admission.reserved, desk.admission.working, desk.admission.waiting) == (1, 2, 1)
        await desk.end("change-1")
        await until(lambda: desk.began[-1] == "change-3")


async def test_a_crowd_that_ends_together_is_followed_a_few_at_a_time() -> None:
    async with opened(replace(LIMITS, places=dict.fromkeys(LIMITS.places, 20), waiting=20)) as desk:
        crowd = [f"crowd-{number}" for number in range(20)]
        for name in (*crowd, *(f"next-{number}" for number in range(20))):
            await desk.call(name)
        rounds: list[int] = []
        ending = asyncio.create_task(desk.end(*crowd))
        while len(desk.began) < 40:
            before = len(desk.began)
            await asyncio.sleep(0)
            rounds.append(len(desk.began) - before)
        await ending
        assert max(rounds) == BEGUN_AT_ONCE
