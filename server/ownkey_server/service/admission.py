"""Which calls are worked on now, which wait, and which are refused: the most urgent first, tenants in turn.

One event loop does all the work. Past its capacity every call takes longer, until all of them end too late. So only a
few calls are worked on at once, and the others wait as suspended coroutines, which cost almost nothing. That keeps the
loop's own queue short for what may not wait:

- **Call gate** calls are never counted, never wait and are never refused here, emergency calls among them.
- Every other call takes a place. A priority may take places only while fewer than its own number are taken by anybody,
  and the number is the smaller the less urgent it is: background work goes on beside little else, and stops first.
- What administrators do is less urgent than what callers wait for, and must be possible when nothing else is: a
  customer revokes a key under overload too. A few places are reserved for it, beside all others, and of those one
  tenant has its share alone. What finds none of them free takes its chance among the others.
- A call that gets no place waits in a queue: the most urgent priority is served first, within it one tenant after the
  other, and of one tenant the oldest call.
- A call that has waited for as long as its priority may is refused. When the queue is full, the newest call of the
  lowest priority goes, of the tenant that has the most there.

A refusal costs the server nearly half of what an answer costs, most of it before this code is reached. So waiting is
better than refusing: a client whose calls wait sends no more of them than a connection has streams, and keeps the rest
on its own side. For the same reason those who have waited too long are refused a few at a time, and not all at once.

A place stands for work of this process. A call that has had one for ``place_seconds`` waits for something else, such as
a customer's key store that hangs: it is *slow*, and its place is free again, so that it keeps nobody else from theirs.
How many calls of one tenant, and of all, may be slow is bounded too.

Media streams last for hours and take no places: :meth:`Admission.stream` counts them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import TracebackType
from typing import TypeVar

from ownkey_server.domain.errors import Overloaded
from ownkey_server.service.fair_queue import FairQueue, TenantCounts

# How often those who wait are looked after, and how many of them are refused then for waiting too long: 200 a second,
# for a twentieth of the processor. No timer runs while nobody waits.
SWEEP_SECONDS = 0.01
REFUSED_AT_ONCE = 2
# Of those who wait, so many begin in one round of the event loop. Calls end in crowds, for their audit records are
# written together. As many beginning at once would make a long round, and a call at the gate needs several rounds.
BEGUN_AT_ONCE = 4


class Priority(IntEnum):
    """How urgent a call is; a lower number goes first. ``CHANGE`` and ``READ`` are administration's."""

    GATE = 0
    LIVE = 1
    PLAYBACK = 2
    CHANGE = 3
    READ = 4
    BACKGROUND = 5


N = TypeVar("N", int, float)

_FULL = "too many calls wait"


def _by_priority(live: N, playback: N, change: N, read: N, background: N) -> Mapping[Priority, N]:
    return {
        Priority.LIVE: live,
        Priority.PLAYBACK: playback,
        Priority.CHANGE: change,
        Priority.READ: read,
        Priority.BACKGROUND: background,
    }


# What is refused first comes back last.
RETRY_SECONDS = _by_priority(0.5, 2.0, 1.0, 2.0, 10.0)


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """How much is done at once. The defaults were measured: docs/limits.md.

    Attributes:
        places: Calls worked on at once: one of that priority begins while fewer, of all priorities, have a place.
        reserved: Places for administration alone, which count with no others.
        reserved_of_tenant: The most of these that one tenant may have, or one principal who names no tenant.
        place_seconds: How long a call counts as worked on; after that it is slow.
        slow: Slow calls at once. While there are so many, places become free only as calls end.
        slow_of_tenant: The same of one tenant, whose other calls are refused meanwhile.
        waiting: Calls in the queue.
        patience: Seconds that a call may wait there.
        streams: Media streams at once: one of that priority begins while fewer, of all priorities, run.
        stream_share: The share of that number that one tenant may have.
    """

    places: Mapping[Priority, int] = field(default_factory=lambda: _by_priority(40, 10, 10, 10, 4))
    reserved: Mapping[Priority, int] = field(default_factory=lambda: {Priority.CHANGE: 4, Priority.READ: 1})
    reserved_of_tenant: int = 2
    place_seconds: float = 0.05
    slow: int = 4096
    slow_of_tenant: int = 512
    waiting: int = 4096
    patience: Mapping[Priority, float] = field(default_factory=lambda: _by_priority(1.0, 1.0, 5.0, 5.0, 1.0))
    streams: Mapping[Priority, int] = field(default_factory=lambda: _by_priority(1000, 750, 500, 500, 500))
    stream_share: float = 0.5


