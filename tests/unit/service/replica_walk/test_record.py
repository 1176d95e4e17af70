"""What is told of the places that were asked."""

from __future__ import annotations

import asyncio

import pytest

from ownkey_server.domain import errors
from ownkey_server.service.circuit_breaker import OUTAGES
from support.places import WORKS, Places, known_to_be_quick, until

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
