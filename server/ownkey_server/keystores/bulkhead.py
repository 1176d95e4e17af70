"""Threads for libraries that block: bounded for all, and for each share, so that one who hangs holds up nobody else.

A call that was given up goes on in its thread until the library comes back, and keeps its place until then: what hangs
is never started more often than it may.

Shares have owners: one may have several, and is bounded in all of them together. What a share and an owner may have
shrinks as other owners fill the threads: all of their own while these are idle, and one thread when they have half of
all. So the other half is for those who have nothing under way: one of them finds a thread at once, until half as many
owners hang as there are threads.

One share that hangs must not stop its owner's next: that has one thread more, as long as all owners together have less
than half of the threads beyond the first of each.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


class NoPlace(Exception):
    """No thread became free in time: the caller's share, or all together, have as many calls under way as they may."""


class NoAnswer(Exception):
    """The call was begun, and did not come back in time."""


class Closed(Exception):
    """Nothing is begun any more."""


@dataclass(order=True, slots=True)
class _Waiter:
    rank: tuple[bool, int]
    turn: asyncio.Future[None] = field(compare=False)


class Threads:
    """The threads that all shares have together. Belongs to one event loop.

    Args:
        most: How many there are.
    """

    def __init__(self, most: int, name: str) -> None:
        self.most = most
        self.executor = ThreadPoolExecutor(most, name)
        self.busy = 0
        self.owners = 0
        """How many owners have any of them."""
        self.closed = False
        # In the order in which they are looked at: whoever was served goes to the end.
        self._waiting: dict[Bulkhead, None] = {}

    @property
    def free(self) -> int:
        """How many are idle."""
        return self.most - self.busy

    def close(self) -> None:
        """Start nothing more, and let those who wait know. What runs ends by itself."""
        self.closed = True
        self.executor.shutdown(wait=False, cancel_futures=True)
        for bulkhead in tuple(self._waiting):
            bulkhead.turn_away()
        self._waiting.clear()

    def wait_for(self, bulkhead: Bulkhead) -> None:
        """Remember that a share has somebody waiting."""
        self._waiting.setdefault(bulkhead)

    def wake(self) -> None:
        """Give what is free to those who wait, whoever's they are: one each in turn, and live work first."""
        for background in (False, True):
            served = True
            while served and self.free > 0:
                served = False
                for bulkhead in tuple(self._waiting):
                    if bulkhead.serve(background=background):
                        served = True
                        del self._waiting[bulkhead]
                        if bulkhead.waits:
                            self._waiting[bulkhead] = None
                    elif not bulkhead.waits:
                        del self._waiting[bulkhead]


class Owner:
    """Who has shares of the threads. Belongs to one event loop.

    Args:
        threads: Those that they are shares of.
        most: How many of them it may have at once in all of its shares; background work, half of that.

    Attributes:
        busy: How many it has.
        shares: How many of its shares have any.
    """

    def __init__(self, threads: Threads, most: int) -> None:
        self._threads = threads
        self._most = most
        self.busy = 0
        self.shares = 0

    def may_have(self, most: int) -> int:
        """How many of so many others leave to it, at the least one."""
        everything, others = self._threads.most, self._threads.busy - self.busy
        return 1 + (most - 1) * max(0, everything - 2 * others) // everything

    def has_place(self, *, background: bool) -> bool:
        """Whether it may have one more."""
        most = self.may_have(self._most)
        return self.busy < (min(most, _half(self._most)) if background else most)

    @property
    def has_place_for_its_second(self) -> bool:
        """Whether a share that has nothing under way may have one thread, because one other alone has the rest."""
        beyond_the_first = self._threads.busy - self._threads.owners
        return self.shares < 2 and beyond_the_first < self._threads.most // 2 - 1

    def take(self, *, first_of_share: bool) -> None:
        """Count one more."""
        self._threads.busy += 1
        self._threads.owners += self.busy == 0
        self.busy += 1
        self.shares += first_of_share

    def give_back(self, *, last_of_share: bool) -> None:
        """Count one less."""
        self._threads.busy -= 1
        self.busy -= 1
        self._threads.owners -= self.busy == 0
        self.shares -= last_of_share