class Admission:
    """Gives calls their places. Belongs to one event loop.

    Args:
        limits: How much is done at once.
        monotonic: The present time of a clock that is never set.
    """

    def __init__(self, limits: AdmissionLimits, monotonic: Callable[[], float]) -> None:
        self._limits = limits
        self._monotonic = monotonic
        # In the order in which they got their places: the first has had its place for longest.
        self._working: OrderedDict[Place, None] = OrderedDict()
        self._slow = TenantCounts()
        self._reserved = {priority: TenantCounts() for priority in limits.reserved}
        self._queues: dict[Priority, FairQueue[_Waiter]] = {priority: FairQueue() for priority in RETRY_SECONDS}
        self._waiting = 0
        self._streams = TenantCounts()
        self._sweep: asyncio.TimerHandle | None = None
        self._filling: asyncio.Handle | None = None

    @property
    def working(self) -> int:
        """How many calls have places."""
        return len(self._working)

    @property
    def reserved(self) -> int:
        """How many calls have places that are reserved for administration."""
        return sum(counts.total for counts in self._reserved.values())

    @property
    def slow(self) -> int:
        """How many calls have had their places for so long that these are free again."""
        return self._slow.total

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return self._waiting

    @property
    def streams(self) -> int:
        """How many media streams run."""
        return self._streams.total

    def admitted(self, priority: Priority, tenant: str, remaining: float | None = None) -> Place:
        """A place for as long as the block takes: ``async with admission.admitted(...):``.

        Args:
            priority: How urgent the call is.
            tenant: For whom it is. Calls whose tenant is not known are those of one tenant, with an empty name.
            remaining: Seconds that the caller is still waiting, if it said so. Nobody works for one who has left.

        Raises:
            Overloaded: On entering the block. It waited for as long as it may, or the queue is full of calls that are
                as urgent, or too many calls of the tenant are slow.
        """
        return Place(self, priority, tenant, remaining)

    @contextlib.contextmanager
    def stream(self, priority: Priority, tenant: str) -> Iterator[None]:
        """Count a media stream for as long as the block takes.

        Raises:
            Overloaded: There are as many as there may be, of all tenants or of this one.
        """
        most = self._limits.streams[priority]
        own = self._streams.of(tenant)
        if self._streams.total >= most:
            raise _refusal(priority, f"{self._streams.total} media streams run")
        if own >= max(1, int(most * self._limits.stream_share)):
            raise _refusal(priority, f"the tenant has {own} media streams")
        self._streams.add(tenant)
        try:
            yield
        finally:
            self._streams.remove(tenant)

    async def enter(self, place: Place) -> None:
        """Get the place, now or later. For :class:`Place` alone."""
        now = place.since = self._monotonic()
        if self._reserve(place):
            return
        if self._slow.total and self._slow.of(place.tenant) >= self._limits.slow_of_tenant:
            raise _refusal(place.priority, f"{self._limits.slow_of_tenant} calls of the tenant are slow")
        most = self._limits.places[place.priority]
        if len(self._working) >= most:
            self._free_slow(now)
        if len(self._working) >= most or (self._waiting and self._is_behind(place.priority)):
            await self._wait(place)
        else:
            self._working[place] = None

    def leave(self, place: Place) -> None:
        """Give the place back. For :class:`Place` alone."""
        if place.reserved:
            self._unreserve(place)
        elif place in self._working:
            del self._working[place]
        else:
            self._slow.remove(place.tenant)
        self._fill_soon()

    def _reserve(self, place: Place) -> bool:
        """Give one of the reserved places, if one is free for that priority and tenant."""
        if not self._may_reserve(place.priority, place.tenant):
            return False
        self._reserved[place.priority].add(place.tenant)
        place.reserved = True
        return True

    def _may_reserve(self, priority: Priority, tenant: str) -> bool:
        counts = self._reserved.get(priority)
        if counts is None or counts.total >= self._limits.reserved[priority]:
            return False
        return counts.of(tenant) < self._limits.reserved_of_tenant

    def _unreserve(self, place: Place) -> None:
        """Take a reserved place back, and give it to one that waits."""
        self._reserved[place.priority].remove(place.tenant)
        place.reserved = False
        waiter = self._queues[place.priority].pop_if(lambda tenant: self._may_reserve(place.priority, tenant))
        if waiter is not None:
            self._waiting -= 1
            self._reserve(waiter.place)
            if waiter.turn.done():
                self._unreserve(waiter.place)
            else:
                self._begin(waiter, self._monotonic())

    async def _wait(self, place: Place) -> None:
        if self._waiting >= self._limits.waiting:
            self._make_room(place)
        loop = asyncio.get_running_loop()
        waiter = _Waiter(place, place.tenant, place.since, loop.create_future())
        self._queues[place.priority].add(waiter)
        self._waiting += 1
        if self._sweep is None:
            self._sweep = loop.call_later(SWEEP_SECONDS, self._look_after)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.cancelled():
                self._remove(waiter)
            elif waiter.turn.exception() is None:
                self.leave(place)  # its turn came in the very moment in which its caller left
            raise

    def _is_behind(self, priority: Priority) -> bool:
        """Whether somebody waits who goes first."""
        return any(queue for other, queue in self._queues.items() if other <= priority)

    def _fill_soon(self) -> None:
        if self._waiting and self._filling is None:
            self._filling = asyncio.get_running_loop().call_soon(self._fill)

    def _fill(self) -> None:
        """Give free places to those who wait: to a few of them now, and to the others in the loop's next rounds."""
        self._filling = None
        now, left = self._monotonic(), BEGUN_AT_ONCE
        for priority, queue in self._queues.items():
            while queue and len(self._working) < self._limits.places[priority]:
                if not left:
                    self._fill_soon()
                    return
                left -= 1
                waiter = queue.pop()
                self._waiting -= 1
                if not waiter.turn.done():
                    self._begin(waiter, now)

    def _begin(self, waiter: _Waiter, now: float) -> None:
        """Let one begin that has waited: it takes its place, unless that is a reserved one."""
        place = waiter.place
        if place.remaining is not None and now - waiter.since >= place.remaining:
            waiter.refuse("its caller's deadline came first")
            if place.reserved:
                self._unreserve(place)
            return
        place.since = now
        if not place.reserved:
            self._working[place] = None
        waiter.turn.set_result(None)

    def _look_after(self) -> None:
        """Take the places of slow calls back, and refuse those who have waited for too long."""
        now = self._monotonic()
        self._free_slow(now)
        left = REFUSED_AT_ONCE
        for priority, queue in reversed(self._queues.items()):
            patience = self._limits.patience[priority]
            for waiter in queue.oldest(left, now - patience):
                self._remove(waiter)
                waiter.refuse(f"it waited for {patience:g} s")
                left -= 1
        self._fill_soon()
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_later(SWEEP_SECONDS, self._look_after) if self._waiting else None

    def _free_slow(self, now: float) -> None:
        until = now - self._limits.place_seconds
        while self._working and self._slow.total < self._limits.slow:
            oldest = next(iter(self._working))
            if oldest.since > until:
                return
            del self._working[oldest]
            self._slow.add(oldest.tenant)

    def _make_room(self, place: Place) -> None:
        """Refuse one of those who wait, or the one that comes."""
        lowest = max(priority for priority, queue in self._queues.items() if queue)
        newest = None
        if lowest >= place.priority:
            newest = self._queues[lowest].newest_to_go(place.tenant if lowest == place.priority else None)
        if newest is None:
            raise _refusal(place.priority, _FULL)
        self._remove(newest)
        newest.refuse(_FULL)

    def _remove(self, waiter: _Waiter) -> None:
        if self._queues[waiter.place.priority].discard(waiter):
            self._waiting -= 1


class Place:
    """A call's place. Made by :meth:`Admission.admitted`, and used once.

    Attributes:
        since: When the call got it, or began to wait for it.
        reserved: Whether it is one of those for changes alone.
    """

    __slots__ = ("_admission", "priority", "remaining", "reserved", "since", "tenant")

    def __init__(self, admission: Admission, priority: Priority, tenant: str, remaining: float | None) -> None:
        self._admission = admission
        self.priority = priority
        self.tenant = tenant
        self.remaining = remaining
        self.since = 0.0
        self.reserved = False

    async def __aenter__(self) -> None:
        if self.priority is not Priority.GATE:
            await self._admission.enter(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.priority is not Priority.GATE:
            self._admission.leave(self)


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """A call that waits for its place until ``turn`` is done."""

    place: Place
    tenant: str
    since: float
    turn: asyncio.Future[None]

    def refuse(self, why: str) -> None:
        """End the wait, unless the caller has ended it already."""
        if not self.turn.done():
            self.turn.set_exception(_refusal(self.place.priority, why))


def _refusal(priority: Priority, why: str) -> Overloaded:
    return Overloaded(priority.name.lower(), why, RETRY_SECONDS[priority])
