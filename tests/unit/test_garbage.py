"""Python's collector looks through everything there is, and nobody is served meanwhile: it must do so seldom."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from ownkey_server import main


@pytest.fixture
def serving() -> Iterator[None]:
    """The collector as it is in a server that serves."""
    before = gc.get_threshold()
    main._seldom_look_for_garbage()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def test_what_thousands_of_watches_hold_is_not_looked_through_because_they_are_told_something(serving: None) -> None:
    looked = gc.get_stats()[2]["collections"]
    held = [[[number]] for number in range(20_000)]
    for _ in range(5):  # five messages to each, of a few objects that live for as long as they are under way
        under_way = [([number], [number]) for number in range(5_000)]
        del under_way
    assert gc.get_stats()[2]["collections"] == looked
    assert len(held) == 20_000


def test_garbage_of_many_calls_is_collected_all_the_same(serving: None) -> None:
    collected = gc.get_stats()[0]["collected"]
    for _ in range(20_000):
        circle: list[object] = []
        circle.append(circle)
    assert gc.get_stats()[0]["collected"] - collected > 10_000
