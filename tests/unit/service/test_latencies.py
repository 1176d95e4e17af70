from __future__ import annotations

from ownkey_server.service.latencies import FEWEST, LONGEST, SHORTEST, WINDOW, Latencies


def filled(*seconds: float) -> float:
    latencies = Latencies()
    for one in seconds:
        latencies.took("key", "place", one)
    return latencies.patience("key", "place")


def test_a_place_of_which_little_is_known_gets_the_longest_patience() -> None:
    assert filled() == LONGEST
    assert filled(*[0.02] * (FEWEST - 1)) == LONGEST
    assert filled(*[0.02] * FEWEST) == 0.02


def test_patience_is_that_within_which_95_of_100_answers_came() -> None:
    assert filled(*[0.02] * 61, *[0.5] * 3) == 0.02
    assert filled(*[0.02] * 60, *[0.5] * 4) == 0.5


def test_it_stays_within_its_bounds() -> None:
    assert filled(*[0.0001] * WINDOW) == SHORTEST
    assert filled(*[30.0] * WINDOW) == LONGEST


def test_the_latest_answers_alone_count() -> None:
    assert filled(*[0.5] * 500, *[0.02] * WINDOW) == 0.02
