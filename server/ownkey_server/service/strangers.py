"""Answers to callers that nobody knows: a few at a time, so that those who are known need not wait behind them.

Whoever reaches the server gets an answer about an emergency call, so that anybody can ask as often as they like. None
of them is ever refused. But beyond a budget their answers wait, while everybody else is served: a caller whose answers
wait sends no more calls than its connections have streams, and what waits here costs next to nothing. The same holds
for the refusals of callers that nobody knows, in a line of their own.

Of those who wait, addresses take turns, and of one address its connections: a flood from one place delays another's
single call by one answer, and the call of another connection behind the same proxy by one for each connection.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

TICK_SECONDS = 0.01
# IPv6 networks are given out by this length: who has one has all addresses in it.
IPV6_NETWORK = 64


@dataclass(frozen=True, slots=True)
class Budget:
    """How many answers strangers get. Measured: docs/limits.md.

    Attributes:
        per_second: Answers a second, of all strangers together.
        burst: Answers at once, after a pause.
        waiting: How many may wait. Further ones are answered at once: refused is nobody, and memory has an end.
    """

    per_second: float = 200.0
    burst: float = 100.0
    waiting: int = 10_000


class Strangers:
    """Lets answers to strangers go, one after the other. Belongs to one event loop.

    Args:
        budget: How many.
        monotonic: The present time of a clock that is never set.
    """

    def __init__(self, budget: Budget, monotonic: Callable[[], float]) -> None:
        self._budget = budget
        self._monotonic = monotonic
        self._tokens, self._at = budget.burst, monotonic()
        # Addresses in the order of their turns, the connections of each in the order of theirs. No line is empty.
        self._addresses: OrderedDict[str, OrderedDict[str, deque[asyncio.Future[None]]]] = OrderedDict()
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._waiting

    async def turn(self, peer: str) -> None:
        """Wait until an answer may go to a stranger.

        Args:
            peer: The connection, as gRPC names it: ``ipv4:192.0.2.1:5678``.
        """
        self._fill()
        if not self._waiting and self._tokens >= 1:
            self._tokens -= 1
            return
        if self._waiting >= self._budget.waiting:
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        connections = self._addresses.setdefault(address_of(peer), OrderedDict())
        connections.setdefault(peer, deque()).append(turn)
        self._waiting += 1
        if self._timer is None:
            self._timer = loop.call_later(TICK_SECONDS, self._go_on)
        # Who leaves is passed over when its turn comes: a turn that was cancelled costs no token.
        await turn

    def _fill(self) -> None:
        now = self._monotonic()
        self._tokens = min(self._budget.burst, self._tokens + (now - self._at) * self._budget.per_second)
        self._at = now

    def _go_on(self) -> None:
        self._fill()
        # However late this comes: a crowd that goes at once holds everybody else up.
        most = math.ceil(self._budget.per_second * TICK_SECONDS)
        while self._waiting and most and self._tokens >= 1:
            turn = self._next()
            if not turn.done():
                turn.set_result(None)
                self._tokens -= 1
                most -= 1
        # What was not used while others waited is gone, so that a late timer is not followed by a crowd.
        self._tokens = min(self._tokens, 1.0) if self._waiting else self._tokens
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(TICK_SECONDS, self._go_on) if self._waiting else None

    def _next(self) -> asyncio.Future[None]:
        address, connections = next(iter(self._addresses.items()))
        peer, line = next(iter(connections.items()))
        turn = line.popleft()
        self._waiting -= 1
        if line:
            connections.move_to_end(peer)
        else:
            del connections[peer]
        if connections:
            self._addresses.move_to_end(address)
        else:
            del self._addresses[address]
        return turn


def address_of(peer: str) -> str:
    """Whose connection it is: the address without its port; of IPv6 the network."""
    kind, _, place = peer.partition(":")
    host = place.rpartition(":")[0].strip("[]").replace("%5B", "").replace("%5D", "")
    if kind == "ipv6":
        try:
            return str(ipaddress.ip_network((host.partition("%")[0], IPV6_NETWORK), strict=False))
        except ValueError:
            return host
    return host or kind
