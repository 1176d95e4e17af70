from __future__ import annotations

import pytest

from ownkey_server.service.circuit_breaker import (
    ASKED,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    LONGEST_PAUSE_ALONE,
    OUTAGES,
    TRIAL,
    CircuitBreaker,
    CircuitBreakers,
)


class Time:
    """A clock and a chance that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.chance = 1.0


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def breaker(time: Time) -> CircuitBreaker:
    return CircuitBreaker(LONGEST_PAUSE, lambda: time.now, lambda: time.chance)


def trip(breaker: CircuitBreaker) -> None:
    for _ in range(OUTAGES):
        breaker.was_out(ASKED)


def test_fewer_outages_than_it_takes_pass_over_nothing(breaker: CircuitBreaker) -> None:
    for _ in range(OUTAGES - 1):
        breaker.was_out(ASKED)
    assert breaker.enter() is ASKED
    breaker.answered()
    for _ in range(OUTAGES - 1):
        breaker.was_out(ASKED)
    assert not breaker.open


def test_one_trial_at_a_time_is_let_through_after_the_pause(breaker: CircuitBreaker, time: Time) -> None:
    trip(breaker)
    assert breaker.enter() is None
    assert breaker.seconds == FIRST_PAUSE
    time.now += FIRST_PAUSE
    assert breaker.enter() is TRIAL
    assert [breaker.enter() for _ in range(10)] == [None] * 10
    breaker.answered()
    assert breaker.enter() is ASKED


def test_the_pause_grows_with_each_trial_that_fails_up_to_its_longest(breaker: CircuitBreaker, time: Time) -> None:
    trip(breaker)
    pauses = []
    for _ in range(8):
        pauses.append(breaker.seconds)
        time.now += breaker.seconds
        admission = breaker.enter()
        assert admission is TRIAL
        breaker.was_out(admission)
    assert pauses == [0.5, 1, 2, 4, 8, 10, 10, 10]


def test_many_processes_do_not_try_at_one_moment(time: Time) -> None:
    seconds = set()
    for chance in (0.0, 0.3, 0.9):
        breaker = CircuitBreaker(LONGEST_PAUSE, lambda: time.now, lambda chance=chance: chance)  # type: ignore[misc]
        trip(breaker)
        seconds.add(breaker.seconds)
        assert FIRST_PAUSE / 2 <= breaker.seconds <= FIRST_PAUSE
    assert len(seconds) == 3


def test_what_was_asked_before_it_was_known_to_be_out_makes_no_pause_longer(
    breaker: CircuitBreaker, time: Time
) -> None:
    trip(breaker)
    before = breaker.seconds
    for _ in range(50):
        breaker.was_out(ASKED)
    assert breaker.seconds == before
    time.now += before
    assert breaker.enter() is TRIAL


def test_a_trial_that_showed_nothing_is_given_to_the_next(breaker: CircuitBreaker, time: Time) -> None:
    trip(breaker)
    time.now += FIRST_PAUSE
    admission = breaker.enter()
    assert admission is TRIAL
    breaker.showed_nothing(admission)
    assert breaker.enter() is TRIAL


def test_an_early_trial_waits_for_the_first_pause_alone(breaker: CircuitBreaker, time: Time) -> None:
    trip(breaker)
    for _ in range(5):
        time.now += breaker.seconds
        admission = breaker.enter()
        assert admission is TRIAL
        breaker.was_out(admission)
    assert breaker.enter(early=True) is None
    time.now += FIRST_PAUSE
    assert breaker.enter() is None
    assert breaker.enter(early=True) is TRIAL
    assert breaker.enter(early=True) is None


def test_a_place_without_another_is_tried_again_sooner(time: Time) -> None:
    breakers = CircuitBreakers(lambda: time.now, lambda: 1.0)
    longest = {}
    for place, alone in (("one of two", False), ("the only one", True)):
        for _ in range(20):
            breaker = breakers.of("key", place)
            if breaker is not None:
                time.now += breaker.seconds
            breakers.was_out("key", place, breaker.enter() or ASKED if breaker else ASKED, alone=alone)
        found = breakers.of("key", place)
        assert found is not None
        longest[place] = found.seconds
    assert longest == {"one of two": LONGEST_PAUSE, "the only one": LONGEST_PAUSE_ALONE}


def test_places_that_work_are_not_remembered(time: Time) -> None:
    breakers = CircuitBreakers(lambda: time.now)
    breakers.answered("key", "place")
    assert breakers.of("key", "place") is None
    breakers.was_out("key", "place", ASKED, alone=False)
    assert breakers.of("key", "place") is not None
    breakers.answered("key", "place")
    assert breakers.of("key", "place") is None
