"""How often a key may wrap: at most 2^32 times with random nonces of 96 bits, over all instances and restarts.

SP 800-38D, section 8.3: so that two wraps meet in a nonce with a probability of at most 2^-32. Each process reserves
blocks of wraps in the database, ahead of need, and counts its own down. What is left of a block when a process ends is
lost: the count is never too low. A key is counted in all of its places together, and goes on from where it was when it
is enrolled anew under another name (``storage/key_usage.py``). Every wrap counts, whatever the store's way of wrapping.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from ownkey_server.domain.errors import DatabaseUnavailable, KeyExhausted
from ownkey_server.domain.tenants import CustomerKey
from ownkey_server.service.view_cache import on_thread
from ownkey_server.storage.key_usage import PROBES_OF

_log = logging.getLogger(__name__)

INVOCATIONS = 2**32
# Kept for probes, so that the state of a key that wraps no more is still known: at one a second, half a year.
PROBES = 2**24
BLOCK = 2**16
PROBE_BLOCK = 2**8
# Keys that are counted at once. What is dropped loses its block.
MAX_KEYS = 100_000
RESERVE_SECONDS = 5.0

Reserve = Callable[[str, int, int], int]


@dataclass(slots=True)
class _Budget:
    left: int = 0
    renewing: asyncio.Task[bool] | None = None
    warned: bool = False


class KeyBudgets:
    """What each key has left here. Belongs to one event loop.

    Args:
        reserve: Reserves a block of a key, of so many, up to a limit; gives how many are reserved in all, 0 for none.
        executor: Where that waits for the database.
        limit: How often a key may wrap.
        block: How many wraps are reserved at once.
    """

    def __init__(
        self, reserve: Reserve, executor: Executor, *, limit: int = INVOCATIONS - PROBES, block: int = BLOCK
    ) -> None:
        self._reserve = reserve
        self._executor = executor
        self._limit = limit
        self._block = block
        self._budgets: OrderedDict[str, _Budget] = OrderedDict()

    def take(self, key: str) -> bool:
        """Count a wrap of the key of that name; False when nothing is left here, and :meth:`renew` must be asked."""
        budget = self._budgets.get(key)
        if budget is None or budget.left <= 0:
            return False
        budget.left -= 1
        if budget.left < self._block // 2 and budget.renewing is None:
            self._renew(key, budget, self._block, self._limit)
        return True

    async def renew(self, key: CustomerKey) -> None:
        """Count a wrap of a key of which nothing is left here.

        Raises:
            KeyExhausted: It has wrapped as often as it may.
            DatabaseUnavailable: Whether it may is not known.
        """
        if not await self._renewed(key.name, self._block, self._limit):
            place = key.primary
            cause = f"it has wrapped {self._limit} times, which is as often as is safe: enrol another key"
            raise KeyExhausted(place.name, place.reference, cause)

    async def take_probe(self, key: CustomerKey) -> bool:
        """Count a probe of a key; False when it may not be made, or whether it may is not known."""
        name = PROBES_OF + key.name
        budget = self._budgets.get(name)
        if budget is not None and budget.left > 0:
            budget.left -= 1
            return True
        try:
            return await self._renewed(name, PROBE_BLOCK, PROBES)
        except DatabaseUnavailable:
            return False

    async def _renewed(self, name: str, block: int, limit: int) -> bool:
        """Take one, and wait for a block if there must be one; False when there are no more."""
        budget = self._budgets.get(name)
        if budget is None:
            budget = self._budgets[name] = _Budget()
            if len(self._budgets) > MAX_KEYS:
                self._budgets.popitem(last=False)
        while budget.left <= 0:
            task = budget.renewing or self._renew(name, budget, block, limit)
            if not await asyncio.shield(task):
                return False
        budget.left -= 1
        return True

    def _renew(self, name: str, budget: _Budget, block: int, limit: int) -> asyncio.Task[bool]:
        task = asyncio.get_running_loop().create_task(self._fetch(name, budget, block, limit))
        # Nobody may be waiting for it; whoever needs it next asks again.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        budget.renewing = task
        return task

    async def _fetch(self, name: str, budget: _Budget, block: int, limit: int) -> bool:
        """Reserve a block; False when there is none any more."""
        try:
            reserved = await on_thread(self._executor, lambda: self._reserve(name, block, limit), RESERVE_SECONDS)
        finally:
            budget.renewing = None
        if reserved:
            budget.left += block
        if reserved > limit // 2 and not budget.warned:
            budget.warned = True
            _log.warning("%s: %d of at most %d wraps are used or reserved: think of another key", name, reserved, limit)
        return reserved > 0
