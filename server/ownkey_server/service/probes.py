"""Asks after keys of which traffic has shown nothing lately, so that their state is known when it is asked for.

A key is asked after by one instance at a time: whoever has its lease. The others hear what it found. While the database
is away, and nobody can have a lease, each instance asks by itself.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta

from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import DatabaseUnavailable
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import CustomerKey
from ownkey_server.service.directory import Directory
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.status_board import StatusBoard

_log = logging.getLogger(__name__)

# Enough that one slow token does not hold up the others, few enough not to be a load of its own.
CONCURRENT_PROBES = 8
# Keys of tenants that nobody asked for during this time are left alone: of 100,000 tenants, few are about at once.
IN_USE_SECONDS = 600.0
# Traffic shows that a key works, and not what a key store says of it besides: that is asked this often all the same.
LOOK_SECONDS = 60.0
# How long an answer waits for the first evidence about a key.
FIRST_SECONDS = 1.5
# The longest pause between two rounds.
ROUND_SECONDS = 1.0
# A key that was well at its last probes is asked after up to so many times as seldom, and one that was not as often.
CALM, ALARMED = 2.0, 0.25
# Every pause is as much longer or shorter at random, so that keys do not stay in step.
JITTER = 0.1
DEFAULT_RATE = 20.0

Claim = Callable[[list[str], float], Awaitable[frozenset[str]]]
"""Takes the leases of those names for so many seconds; gives those that were to be had. DatabaseUnavailable else."""


async def everything(names: list[str], _seconds: float) -> frozenset[str]:
    """The leases of one who is alone."""
    return frozenset(names)


class Probes:
    """Probes keys, each at most once at a time.

    Args:
        interval: Evidence older than this is renewed.
        claim: Takes the leases of keys.
        lease: For how long, in seconds: the time of a probe, after which another takes over.
        rate: Probes a second, at most, of each key store.
    """

    def __init__(
        self,
        directory: Directory,
        ring: KeyRing,
        board: StatusBoard,
        clock: Clock,
        interval: timedelta,
        *,
        claim: Claim = everything,
        lease: float = 10.0,
        rate: float = DEFAULT_RATE,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._directory = directory
        self._ring = ring
        self._board = board
        self._clock = clock
        self._interval = interval
        self._claim = claim
        self._lease = lease
        self._rate = rate
        self._monotonic = monotonic
        self._chance = chance
        self._places = asyncio.Semaphore(CONCURRENT_PROBES)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._looked_at: dict[str, datetime] = {}
        self._calm: Counter[str] = Counter()
        self._spread: dict[str, float] = {}
        self._tokens: dict[str, float] = {}
        self._refilled_at = monotonic()
        self._alone = False

    async def run(self) -> None:
        """Keep the evidence of every key in use fresh, until cancelled."""
        while True:
            try:
                await self.one_round()
            except Exception:  # noqa: BLE001 - logged whole
                _log.exception("a round of probes failed")
            await asyncio.sleep(min(self._interval.total_seconds() / 4, ROUND_SECONDS))

    async def one_round(self) -> None:
        """Probe what is due, as far as it is this instance's turn."""
        keys = {key.name: key for key in self._directory.keys_in_use(IN_USE_SECONDS)}
        idle = [key for key in keys.values() if key.name not in self._running]
        stale = [key.name for key in idle if not self._fresh(key)]
        due = [key.name for key in idle if key.name not in set(stale) and self._due(key)]
        turns = set(await self._turns(stale, self._lease))
        # A lease of its own: that a key is looked at once a minute keeps nobody from asking when it is in doubt.
        looks = await self._turns([f"look:{name}" for name in due], max(LOOK_SECONDS, self._lease))
        turns |= {name.removeprefix("look:") for name in looks}
        self._refill()
        now = self._clock()
        for name in due:
            self._looked_at[name] = now
        for name in sorted(turns, key=lambda _: self._chance()):
            if self._affords(keys[name]):
                self._begin(keys[name])
        self._looked_at = {name: at for name, at in self._looked_at.items() if name in keys}
        self._calm = Counter({name: count for name, count in self._calm.items() if name in keys})
        self._spread = {name: one for name, one in self._spread.items() if name in keys}
        self._board.prune(now)

    async def first_evidence(self, keys: Iterable[CustomerKey]) -> None:
        """Ask after those keys of which nothing is known, and wait a moment for the answers."""
        unknown = [key for key in keys if self._unknown(key)]
        if unknown:
            await asyncio.wait([self._begin(key) for key in unknown], timeout=FIRST_SECONDS)

    async def close(self) -> None:
        """End the probes that are under way."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def _turns(self, names: list[str], seconds: float) -> frozenset[str]:
        if not names:
            return frozenset()
        try:
            turns = await self._claim(names, seconds)
        except DatabaseUnavailable as error:
            if not self._alone:
                _log.warning("probes are not shared with other instances: %s", error.cause)
            self._alone = True
            return frozenset(names)
        if self._alone:
            _log.info("probes are shared with other instances again")
        self._alone = False
        return turns

    def _unknown(self, key: CustomerKey) -> bool:
        evidence = self._board.of(key, self._clock())
        return evidence is None or evidence.state is KeyState.UNKNOWN

    def _fresh(self, key: CustomerKey) -> bool:
        now = self._clock()
        seen = [self._board.of_replica(key.name, place.name, now) for place in key.replicas]
        pause = self._pause(key)
        return all(one is not None and now - one.observed_at < pause for one in seen)

    def _pause(self, key: CustomerKey) -> timedelta:
        """How old evidence of a key may become before it is asked after."""
        factor = 1.0 + min(CALM - 1.0, self._calm[key.name] / 4)
        for place in key.replicas:
            if self._ring.hangs(key.name, place.name):
                continue  # more probes would hang beside it
            judged = self._board.judged(key.name, place.name)
            if judged is not None and (judged.doubt or judged.recovering or judged.now.state is KeyState.UNREACHABLE):
                factor = ALARMED
        spread = self._spread.setdefault(key.name, self._chance())
        pause = self._interval * factor * (1.0 + JITTER * (2.0 * spread - 1.0))
        # Before the evidence proves nothing any more.
        return min(pause, max(self._interval, self._board.max_age * 0.75))

    def _due(self, key: CustomerKey) -> bool:
        looked_at = self._looked_at.get(key.name)
        pause = max(timedelta(seconds=LOOK_SECONDS), self._interval)
        return looked_at is None or self._clock() - looked_at >= pause

    def _refill(self) -> None:
        now = self._monotonic()
        more, self._refilled_at = (now - self._refilled_at) * self._rate, now
        self._tokens = {store: min(held + more, self._most) for store, held in self._tokens.items()}

    @property
    def _most(self) -> float:
        return max(1.0, self._rate * ROUND_SECONDS)

    def _affords(self, key: CustomerKey) -> bool:
        """Whether each of the key's stores may be asked once more now; it is counted as if so it were."""
        stores = Counter(place.store for place in key.replicas)
        held = {store: self._tokens.setdefault(store, self._most) for store in stores}
        if any(held[store] < min(count, self._most) for store, count in stores.items()):
            return False
        for store, count in stores.items():
            self._tokens[store] -= count
        return True

    def _begin(self, key: CustomerKey) -> asyncio.Task[None]:
        task = self._running.get(key.name)
        if task is None:
            self._looked_at[key.name] = self._clock()
            task = asyncio.get_running_loop().create_task(self._probe(key), name=f"probe {key.name}")
            self._running[key.name] = task
            task.add_done_callback(lambda _: self._running.pop(key.name, None))
        return task

    async def _probe(self, key: CustomerKey) -> None:
        async with self._places:
            try:
                await self._ring.probe(key)
            except Exception:  # noqa: BLE001 - logged whole
                # A defect must not end the watch over all the other keys.
                _log.exception("probe of %s failed", key.name)
        evidence = self._board.of(key, self._clock())
        calm = evidence is not None and evidence.state is KeyState.AVAILABLE
        self._calm[key.name] = self._calm[key.name] + 1 if calm else 0
        self._spread.pop(key.name, None)
