from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ownkey_server.domain import errors
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import CustomerKey, Replica
from ownkey_server.service.circuit_breaker import FIRST_PAUSE, LONGEST_PAUSE, OUTAGES
from ownkey_server.service.inquiries import Inquiries
from ownkey_server.service.key_store_calls import KeyStoreCall, KeyStoreCalls
from ownkey_server.service.latencies import FEWEST
from ownkey_server.service.replica_walk import ReplicaWalk
from ownkey_server.service.status_board import MAYBE_REVOKED, REVOKED_BEFORE, StatusBoard

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
ONE, TWO, THREE = (Replica(name, "acme-main") for name in ("one", "two", "three"))
KEY = CustomerKey("tenants/acme/keys/main", (ONE, TWO))
WORKS = "a data key"


class Places:
    """Places that do as a test says, and a clock that goes on when a place lets time pass."""

    def __init__(self, *, hedge: bool = False, remote: bool = False) -> None:
        self.now = 1000.0
        self.board = StatusBoard(timedelta(hours=1))
        self.does: dict[str, Any] = {}
        self.states: dict[str, KeyState] = {}
        self.asked: list[tuple[str, float]] = []
        self.discarded: list[str] = []
        self.late: list[KeyStoreCall] = []
        self.calls = KeyStoreCalls(self.late.append)
        inquiries = Inquiries(self._probe, pause=0, monotonic=lambda: self.now)
        self.walk = ReplicaWalk(
            self.board,
            lambda: NOW,
            inquiries,
            5.0,
            lambda key, place: True,
            lambda place: remote,
            hedge=hedge,
            monotonic=lambda: self.now,
        )

    async def _probe(self, key: CustomerKey, place: Replica) -> None:
        state = self.states.get(place.name)
        if state is not None:
            self.board.saw(key.name, place.name, state, "", NOW, began=self.board.moment)

    async def ask(self, place: Replica, limit: float) -> str:
        self.asked.append((place.name, limit))
        does = self.does.get(place.name, WORKS)
        if isinstance(does, asyncio.Event):
            await does.wait()
            does = self.does[place.name]
        if does == "black hole":
            self.now += limit
            does = errors.KeyUnreachable
        if isinstance(does, type):
            raise does(place.name, place.reference, "as the test says")
        return f"{does} of {place.name}"

    async def use(self, remaining: float | None = None, key: CustomerKey = KEY) -> str:
        """The place that served."""
        begin = self.calls.of("unwrap")
        return (await self.walk.first_that_serves(key, self.ask, remaining, self.discarded.append, begin)).replica

    async def fail(self, kind: type[errors.KeyStoreError], remaining: float | None = None) -> errors.KeyStoreError:
        """The error of a use that must fail so."""
        with pytest.raises(kind) as caught:
            await self.use(remaining)
        assert type(caught.value) is kind
        return caught.value

    def told(self) -> list[tuple[str, str]]:
        """What a record would say now, of the uses since the last."""
        told = [(call.replica, call.result) for call in self.calls.tell()]
        self.calls = KeyStoreCalls(self.late.append)
        return told

    def names(self) -> list[str]:
        """Which places were asked since this was last asked for."""
        names = [name for name, _ in self.asked]
        self.asked.clear()
        return names

    def state(self, key: CustomerKey = KEY) -> KeyState | None:
        evidence = self.board.of(key, NOW)
        return evidence.state if evidence else None


async def looked_into() -> None:
    """What one failed call has shown is asked about meanwhile."""
    for _ in range(5):
        await asyncio.sleep(0)


# Time


@pytest.mark.parametrize(("remaining", "whole"), [(None, 5.0), (1.0, 1.0), (4.0, 4.0)])
async def test_a_place_that_swallows_questions_leaves_the_next_as_much_as_it_had(
    remaining: float | None, whole: float
) -> None:
    places = Places()
    places.does["one"] = "black hole"
    assert await places.use(remaining) == "two"
    assert places.asked == [("one", whole / 2), ("two", whole / 2)]
    assert places.now == 1000.0 + whole / 2


async def test_time_that_is_not_needed_goes_to_those_that_follow() -> None:
    places = Places()
    places.does |= {"one": errors.KeyUnreachable, "two": "black hole"}
    key = CustomerKey(KEY.name, (ONE, TWO, THREE))
    assert await places.use(3.0, key) == "three"
    assert places.asked == [("one", 1.0), ("two", 1.5), ("three", 1.5)]


