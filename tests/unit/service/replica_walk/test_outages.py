"""A place that is out of order is passed over, and found to work again."""

from __future__ import annotations

import asyncio

import pytest

from ownkey_server.domain import errors
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import CustomerKey
from ownkey_server.service.circuit_breaker import FIRST_PAUSE, LONGEST_PAUSE, OUTAGES
from support.places import KEY, ONE, TWO, WORKS, Places

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
