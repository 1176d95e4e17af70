"""Threads for libraries that block: bounded for all, and for each tenant, so that one who hangs holds up nobody else.

A call that was given up goes on in its thread until the library comes back, and keeps its tenant's place until then:
what hangs is never started more often than the tenant may.
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
    """No thread became free in time: the caller's tenant, or all together, have as many calls under way as they may."""


class NoAnswer(Exception):
    """The call was begun, and did not come back in time."""


@dataclass(order=True, slots=True)
class _Waiter:
    rank: tuple[bool, int]
    turn: asyncio.Future[None] = field(compare=False)


class Threads:
    """The threads that all tenants share.

    Args:
        most: How many there are.
    """

    def __init__(self, most: int, name: str) -> None:
        self.most = most
        self.executor = ThreadPoolExecutor(most, name)
        self.busy = 0

    def close(self) -> None:
        """Start nothing more. What runs ends by itself."""
        self.executor.shutdown(wait=False, cancel_futures=True)


class Bulkhead:
    """A tenant's share of the threads. Belongs to one event loop.

    Args:
        threads: Those that it is a share of.
        most: How many of them this tenant may have at once.
    """

    def __init__(self, threads: Threads, most: int) -> None:
        self._threads = threads
        self._most = most
        self._busy = 0
        self._waiting: list[_Waiter] = []
        self._arrivals = itertools.count()

    @property
    def idle(self) -> bool:
        """Whether nothing of the tenant's is under way or waits."""
        return self._busy == 0 and not self._waiting

    async def run(self, work: Callable[[float], T], timeout: float, *, background: bool = False) -> T:
        """What ``work`` gives, in a thread.

        Args:
            work: Gets the time, on the monotonic clock, after which nobody waits for it.
            timeout: Seconds until this gives up waiting, for a place and for the answer together.
            background: Whether it waits behind all that somebody waits for.

        Raises:
            NoPlace: Nothing was begun.
            NoAnswer: It did not come back in time.
        """
        deadline = time.monotonic() + timeout
        await self._enter(timeout, background=background)
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._threads.executor, work, deadline)
        running.add_done_callback(self._leave)
        try:
            return await asyncio.wait_for(asyncio.shield(running), max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            if running.done() and not running.cancelled() and running.exception() is not None:
                raise  # the work's own
            raise NoAnswer from None

    async def _enter(self, timeout: float, *, background: bool) -> None:
        if self._free and not self._waiting:
            self._take()
            return
        if timeout <= 0:
            raise NoPlace
        waiter = _Waiter((background, next(self._arrivals)), asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting, waiter)
        try:
            await asyncio.wait_for(waiter.turn, timeout)
        except TimeoutError:
            raise NoPlace from None
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                self._give_back()
            raise

    @property
    def _free(self) -> bool:
        return self._busy < self._most and self._threads.busy < self._threads.most

    def _take(self) -> None:
        self._busy += 1
        self._threads.busy += 1

    def _leave(self, running: asyncio.Future[T]) -> None:
        if not running.cancelled():
            running.exception()  # nobody may be waiting any more
        self._give_back()

    def _give_back(self) -> None:
        self._busy -= 1
        self._threads.busy -= 1
        while self._waiting and self._free:
            waiter = heapq.heappop(self._waiting)
            if not waiter.turn.done():
                self._take()
                waiter.turn.set_result(None)