async def test_no_place_is_asked_when_no_time_is_left() -> None:
    places = Places()
    places.does["one"] = "black hole"
    await places.fail(errors.KeyUnreachable, 0.0)
    assert places.names() == ["one"]


# Outages


async def test_a_place_that_is_out_of_order_is_passed_over_and_costs_no_time() -> None:
    places = Places()
    places.does["one"] = "black hole"
    for _ in range(OUTAGES):
        assert await places.use(1.0) == "two"
    assert places.names() == ["one", "two"] * OUTAGES
    assert await places.use(1.0) == "two"
    assert places.asked == [("two", 1.0)]


async def test_a_place_that_is_passed_over_gets_no_share_of_the_time() -> None:
    places = Places()
    for _ in range(OUTAGES):
        places.walk.noted(KEY, TWO, KeyState.UNREACHABLE)
    assert await places.use(1.0) == "one"
    assert places.asked == [("one", 1.0)]


async def test_one_caller_finds_out_that_a_place_works_again_and_then_all_use_it() -> None:
    places = Places()
    places.does["one"] = errors.KeyUnreachable
    for _ in range(OUTAGES):
        await places.use()
    places.now += FIRST_PAUSE
    places.names()
    assert await places.use() == "two"
    assert places.names() == ["one", "two"]
    assert await places.use() == "two"
    assert places.names() == ["two"]
    places.does["one"] = WORKS
    places.now += 2 * FIRST_PAUSE
    assert [await places.use() for _ in range(3)] == ["one"] * 3
    assert places.state() is KeyState.AVAILABLE


async def test_a_probe_that_succeeds_lets_everybody_in_again_at_once() -> None:
    places = Places()
    places.does["one"] = errors.KeyUnreachable
    for _ in range(OUTAGES):
        await places.use()
    places.does["one"] = WORKS
    assert await places.use() == "two"
    places.walk.noted(KEY, ONE, KeyState.AVAILABLE)
    assert await places.use() == "one"


@pytest.mark.parametrize("error", [errors.KeyStoreThrottled, errors.CiphertextInvalid, errors.KeyRevoked])
async def test_what_is_no_outage_passes_nobody_over(error: type[errors.KeyStoreError]) -> None:
    places = Places()
    places.does |= {"one": error, "two": error}
    for _ in range(5 * OUTAGES):
        await places.fail(error)
    assert places.names().count("one") == 5 * OUTAGES


@pytest.mark.parametrize("error", [errors.KeyStoreThrottled, errors.CiphertextInvalid])
async def test_a_trial_that_shows_nothing_about_an_outage_neither_ends_it_nor_makes_it_longer(
    error: type[errors.KeyStoreError],
) -> None:
    places = Places()
    places.does["one"] = errors.KeyUnreachable
    for _ in range(OUTAGES):
        await places.use()
    places.now += FIRST_PAUSE
    places.does["one"] = error
    places.names()
    for _ in range(3):
        if error is errors.CiphertextInvalid:
            await places.fail(error)
        else:
            await places.use()
    assert places.names().count("one") == 3


async def test_a_trial_whose_caller_leaves_is_given_to_the_next() -> None:
    places = Places()
    places.does["one"] = errors.KeyUnreachable
    for _ in range(OUTAGES):
        await places.use()
    places.now += FIRST_PAUSE
    places.does["one"] = asyncio.Event()
    caller = asyncio.create_task(places.use())
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    places.does["one"] = WORKS
    assert await places.use() == "one"


async def test_when_every_place_is_out_of_order_one_caller_at_a_time_tries_the_one_that_is_due_next() -> None:
    places = Places()
    places.does |= {"one": errors.KeyUnreachable, "two": errors.KeyUnreachable}
    for _ in range(OUTAGES):
        await places.fail(errors.KeyUnreachable)
    for _ in range(6):  # the pauses grow
        places.now += LONGEST_PAUSE
        await places.fail(errors.KeyUnreachable)
    places.names()
    error = await places.fail(errors.KeyUnreachable)
    assert (places.names(), error.replica) == ([], "one")
    assert "is not asked again for another" in error.cause
    places.now += FIRST_PAUSE
    await places.fail(errors.KeyUnreachable)
    assert len(places.names()) == 1
    await places.fail(errors.KeyUnreachable)
    places.does |= {"one": WORKS, "two": WORKS}
    places.now += FIRST_PAUSE
    assert await places.use() in {"one", "two"}


