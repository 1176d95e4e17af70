"""A place that does not answer: others do not queue up behind the first who asked."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from ownkey_server.domain import errors
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import CustomerKey, Replica
from ownkey_server.service.inquiries import Inquiries
from ownkey_server.service.replica_walk import LATE_SECONDS, ReplicaWalk
from ownkey_server.service.status_board import StatusBoard

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
ONE, TWO = Replica("one", "acme-main"), Replica("two", "acme-main")
KEY = CustomerKey("tenants/acme/keys/main", (ONE, TWO))
ALONE = CustomerKey("tenants/acme/keys/alone", (ONE,))


class Office:
    """Two places that answer when the test lets them, and a clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: list[str] = []
        self.answers = {"one": asyncio.Event(), "two": asyncio.Event()}
        self.board = StatusBoard(timedelta(hours=1))
        self.walk = ReplicaWalk(
            self.board,
            lambda: NOW,
            Inquiries(self._no_probe, pause=0, monotonic=lambda: self.now),
            5.0,
            lambda key, place: True,
            lambda place: False,
            monotonic=lambda: self.now,
        )

    async def _no_probe(self, key: CustomerKey, place: Replica) -> None:
        pass

    async def ask(self, place: Replica, limit: float) -> str:
        self.asked.append(place.name)
        await self.answers[place.name].wait()
        return place.name

    def use(self, key: CustomerKey = KEY) -> asyncio.Task[str]:
        async def served() -> str:
            return (await self.walk.first_that_serves(key, self.ask, 3.0)).replica

        return asyncio.ensure_future(served())

    async def begun(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.asked) < count:
                await asyncio.sleep(0)


async def test_nobody_queues_up_behind_a_question_that_is_not_answered() -> None:
    office = Office()
    first = office.use()
    await office.begun(1)
    office.now += LATE_SECONDS / 2
    second = office.use()
    await office.begun(2)
    office.now += LATE_SECONDS
    office.answers["two"].set()
    assert [await office.use() for _ in range(5)] == ["two"] * 5
    assert office.asked == ["one", "one", *["two"] * 5]
    # What was late answers: it is the first again at once.
    office.answers["one"].set()
    assert (await first, await second) == ("one", "one")
    assert await office.use() == "one"


async def test_where_there_is_no_other_or_the_other_is_late_too_the_first_is_asked() -> None:
    office = Office()
    pending = [office.use(ALONE)]
    await office.begun(1)
    office.now += 2 * LATE_SECONDS
    pending.append(office.use(ALONE))
    await office.begun(2)
    pending.append(office.use())
    await office.begun(3)
    office.now += 2 * LATE_SECONDS
    pending.append(office.use())
    await office.begun(4)
    office.now += 2 * LATE_SECONDS
    pending.append(office.use())
    await office.begun(5)
    assert office.asked == ["one", "one", "one", "two", "one"]
    for answer in office.answers.values():
        answer.set()
    await asyncio.gather(*pending)


async def test_a_late_place_that_was_taken_away_is_not_passed_over() -> None:
    office = Office()
    office.board.saw(KEY.name, "one", KeyState.REVOKED, "", NOW, began=office.board.moment)
    first = office.use()
    await office.begun(1)
    office.now += 2 * LATE_SECONDS
    with pytest.raises(errors.KeyUnreachable, match="has not answered"):
        await office.use()
    assert "two" not in office.asked
    office.answers["one"].set()
    await first
