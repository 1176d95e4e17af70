"""The SDK's gates without a service: what must connect connects, and what is not known is as it was told."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey._gate_following import Followed
from ownkey.call_gate import AsyncCallGate, CallGate
from ownkey.errors import InvalidRequest, NotFound
from ownkey.gate import Choices, Gate, KeySight, Rule
from ownkey.gate.view import PolicyLine, View
from ownkey.models import CallAuthorization
from support.emergency_calls import PREFIXES, calls, plain

NOWHERE = "unix:/nonexistent/ownkey.sock"
STORES = ("phone_recording",)


@pytest.fixture(scope="module")
def gate() -> Iterator[CallGate]:
    with CallGate(NOWHERE, when_stale="refuse", first_wait=0.01) as made:
        yield made


@pytest.mark.parametrize("callee", ["911", "tel:112", "sip:911@pbx", "urn:service:sos.fire", "999", "9911"])
def test_an_emergency_call_connects_before_the_first_contact(gate: CallGate, callee: str) -> None:
    answer = gate.authorize("acme", "1", callee, stores=STORES)
    assert (answer.decision, answer.emergency) == ("allow", True)


def test_without_a_word_of_the_service_it_does_what_it_was_told(gate: CallGate) -> None:
    answer = gate.authorize("acme", "1", "+15551234567", stores=STORES)
    assert (answer.decision, answer.reason, answer.sip_status) == ("refuse", "view_stale", 503)
    assert gate.authorize("acme", "1", "+15551234567").reason == "nothing_stored"
    assert not gate.prepare("acme", 0.01)
    assert gate.age("acme") is None


def test_what_cannot_be_is_refused_at_once() -> None:
    with pytest.raises(InvalidRequest, match="when_stale"):
        CallGate(NOWHERE, when_stale="maybe")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest):
        CallGate("example.org:7400")


def view(mode: str = "refuse", countries: tuple[str, ...] = ()) -> View:
    return View(
        Gate((Rule("default", Choices(mode, mode, mode, mode)),), countries, PREFIXES), (PolicyLine("default", "k"),)
    )


def at_once(answer: Coroutine[Any, Any, CallAuthorization]) -> CallAuthorization:
    """What a gate for asyncio answers without waiting for anything, not even for an event loop."""
    try:
        answer.send(None)
    except StopIteration as done:
        given: CallAuthorization = done.value
        return given
    answer.close()
    raise AssertionError("it waited")


@pytest.fixture(scope="module")
def gate_of_asyncio() -> AsyncCallGate:
    return AsyncCallGate(NOWHERE, when_stale="refuse", first_wait=0.01)


states = st.sampled_from(["available", "degraded", "unreachable", "revoked", "misconfigured", "unknown"])
modes = st.sampled_from(["allow", "allow_no_recording", "refuse"])
# A gate that follows a tenant, whose view is broken, that never heard of it, or that heard that there is none.
SITUATIONS = ["known", "gate gone", "countries gone", "never seen", "no such tenant"]


def in_(situation: str, country: str, mode: str, state: str, elapsed: float, now: float) -> Followed | None:
    """What a gate has of a tenant."""
    if situation == "never seen":
        return None
    followed = Followed(now)
    if situation == "no such tenant":
        followed.error = NotFound("no such tenant")
        return followed
    told = view(mode, (country,))
    if situation == "gate gone":
        object.__setattr__(told, "gate", None)
    if situation == "countries gone":
        object.__setattr__(told.gate, "countries", 7)
    followed.seen = (told, {"k": KeySight("k", state)}, now - elapsed)
    return followed


WRONG = {"direction": "?", "group": "?", "stores": ("?",)}


def connects(gate: CallGate | AsyncCallGate, callee: str, followed: Followed | None, *, closed: bool = False) -> bool:
    """Whether a call connects whatever else is wrong with what is asked."""
    tenants, gate._tenants = gate._tenants, {} if followed is None else {"acme": followed}
    was_closed, gate._closed = gate._closed, closed
    try:
        if isinstance(gate, AsyncCallGate):
            answer = at_once(gate.authorize("acme", "", callee, **WRONG))  # type: ignore[arg-type]
        else:
            answer = gate.authorize("acme", "", callee, **WRONG)  # type: ignore[arg-type]
        return answer.emergency and answer.decision == "allow"
    finally:
        gate._tenants, gate._closed = tenants, was_closed


@given(states, modes, st.floats(0, 1e9), calls(), st.booleans(), st.sampled_from(SITUATIONS))
def test_no_emergency_call_is_refused_in_whatever_state(
    gate: CallGate,
    gate_of_asyncio: AsyncCallGate,
    state: str,
    mode: str,
    elapsed: float,
    call: tuple[str, str],
    closed: bool,
    situation: str,
) -> None:
    country, callee = call
    for one in (gate, gate_of_asyncio):
        followed = in_(situation, country, mode, state, elapsed, one._monotonic())
        assert connects(one, callee, followed, closed=closed)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_number_of_every_country_connects(
    gate: CallGate, gate_of_asyncio: AsyncCallGate, situation: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "ownkey.gate.local")  # thousands of times the same
    refused = [
        (country, callee, type(one).__name__)
        for country, callee in plain()
        for one in (gate, gate_of_asyncio)
        if not connects(one, callee, in_(situation, country, "refuse", "revoked", 1e6, one._monotonic()))
    ]
    assert refused == []


async def test_the_gate_of_asyncio_does_what_it_was_told_without_a_word_of_the_service() -> None:
    clock = [100.0]
    async with AsyncCallGate(NOWHERE, first_wait=0.01, staleness=15, max_tenants=2, monotonic=lambda: clock[0]) as gate:
        answer = await gate.authorize("acme", "1", "+15551234567", stores=STORES)
        assert (answer.decision, answer.reason, answer.sip_status) == ("refuse", "view_stale", 503)
        assert at_once(gate.authorize("acme", "1", "+15551234567")).reason == "nothing_stored"
        assert not await gate.prepare("acme", 0.01)
        assert gate.age("acme") is None
        gate._follow("acme").seen = (view(), {"k": KeySight("k", "available")}, 100.0)
        assert at_once(gate.authorize("acme", "1", "+15551234567", stores=STORES)).decision == "allow"
        with pytest.raises(InvalidRequest, match="no group"):
            await gate.authorize("acme", "1", "+15551234567", stores=STORES, group="gone")
        clock[0] = 115.1
        assert at_once(gate.authorize("acme", "1", "+15551234567", stores=STORES)).reason == "view_stale"
        assert gate.age("acme") == pytest.approx(15.1)
        for number in range(5):
            await gate.authorize(f"tenant-{number}", "1", "+15551234567", stores=STORES)
        assert len(gate._tenants) == 2
        assert len(gate._following._tasks) == 2
    await gate.close()
    assert at_once(gate.authorize("acme", "1", "911", stores=STORES)).emergency
    assert not [task for task in asyncio.all_tasks() if "call gate" in task.get_name()], "nobody is followed any more"


@pytest.mark.parametrize("state", ["available", "revoked", "unreachable"])
@pytest.mark.parametrize("when", ["allow", "allow_no_recording", "refuse"])
def test_beyond_the_limit_the_last_word_counts_only_where_it_was_a_stricter_no_for_a_revocation(
    state: str, when: str
) -> None:
    clock = [100.0]
    with CallGate(NOWHERE, when_stale=when, staleness=15, monotonic=lambda: clock[0]) as gate:  # type: ignore[arg-type]
        gate._follow("acme").seen = (view(), {"k": KeySight("k", state)}, 100.0)
        clock[0] = 115.0
        fresh = gate.authorize("acme", "1", "+15551234567", stores=STORES)
        assert fresh.decision == ("allow" if state == "available" else "refuse")
        clock[0] = 115.1
        stale = gate.authorize("acme", "1", "+15551234567", stores=STORES)
        if state == "revoked":
            assert (stale.decision, stale.sip_status) == ("refuse", 403)
        else:
            assert (stale.decision, stale.reason) == (when, "view_stale")


def test_many_tenants_are_followed_and_not_too_many() -> None:
    with CallGate(NOWHERE, first_wait=0.001, max_tenants=3) as gate:
        for number in range(10):
            gate.authorize(f"tenant-{number}", "1", "+15551234567", stores=STORES)
        assert len(gate._tenants) == 3


def test_threads_may_ask_at_once() -> None:
    with CallGate(NOWHERE) as gate:
        gate._follow("acme").seen = (view(), {"k": KeySight("k", "available")}, gate._monotonic())
        answers: list[str] = []

        def ask() -> None:
            answers.extend(gate.authorize("acme", "1", "+15551234567", stores=STORES).decision for _ in range(200))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert answers == ["allow"] * 800