async def test_a_key_in_one_place_fails_fast_and_recovers_within_two_seconds() -> None:
    places = Places()
    alone = CustomerKey(KEY.name, (ONE,))
    places.does["one"] = "black hole"
    for _ in range(20):
        with pytest.raises(errors.KeyUnreachable):
            await places.use(1.0, alone)
        places.now += 2.0
    asked = len(places.names())
    before = places.now
    with pytest.raises(errors.KeyUnreachable):
        await places.use(1.0, alone)
    for _ in range(100):
        with pytest.raises(errors.KeyUnreachable, match="is not asked again for another"):
            await places.use(1.0, alone)
    assert asked == 20
    assert (len(places.names()), places.now - before) == (1, 1.0)
    places.does["one"] = WORKS
    places.now += 2.0
    assert await places.use(1.0, alone) == "one"


# Revocations, in every order of events


async def test_a_revocation_then_an_outage_there_is_no_way_around_it() -> None:
    places = Places()
    places.does["one"], places.states["one"] = errors.KeyRevoked, KeyState.REVOKED
    await places.fail(errors.KeyRevoked)
    assert places.state() is KeyState.REVOKED
    places.does["one"], places.states["one"] = errors.KeyUnreachable, KeyState.UNREACHABLE
    places.names()
    error = await places.fail(errors.KeyUnreachable)
    assert places.names() == ["one"]
    assert error.cause == f"as the test says; {REVOKED_BEFORE}"
    await looked_into()
    evidence = places.board.of(KEY, NOW)
    assert evidence is not None
    assert (evidence.state, evidence.revoked_at) == (KeyState.UNREACHABLE, NOW)
    assert REVOKED_BEFORE in evidence.cause


@pytest.mark.parametrize("outage", [errors.KeyStoreThrottled, errors.KeyMisconfigured])
async def test_a_revocation_then_any_disorder_there_is_no_way_around_it(outage: type[errors.KeyStoreError]) -> None:
    places = Places()
    places.board.saw(KEY.name, "one", KeyState.REVOKED, "", NOW, began=places.board.moment)
    places.does["one"] = outage
    why = MAYBE_REVOKED if outage is errors.KeyMisconfigured else REVOKED_BEFORE
    assert why in (await places.fail(outage)).cause
    assert places.names() == ["one"]


async def test_a_revocation_then_an_outage_so_long_that_nobody_asks_is_no_way_around_it() -> None:
    places = Places()
    places.board.saw(KEY.name, "one", KeyState.REVOKED, "", NOW, began=places.board.moment)
    places.does["one"] = errors.KeyUnreachable
    for _ in range(OUTAGES):
        await places.fail(errors.KeyUnreachable)
    places.names()
    error = await places.fail(errors.KeyUnreachable)
    assert places.names() == []
    assert "is not asked again" in error.cause
    assert REVOKED_BEFORE in error.cause


async def test_a_denial_then_an_outage_before_anybody_learnt_what_it_was_about_is_no_way_around_it() -> None:
    places = Places()
    places.does["one"], places.states["one"] = errors.KeyRevoked, KeyState.UNREACHABLE
    await places.fail(errors.KeyRevoked)
    places.does["one"] = errors.KeyUnreachable
    places.names()
    assert REVOKED_BEFORE in (await places.fail(errors.KeyUnreachable)).cause
    assert places.names() == ["one"]


async def test_what_may_be_a_revocation_or_a_fault_of_ours_is_not_gone_around() -> None:
    places = Places(remote=True)
    places.does["one"], places.states["one"] = errors.KeyMisconfigured, KeyState.MISCONFIGURED
    for _ in range(3):
        assert MAYBE_REVOKED in (await places.fail(errors.KeyMisconfigured)).cause
    assert set(places.names()) == {"one"}
    places.does["one"], places.states["one"] = errors.KeyUnreachable, KeyState.UNREACHABLE
    await places.fail(errors.KeyUnreachable)
    await looked_into()
    assert places.state() is KeyState.UNREACHABLE
    places.does["one"] = WORKS
    assert await places.use() == "one"
    places.does["one"] = errors.KeyUnreachable
    assert await places.use() == "two"


