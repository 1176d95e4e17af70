"""How the time of a call is shared out between places."""

from __future__ import annotations

import pytest

from ownkey_server.domain import errors
from ownkey_server.domain.tenants import CustomerKey
from support.places import KEY, ONE, THREE, TWO, Places

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
