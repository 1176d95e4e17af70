"""Revocations and outages of places, in every order of events."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

import pytest

from ownkey_server.domain import errors
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import CustomerKey
from ownkey_server.service.circuit_breaker import OUTAGES
from ownkey_server.service.status_board import MAYBE_REVOKED, REVOKED_BEFORE
from support.places import KEY, NOW, ONE, WORKS, Places, looked_into, until

ALONE = CustomerKey(KEY.name, (ONE,))

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
    places.does["one"], places.states["one"] = WORKS, KeyState.AVAILABLE
    await places.use()
    await looked_into()
    assert places.state() is KeyState.AVAILABLE


@pytest.mark.parametrize(
    ("denial", "state"), [(errors.KeyRevoked, KeyState.REVOKED), (errors.KeyMisconfigured, KeyState.MISCONFIGURED)]
)
async def test_a_key_that_wraps_and_does_not_open_is_not_given_back_by_each_use_that_wraps(
    denial: type[errors.KeyStoreError], state: KeyState
) -> None:
    places = Places()
    places.does["one"], places.states["one"] = denial, state
    changes: list[KeyState | None] = []
    places.board.on_change(lambda *_: changes.append(places.state()))
    for _ in range(3):
        places.does["one"] = denial
        with contextlib.suppress(denial):
            await places.use(key=ALONE)
        await looked_into()
        places.does["one"] = WORKS
        await places.use(key=ALONE)
        await looked_into()
    assert changes == [state]
    places.states["one"] = KeyState.AVAILABLE  # both ways
    await places.use(key=ALONE)
    await looked_into()
    assert changes == [state, KeyState.AVAILABLE]


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
    places.does["one"], places.states["one"] = WORKS, KeyState.AVAILABLE
    assert await places.use() == "one"
    await looked_into()
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