@pytest.mark.parametrize(
    ("fault", "key"),
    [(errors.StoreMisconfigured, KEY), (errors.KeyMisconfigured, CustomerKey(KEY.name, (ONE,)))],
)
async def test_what_is_ours_alone_or_of_the_only_place_says_nothing_of_the_holder_and_is_gone_around_as_little(
    fault: type[errors.KeyStoreError], key: CustomerKey
) -> None:
    places = Places(remote=True)
    places.does["one"], places.states["one"] = fault, KeyState.MISCONFIGURED
    for _ in range(3):
        with pytest.raises(fault) as caught:
            await places.use(key=key)
        assert caught.value.cause == "as the test says"
    assert set(places.names()) == {"one"}
    places.board.saw_error(KEY.name, fault("one", "key", "as the test says"), NOW)
    evidence = places.board.of(key, NOW)
    assert evidence is not None
    assert (evidence.cause, evidence.revoked_at) == ("as the test says", NOW)


async def test_a_place_of_this_machine_that_is_misconfigured_is_passed_over() -> None:
    places = Places()
    places.does["one"], places.states["one"] = errors.KeyMisconfigured, KeyState.MISCONFIGURED
    assert await places.use() == "two"


async def test_a_denial_of_one_class_alone_then_an_outage_the_next_place_serves() -> None:
    places = Places()
    places.does["one"], places.states["one"] = errors.KeyRevoked, KeyState.AVAILABLE
    await places.fail(errors.KeyRevoked)
    assert places.state() is KeyState.AVAILABLE
    places.does["one"] = errors.KeyUnreachable
    assert await places.use() == "two"


async def test_a_use_that_began_before_the_revocation_was_seen_and_ends_after_it_does_not_undo_it() -> None:
    places = Places()
    places.states["one"] = KeyState.REVOKED
    slow = places.does["one"] = asyncio.Event()
    early = asyncio.create_task(places.use())
    await until(lambda: len(places.asked) == 1)
    places.does["one"] = errors.KeyRevoked
    await places.fail(errors.KeyRevoked)
    places.does["one"] = WORKS
    slow.set()
    assert await early == "one"
    assert places.state() is KeyState.REVOKED
    places.does["one"] = errors.KeyUnreachable
    places.names()
    await places.fail(errors.KeyUnreachable)
    assert places.names() == ["one"]  # an outage is no way around what was seen
    places.does["one"] = WORKS
    await places.use()
    assert places.state() is KeyState.AVAILABLE


async def test_an_outage_then_a_revocation_there() -> None:
    places = Places()
    places.does["one"] = errors.KeyUnreachable
    assert await places.use() == "two"
    assert places.state() is KeyState.DEGRADED
    places.does["one"], places.states["one"] = errors.KeyRevoked, KeyState.REVOKED
    await places.fail(errors.KeyRevoked)
    assert places.state() is KeyState.REVOKED


async def test_a_revocation_an_outage_the_key_given_back_and_another_outage_the_next_place_serves() -> None:
    places = Places()
    places.board.saw(KEY.name, "one", KeyState.REVOKED, "", NOW, began=places.board.moment)
    places.does["one"] = errors.KeyUnreachable
    await places.fail(errors.KeyUnreachable)
    places.does["one"] = WORKS
    assert await places.use() == "one"
    assert places.state() is KeyState.AVAILABLE
    places.does["one"] = errors.KeyUnreachable
    assert await places.use() == "two"


async def test_a_revocation_in_a_later_place_does_not_keep_the_first_from_serving() -> None:
    places = Places()
    places.board.saw(KEY.name, "two", KeyState.REVOKED, "disabled", NOW, began=places.board.moment)
    assert await places.use() == "one"
    evidence = places.board.of(KEY, NOW)
    assert evidence is not None
    assert (evidence.state, evidence.cause) == (KeyState.DEGRADED, "two is revoked: disabled")


async def test_an_outage_of_the_first_and_a_revocation_in_the_next_is_a_revocation() -> None:
    places = Places()
    places.does |= {"one": errors.KeyUnreachable, "two": errors.KeyRevoked}
    places.states["two"] = KeyState.REVOKED
    assert (await places.fail(errors.KeyRevoked)).replica == "two"
    assert places.state() is KeyState.REVOKED


async def test_a_revocation_is_not_forgotten_when_its_evidence_is_too_old() -> None:
    places = Places()
    places.board.saw(KEY.name, "one", KeyState.REVOKED, "", NOW, began=places.board.moment)
    evidence = places.board.of(KEY, NOW + timedelta(days=3))
    assert evidence is not None
    assert (evidence.state, evidence.revoked_at) == (KeyState.UNKNOWN, NOW)
    places.does["one"] = errors.KeyUnreachable
    await places.fail(errors.KeyUnreachable)


# Hedges


