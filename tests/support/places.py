"""The places of a key behind a real walk: they do as a test says, and time passes as they let it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ownkey_server.domain import errors
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import CustomerKey, Replica
from ownkey_server.service.inquiries import Inquiries
from ownkey_server.service.key_store_calls import KeyStoreCall, KeyStoreCalls
from ownkey_server.service.latencies import FEWEST
from ownkey_server.service.replica_walk import ReplicaWalk
from ownkey_server.service.status_board import StatusBoard

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
ONE, TWO, THREE = (Replica(name, "acme-main") for name in ("one", "two", "three"))
KEY = CustomerKey("tenants/acme/keys/main", (ONE, TWO))
WORKS = "a data key"


class Places:
    """Places that do as a test says, and a clock that goes on when a place lets time pass."""

    def __init__(self, *, hedge: bool = False, remote: bool = False) -> None:
        self.now = 1000.0
        self.board = StatusBoard(timedelta(hours=1))
        self.does: dict[str, Any] = {}
        self.states: dict[str, KeyState] = {}
        self.asked: list[tuple[str, float]] = []
        self.discarded: list[str] = []
        self.late: list[KeyStoreCall] = []
        self.calls = KeyStoreCalls(self.late.append)
        inquiries = Inquiries(self._probe, pause=0, monotonic=lambda: self.now)
        self.walk = ReplicaWalk(
            self.board,
            lambda: NOW,
            inquiries,
            5.0,
            lambda key, place: True,
            lambda place: remote,
            hedge=hedge,
            monotonic=lambda: self.now,
        )

    async def _probe(self, key: CustomerKey, place: Replica) -> None:
        state = self.states.get(place.name)
        if state is not None:
            self.board.saw(key.name, place.name, state, "", NOW, began=self.board.moment)

    async def ask(self, place: Replica, limit: float) -> str:
        self.asked.append((place.name, limit))
        does = self.does.get(place.name, WORKS)
        if isinstance(does, asyncio.Event):
            await does.wait()
            does = self.does[place.name]
        if does == "black hole":
            self.now += limit
            does = errors.KeyUnreachable
        if isinstance(does, type):
            raise does(place.name, place.reference, "as the test says")
        return f"{does} of {place.name}"

    async def use(self, remaining: float | None = None, key: CustomerKey = KEY) -> str:
        """The place that served."""
        begin = self.calls.of("unwrap")
        return (await self.walk.first_that_serves(key, self.ask, remaining, self.discarded.append, begin)).replica

    async def fail(self, kind: type[errors.KeyStoreError], remaining: float | None = None) -> errors.KeyStoreError:
        """The error of a use that must fail so."""
        with pytest.raises(kind) as caught:
            await self.use(remaining)
        assert type(caught.value) is kind
        return caught.value

    def told(self) -> list[tuple[str, str]]:
        """What a record would say now, of the uses since the last."""
        told = [(call.replica, call.result) for call in self.calls.tell()]
        self.calls = KeyStoreCalls(self.late.append)
        return told

    def names(self) -> list[str]:
        """Which places were asked since this was last asked for."""
        names = [name for name, _ in self.asked]
        self.asked.clear()
        return names

    def state(self, key: CustomerKey = KEY) -> KeyState | None:
        evidence = self.board.of(key, NOW)
        return evidence.state if evidence else None


async def looked_into() -> None:
    """What one failed call has shown is asked about meanwhile."""
    for _ in range(5):
        await asyncio.sleep(0)


async def known_to_be_quick(places: Places) -> None:
    for _ in range(FEWEST):
        await places.use()
    places.names()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)
