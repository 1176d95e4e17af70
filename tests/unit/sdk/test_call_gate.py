"""The SDK's gate without a service: what must connect connects, and what is not known is as it was told."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey.call_gate import CallGate
from ownkey.errors import InvalidRequest
from ownkey.gate import Choices, Gate, KeySight, Rule
from ownkey.gate.view import PolicyLine, View
from support.emergency_calls import request_uris

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


def view(mode: str = "refuse") -> View:
    return View(
        Gate((Rule("default", Choices(mode, mode, mode, mode)),), (), ("9", "0", "8")), (PolicyLine("default", "k"),)
    )


states = st.sampled_from(["available", "degraded", "unreachable", "revoked", "misconfigured", "unknown"])


@given(
    states,
    st.sampled_from(["allow", "allow_no_recording", "refuse"]),
    st.floats(0, 1e9),
    request_uris(),
    st.booleans(),
    st.booleans(),
)
def test_no_emergency_call_is_refused_in_whatever_state(
    gate: CallGate, state: str, mode: str, elapsed: float, callee: str, closed: bool, broken: bool
) -> None:
    followed = gate._follow("broken")
    told = view(mode)
    if broken:
        object.__setattr__(told, "gate", None)
    followed.seen = (told, {"k": KeySight("k", state)}, gate._monotonic() - elapsed)
    gate_closed, gate._closed = gate._closed, closed
    try:
        assert gate.authorize("broken", "1", callee, stores=STORES, direction="?", group="?").emergency
    finally:
        gate._closed = gate_closed


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
