"""The next place is asked while the first is late."""

from __future__ import annotations

import asyncio

import pytest

from ownkey_server.domain import errors
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import CustomerKey, Replica
from support.places import KEY, NOW, ONE, THREE, TWO, WORKS, Places, known_to_be_quick, until


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
