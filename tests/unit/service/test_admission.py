from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from ownkey_server.domain.errors import Overloaded
from ownkey_server.service.admission import BEGUN_AT_ONCE, Admission, AdmissionLimits, Priority

LIVE, PLAYBACK, CHANGE, READ, BACKGROUND = (
    Priority.LIVE,
    Priority.PLAYBACK,
    Priority.CHANGE,
    Priority.READ,
    Priority.BACKGROUND,
)
LIMITS = AdmissionLimits(
    places=dict.fromkeys((LIVE, PLAYBACK, CHANGE, READ, BACKGROUND), 2),
    reserved={},
    place_seconds=0.05,
    slow=8,
    slow_of_tenant=3,
    waiting=6,
    patience={CHANGE: 5.0, READ: 5.0, LIVE: 1.0, PLAYBACK: 0.5, BACKGROUND: 0.1},
    streams={LIVE: 8, PLAYBACK: 6, BACKGROUND: 4},
    stream_share=0.5,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


class Desk:
    """Calls that come, wait, are worked on until they are told to end, and are remembered in the order they began."""

    def __init__(self, limits: AdmissionLimits = LIMITS) -> None:
        self.clock = Clock()
        self.admission = Admission(limits, self.clock)
        self.began: list[str] = []
        self.refused: dict[str, Overloaded] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def call(
        self, name: str, priority: Priority = LIVE, tenant: str = "acme", remaining: float | None = None
    ) -> None:
        """A call comes; on return it works, waits or was refused."""
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._run(name, priority, tenant, remaining))
        await asyncio.sleep(0)

    async def _run(self, name: str, priority: Priority, tenant: str, remaining: float | None) -> None:
        try:
            async with self.admission.admitted(priority, tenant, remaining):
                self.began.append(name)
                await self._ends[name].wait()
        except Overloaded as error:
            self.refused[name] = error

    async def end(self, *names: str) -> None:
        """These calls end."""
        for name in names:
            self._ends[name].set()
        await asyncio.gather(*(self.tasks[name] for name in names))

    async def leave(self, *names: str) -> None:
        """The callers of these calls hang up."""
        for name in names:
            self.tasks[name].cancel()
        await asyncio.gather(*(self.tasks[name] for name in names), return_exceptions=True)

    async def end_all(self) -> None:
        """Whatever still runs ends, and nothing may be left over."""
        for end in self._ends.values():
            end.set()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        assert (self.admission.working, self.admission.waiting, self.admission.slow) == (0, 0, 0)
        assert self.admission.reserved == 0


@contextlib.asynccontextmanager
async def opened(limits: AdmissionLimits = LIMITS) -> AsyncIterator[Desk]:
    desk = Desk(limits)
    yield desk
    await desk.end_all()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with opened() as desk:
        yield desk


async def full(desk: Desk) -> None:
    await desk.call("first")
    await desk.call("second")


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


def test_streams_are_counted_and_background_streams_are_refused_first() -> None:
    admission = Admission(LIMITS, Clock())
    with contextlib.ExitStack() as stack:
        for number in range(4):
            stack.enter_context(admission.stream(BACKGROUND, f"tenant-{number}"))
        with pytest.raises(Overloaded, match="4 media streams run"):
            stack.enter_context(admission.stream(BACKGROUND, "acme"))
        for _ in range(2):
            stack.enter_context(admission.stream(PLAYBACK, "acme"))
        with pytest.raises(Overloaded):
            stack.enter_context(admission.stream(PLAYBACK, "globex"))
        for _ in range(2):
            stack.enter_context(admission.stream(LIVE, "globex"))
        with pytest.raises(Overloaded):
            stack.enter_context(admission.stream(LIVE, "initech"))
        assert admission.streams == 8
    assert admission.streams == 0


def test_one_tenant_has_only_its_share_of_the_streams() -> None:
    admission = Admission(LIMITS, Clock())
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(admission.stream(LIVE, "globex"))
        with pytest.raises(Overloaded, match="the tenant has 4 media streams"):
            stack.enter_context(admission.stream(LIVE, "globex"))
        stack.enter_context(admission.stream(LIVE, "acme"))