async def known_to_be_quick(places: Places) -> None:
    for _ in range(FEWEST):
        await places.use()
    places.names()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def test_without_the_setting_nothing_is_asked_twice() -> None:
    places = Places()
    await known_to_be_quick(places)
    answer = places.does["one"] = asyncio.Event()
    use = asyncio.create_task(places.use())
    await asyncio.sleep(0.05)
    places.does["one"] = WORKS
    answer.set()
    assert (await use, places.names(), places.walk.hedges.begun) == ("one", ["one"], 0)


async def test_the_next_place_serves_while_the_first_is_late_and_the_late_key_is_wiped() -> None:
    places = Places(hedge=True)
    await known_to_be_quick(places)
    answer = places.does["one"] = asyncio.Event()
    assert await places.use() == "two"
    assert (places.names(), places.walk.hedges.begun, places.walk.hedges.won) == (["one", "two"], 1, 1)
    places.does["one"] = WORKS
    answer.set()
    await until(lambda: bool(places.discarded))
    assert places.discarded == ["a data key of one"]
    assert places.state() is KeyState.AVAILABLE


async def test_what_the_late_place_shows_is_kept_as_evidence() -> None:
    places = Places(hedge=True)
    await known_to_be_quick(places)
    answer = places.does["one"] = asyncio.Event()
    assert await places.use() == "two"
    places.does["one"], places.states["one"] = errors.KeyUnreachable, KeyState.UNREACHABLE
    answer.set()
    await until(lambda: places.state() is KeyState.DEGRADED)


async def test_a_revocation_that_the_first_tells_is_the_answer_and_the_key_that_comes_later_is_wiped() -> None:
    places = Places(hedge=True)
    await known_to_be_quick(places)
    answers = {name: asyncio.Event() for name in ("one", "two")}
    places.does |= answers
    use = asyncio.create_task(places.use())
    await until(lambda: len(places.asked) == 2)
    places.does |= {"one": errors.KeyRevoked, "two": WORKS}
    answers["one"].set()
    with pytest.raises(errors.KeyRevoked):
        await use
    answers["two"].set()
    await until(lambda: bool(places.discarded))
    assert places.discarded == ["a data key of two"]


@pytest.mark.parametrize("no", [errors.KeyRevoked, errors.KeyMisconfigured, errors.CiphertextInvalid])
async def test_a_no_of_the_later_place_is_none_where_the_first_serves(no: type[errors.KeyStoreError]) -> None:
    places = Places(hedge=True, remote=True)
    await known_to_be_quick(places)
    answer = places.does["one"] = asyncio.Event()
    places.does["two"] = no
    use = asyncio.create_task(places.use())
    await until(lambda: ("two", no.reason) in [(call.replica, call.result) for call in places.calls.tell()])
    assert not use.done()
    places.does["one"] = WORKS
    answer.set()
    assert await use == "one"
    assert places.discarded == []


@pytest.mark.parametrize("first", [errors.KeyUnreachable, errors.KeyStoreThrottled, errors.KeyRevoked])
async def test_a_revocation_of_the_later_place_is_the_answer_where_the_first_does_not_serve(
    first: type[errors.KeyStoreError],
) -> None:
    places = Places(hedge=True)
    await known_to_be_quick(places)
    answer = places.does["one"] = asyncio.Event()
    places.does["two"] = errors.KeyRevoked
    use = asyncio.create_task(places.use(None, CustomerKey(KEY.name, (ONE, TWO, THREE))))
    await until(lambda: places.board.was_revoked(KEY.name, "two"))
    places.does["one"] = first
    answer.set()
    with pytest.raises(errors.KeyRevoked) as caught:
        await use
    assert caught.value.replica == ("one" if first is errors.KeyRevoked else "two")
    assert places.names() == ["one", "two"]


async def test_a_revocation_that_comes_together_with_a_success_is_the_answer() -> None:
    places = Places(hedge=True)
    await known_to_be_quick(places)
    answers = {name: asyncio.Event() for name in ("one", "two")}
    places.does |= answers
    use = asyncio.create_task(places.use())
    await until(lambda: len(places.asked) == 2)
    places.does |= {"one": errors.KeyRevoked, "two": WORKS}
    for answer in answers.values():
        answer.set()
    with pytest.raises(errors.KeyRevoked):
        await use
    await until(lambda: bool(places.discarded))


