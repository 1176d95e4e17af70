"""What sightings amount to, over random sequences of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey_server.domain.key_history import EvidenceKind
from ownkey_server.domain.key_judgement import APART, LONGEST_RECOVERY, Judgement, Seen, judge
from ownkey_server.domain.key_state import KeyState

START = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
RECOVERY = timedelta(seconds=5)
SEEN = (KeyState.AVAILABLE, KeyState.UNREACHABLE, KeyState.REVOKED, KeyState.MISCONFIGURED)
TRAFFIC, PROBE = EvidenceKind.TRAFFIC, EvidenceKind.PROBE

Steps = list[tuple[KeyState, float, EvidenceKind, bool]]

steps = st.lists(
    st.tuples(
        st.sampled_from(SEEN),
        st.floats(0, 40),
        st.sampled_from((TRAFFIC, PROBE)),
        st.booleans(),
    ),
    max_size=40,
)


def seen(state: KeyState, seconds: float, kind: EvidenceKind = PROBE, *, confirmed: bool = False) -> Seen:
    cause = "" if state is KeyState.AVAILABLE else f"it is {state}"
    return Seen(state, cause, START + timedelta(seconds=seconds), kind, confirmed=confirmed)


def judged(*all_seen: Seen) -> Judgement:
    held: Judgement | None = None
    for one in all_seen:
        held = judge(held, one, RECOVERY)
    assert held is not None
    return held


@given(steps)
def test_an_outage_is_never_told_as_a_revocation_nor_the_reverse(
    random: list[tuple[KeyState, float, EvidenceKind, bool]],
) -> None:
    held: Judgement | None = None
    at, outages, last = 0.0, [], None
    for state, pause, kind, confirmed in random:
        at += pause
        one = seen(state, at, kind, confirmed=confirmed)
        held = judge(held, one, RECOVERY)
        if state is KeyState.UNREACHABLE:
            outages.append(one)
        else:
            outages.clear()
        for told in (held.now, held.told):
            # Only what was seen to be revoked is, and the last word on it is never an outage's first failure.
            if told.state is KeyState.REVOKED:
                assert last is KeyState.REVOKED or state is KeyState.REVOKED
        if state is KeyState.REVOKED:
            assert held.now.state is held.told.state is KeyState.REVOKED, "a deliberate act counts at once"
        if held.now.state is KeyState.UNREACHABLE:
            kinds = {one.kind for one in outages}
            apart = outages[-1].at - outages[0].at >= APART
            assert len(kinds) > 1 or apart or any(one.confirmed for one in outages), "an outage needs two"
        if state is KeyState.AVAILABLE:
            assert held.now.state is KeyState.AVAILABLE, "a recovered key is so at once"
        if state is not KeyState.UNREACHABLE:
            last = state


@given(steps)
def test_since_is_when_the_state_that_is_told_began(random: Steps) -> None:
    held: Judgement | None = None
    at = 0.0
    for state, pause, kind, confirmed in random:
        at += pause
        before, held = held, judge(held, seen(state, at, kind, confirmed=confirmed), RECOVERY)
        same = before is not None and before.told.state is held.told.state
        assert held.since == (before.since if same and before else START + timedelta(seconds=at))


def test_one_failed_call_is_no_outage_and_a_failed_probe_after_it_is() -> None:
    works = seen(KeyState.AVAILABLE, 0)
    one = judged(works, seen(KeyState.UNREACHABLE, 1, TRAFFIC))
    assert (one.now.state, one.doubt is not None) == (KeyState.AVAILABLE, True)
    crowd = [seen(KeyState.UNREACHABLE, 1 + n / 1000, TRAFFIC) for n in range(500)]
    assert judged(works, *crowd).now.state is KeyState.AVAILABLE, "many calls that meet one moment are one failure"
    assert judge(one, seen(KeyState.UNREACHABLE, 1.1, PROBE), RECOVERY).told.state is KeyState.UNREACHABLE
    assert judge(one, seen(KeyState.UNREACHABLE, 2.1, TRAFFIC), RECOVERY).told.state is KeyState.UNREACHABLE
    assert judge(one, seen(KeyState.UNREACHABLE, 60, TRAFFIC), RECOVERY).told.state is KeyState.AVAILABLE
    assert judged(seen(KeyState.UNREACHABLE, 0)).told.state is KeyState.UNKNOWN


def test_a_key_that_comes_and_goes_is_told_once_and_serves_meanwhile() -> None:
    held = judged(seen(KeyState.UNREACHABLE, 0, confirmed=True))
    told = []
    for second in range(1, 100):
        state = KeyState.AVAILABLE if second % 3 else KeyState.UNREACHABLE
        held = judge(held, seen(state, second, confirmed=True), RECOVERY)
        told.append(held.told.state)
        assert held.now.state is state
    assert set(told) == {KeyState.UNREACHABLE}


@pytest.mark.parametrize("outages", [1, 3, 8])
def test_after_outages_in_quick_succession_a_recovery_is_told_later_and_not_never(outages: int) -> None:
    held, at = judged(seen(KeyState.AVAILABLE, 0)), 0.0
    waits = []
    for _ in range(outages):
        at += 1
        held = judge(held, seen(KeyState.UNREACHABLE, at, confirmed=True), RECOVERY)
        began = at
        while held.told.state is not KeyState.AVAILABLE:
            at += 0.5
            held = judge(held, seen(KeyState.AVAILABLE, at), RECOVERY)
        waits.append(at - began)
    assert waits == sorted(waits)
    assert waits[-1] <= LONGEST_RECOVERY.total_seconds() + 1
    assert waits[0] <= RECOVERY.total_seconds() + 1
