"""Uses that begin at the places of a key by turns: only a success there counts, and nobody goes around a revocation."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from ownkey_server.domain import errors
from ownkey_server.domain.errors import KeyStoreError
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import CustomerKey, Replica
from ownkey_server.service.inquiries import Inquiries
from ownkey_server.service.replica_walk import ReplicaWalk
from ownkey_server.service.status_board import StatusBoard

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
ONE, TWO, THREE = (Replica(name, "acme-main") for name in ("one", "two", "three"))
KEY = CustomerKey("tenants/acme/keys/main", (ONE, TWO, THREE))


class Tokens:
    """Tokens that answer as a test says; the clock goes on when one swallows a question."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.says: dict[str, type[KeyStoreError]] = {}
        self.swallows: set[str] = set()
        self.asked: list[str] = []
        self.board = StatusBoard(timedelta(hours=1))
        self.walk = ReplicaWalk(
            self.board,
            lambda: NOW,
            Inquiries(self._probe, pause=0, monotonic=lambda: self.now),
            5.0,
            lambda key, place: True,
            lambda place: False,
            spread=True,
            monotonic=lambda: self.now,
        )

    async def _probe(self, key: CustomerKey, place: Replica) -> None:
        if self.says.get(place.name) is errors.KeyRevoked:
            self.board.saw(key.name, place.name, KeyState.REVOKED, "", NOW, began=self.board.moment)

    async def ask(self, place: Replica, limit: float) -> str:
        self.asked.append(place.name)
        if place.name in self.swallows:
            self.now += limit
            raise errors.KeyUnreachable(place.name, place.reference, "nothing came")
        if place.name in self.says:
            raise self.says[place.name](place.name, place.reference, "as the test says")
        return place.name

    async def use(self, key: CustomerKey = KEY) -> str:
        return (await self.walk.first_that_serves(key, self.ask, 3.0)).replica


async def test_each_place_has_its_turn() -> None:
    tokens = Tokens()
    assert Counter([await tokens.use() for _ in range(30)]) == {"one": 10, "two": 10, "three": 10}
    assert len(tokens.asked) == 30


async def test_a_key_of_one_place_has_no_turns() -> None:
    tokens = Tokens()
    assert {await tokens.use(CustomerKey(KEY.name, (ONE,))) for _ in range(5)} == {"one"}


@pytest.mark.parametrize("out", ["one", "two", "three"])
async def test_every_use_is_served_while_a_place_is_out(out: str) -> None:
    tokens = Tokens()
    tokens.says[out] = errors.KeyUnreachable
    assert out not in {await tokens.use() for _ in range(60)}
    # After three outages in a row it is passed over.
    assert tokens.asked.count(out) < 10


async def test_a_place_that_swallows_questions_leaves_time_for_the_others() -> None:
    tokens = Tokens()
    tokens.swallows.add("two")
    for _ in range(12):
        began = tokens.now
        assert await tokens.use() in {"one", "three"}
        assert tokens.now - began < 3.0


async def test_a_no_of_a_later_place_is_none_to_what_the_first_serves() -> None:
    tokens = Tokens()
    tokens.says["two"] = errors.KeyMisconfigured
    tokens.says["three"] = errors.CiphertextInvalid
    assert {await tokens.use() for _ in range(9)} == {"one"}


async def test_what_the_first_refuses_is_refused_and_the_others_are_asked_no_more() -> None:
    tokens = Tokens()
    tokens.says["one"] = errors.KeyRevoked
    outcomes = []
    for _ in range(12):
        try:
            outcomes.append(await tokens.use())
        except errors.KeyRevoked:
            outcomes.append("refused")
    # The first has its turn within three uses; from then on every use is refused.
    first = outcomes.index("refused")
    assert first <= 2
    assert set(outcomes[first:]) == {"refused"}
    assert set(tokens.asked[-(12 - first) :]) == {"one"}


async def test_a_later_place_that_was_taken_away_ends_the_turns() -> None:
    tokens = Tokens()
    tokens.says["two"] = errors.KeyRevoked
    assert "two" not in {await tokens.use() for _ in range(12)}
    tokens.asked.clear()
    assert {await tokens.use() for _ in range(6)} == {"one"}
    assert set(tokens.asked) == {"one"}


async def test_bytes_that_no_place_opens_are_invalid_and_not_an_outage() -> None:
    tokens = Tokens()
    tokens.says = dict.fromkeys(("one", "two", "three"), errors.CiphertextInvalid)
    for _ in range(6):
        with pytest.raises(errors.CiphertextInvalid):
            await tokens.use()