async def test_a_place_that_was_taken_away_is_not_hedged_and_so_not_gone_around() -> None:
    places = Places(hedge=True)
    await known_to_be_quick(places)
    places.board.saw(KEY.name, "one", KeyState.REVOKED, "", NOW, began=places.board.moment)
    answer = places.does["one"] = asyncio.Event()
    use = asyncio.create_task(places.use())
    await asyncio.sleep(0.05)
    places.does["one"] = errors.KeyUnreachable
    answer.set()
    with pytest.raises(errors.KeyUnreachable):
        await use
    assert places.names() == ["one"]


async def test_a_later_place_that_was_taken_away_is_not_asked_early() -> None:
    places = Places(hedge=True)
    await known_to_be_quick(places)
    places.board.saw(KEY.name, "two", KeyState.REVOKED, "", NOW, began=places.board.moment)
    places.does["two"] = errors.KeyRevoked
    answer = places.does["one"] = asyncio.Event()
    use = asyncio.create_task(places.use())
    await asyncio.sleep(0.05)
    places.does["one"] = WORKS
    answer.set()
    assert (await use, places.names(), places.walk.hedges.begun) == ("one", ["one"], 0)


@pytest.mark.parametrize("which", ["one", "two"])
async def test_a_place_that_is_taken_away_while_the_first_is_waited_for_is_not_hedged(which: str) -> None:
    places = Places(hedge=True)
    await known_to_be_quick(places)
    answer = places.does["one"] = asyncio.Event()
    ask = places.ask

    async def taken_away_then(place: Replica, limit: float) -> str:
        places.board.saw(KEY.name, which, KeyState.REVOKED, "", NOW, began=places.board.moment)
        return await ask(place, limit)

    places.ask = taken_away_then  # type: ignore[method-assign]
    use = asyncio.create_task(places.use())
    await asyncio.sleep(0.05)
    places.does["one"] = WORKS
    answer.set()
    assert (await use, places.names(), places.walk.hedges.begun) == ("one", ["one"], 0)


async def test_when_both_fail_the_third_is_asked() -> None:
    places = Places(hedge=True)
    await known_to_be_quick(places)
    answer = places.does["one"] = asyncio.Event()
    places.does["two"] = errors.KeyUnreachable
    use = asyncio.create_task(places.use(None, CustomerKey(KEY.name, (ONE, TWO, THREE))))
    await until(lambda: len(places.asked) == 2)
    places.does["one"] = errors.KeyStoreThrottled
    answer.set()
    assert await use == "three"
    assert places.names() == ["one", "two", "three"]


async def test_a_first_place_that_fails_at_once_is_followed_as_ever() -> None:
    places = Places(hedge=True)
    places.does["one"] = errors.KeyUnreachable
    assert (await places.use(), places.walk.hedges.begun) == ("two", 0)


async def test_making_a_data_key_is_never_asked_twice() -> None:
    places = Places(hedge=True)
    await known_to_be_quick(places)
    answer = places.does["one"] = asyncio.Event()
    use = asyncio.create_task(places.walk.first_that_serves(KEY, places.ask, None))
    await asyncio.sleep(0.05)
    places.does["one"] = WORKS
    answer.set()
    assert (await use).replica == "one"
    assert places.names() == ["one"]


# The record


async def test_every_place_that_was_asked_or_passed_over_is_told() -> None:
    places = Places()
    places.does["one"] = errors.KeyUnreachable
    for _ in range(OUTAGES):
        await places.use()
        assert places.told() == [("one", "KEY_UNREACHABLE"), ("two", "ok")]
    await places.use()
    assert places.told() == [("one", "passed_over"), ("two", "ok")]
    places.does["two"] = errors.KeyRevoked
    await places.fail(errors.KeyRevoked)
    assert places.told() == [("one", "passed_over"), ("two", "KEY_REVOKED")]


async def test_the_place_that_lost_is_told_as_under_way_and_once_more_when_it_has_answered() -> None:
    places = Places(hedge=True)
    await known_to_be_quick(places)
    slow = places.does["one"] = asyncio.Event()
    places.told()
    assert await places.use() == "two"
    assert places.told() == [("one", "under_way"), ("two", "ok")]
    assert places.late == []
    places.does["one"] = WORKS
    slow.set()
    await until(lambda: bool(places.late))
    assert [(call.replica, call.operation, call.result) for call in places.late] == [("one", "unwrap", "ok")]


async def test_whose_caller_has_left_is_told() -> None:
    places = Places()
    places.does["one"] = asyncio.Event()
    caller = asyncio.create_task(places.use())
    await until(lambda: len(places.asked) == 1)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert places.told() == [("one", "left")]
    assert places.late == []