class Bulkhead:
    """A share of the threads. Belongs to one event loop.

    Args:
        threads: Those that it is a share of.
        most: How many of them it may have at once; background work, half of that.
        owner: Whose it is, if that has others.
    """

    def __init__(self, threads: Threads, most: int, owner: Owner | None = None) -> None:
        self._threads = threads
        self._most = most
        self._owner = owner or Owner(threads, most)
        self._busy = 0
        self._waiting: list[_Waiter] = []
        self._arrivals = itertools.count()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or waits."""
        return self._busy == 0 and not self._waiting

    @property
    def waits(self) -> bool:
        """Whether anybody waits for a place."""
        while self._waiting and self._waiting[0].turn.done():  # it gave up
            heapq.heappop(self._waiting)
        return bool(self._waiting)

    async def run(
        self,
        work: Callable[[float], T],
        timeout: float,
        *,
        background: bool = False,
        discard: Callable[[T], None] | None = None,
    ) -> T:
        """What ``work`` gives, in a thread.

        Args:
            work: Gets the time, on the monotonic clock, after which nobody waits for it.
            timeout: Seconds until this gives up waiting, for a place and for the answer together.
            background: Whether it waits behind all that somebody waits for.
            discard: Gets what ``work`` gives when nobody waits for it any more: a key that it opened is to be wiped.

        Raises:
            NoPlace: Nothing was begun.
            NoAnswer: It did not come back in time.
            Closed: The threads were closed before it began.
        """
        deadline = time.monotonic() + timeout
        await self._enter(timeout, background=background)
        loop = asyncio.get_running_loop()
        try:
            running = loop.run_in_executor(self._threads.executor, work, deadline)
        except RuntimeError:  # closed since
            self._give_back()
            raise Closed from None
        running.add_done_callback(self._leave)
        try:
            done, _ = await asyncio.wait((running,), timeout=max(0.0, deadline - time.monotonic()))
        except asyncio.CancelledError:
            _let_go(running, discard)
            raise
        if not done:
            _let_go(running, discard)
            raise NoAnswer
        if running.cancelled():
            raise Closed
        return running.result()

    def serve(self, *, background: bool) -> bool:
        """Let in the next who waits, if it is of this kind and there is a place for it."""
        if not self.waits or self._waiting[0].rank[0] is not background or not self._has_place(background=background):
            return False
        self._take()
        heapq.heappop(self._waiting).turn.set_result(None)
        return True

    def turn_away(self) -> None:
        """Tell all who wait that nothing is begun any more."""
        while self.waits:
            heapq.heappop(self._waiting).turn.set_exception(Closed())

    async def _enter(self, timeout: float, *, background: bool) -> None:
        if self._threads.closed:
            raise Closed
        if timeout <= 0:
            raise NoPlace
        if not self.waits and self._has_place(background=background):
            self._take()
            return
        waiter = _Waiter((background, next(self._arrivals)), asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting, waiter)
        self._threads.wait_for(self)
        self._threads.wake()  # live work does not wait because background work does
        try:
            await asyncio.wait_for(waiter.turn, timeout)
        except TimeoutError:
            if not _was_let_in(waiter):
                raise NoPlace from None
        except asyncio.CancelledError:
            if _was_let_in(waiter):
                self._give_back()
            raise

    def _has_place(self, *, background: bool) -> bool:
        if self._threads.free <= 0:
            return False
        most = self._owner.may_have(self._most)
        if self._busy >= (min(most, _half(self._most)) if background else most):
            return False
        return self._owner.has_place(background=background) or (
            self._busy == 0 and self._owner.has_place_for_its_second
        )

    def _take(self) -> None:
        self._owner.take(first_of_share=self._busy == 0)
        self._busy += 1

    def _leave(self, running: asyncio.Future[T]) -> None:
        if not running.cancelled():
            running.exception()  # nobody may be waiting any more
        self._give_back()

    def _give_back(self) -> None:
        self._busy -= 1
        self._owner.give_back(last_of_share=self._busy == 0)
        self._threads.wake()


def _half(most: int) -> int:
    return (most + 1) // 2


def _was_let_in(waiter: _Waiter) -> bool:
    turn = waiter.turn
    return turn.done() and not turn.cancelled() and turn.exception() is None


def _let_go(running: asyncio.Future[T], discard: Callable[[T], None] | None) -> None:
    """Have what comes of a call discarded, for its caller has gone."""

    def ended(done: asyncio.Future[T]) -> None:
        if discard is not None and not done.cancelled() and done.exception() is None:
            discard(done.result())

    running.add_done_callback(ended)
