"""Asks after keys of which traffic has shown nothing lately, so that their state is known when it is asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

from ownkey_server.domain.clock import Clock
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
FIRST_SECONDS = 1.0


class Probes:
    """Probes keys, each at most once at a time.

    Args:
        interval: Evidence older than this is renewed.
    """

    def __init__(
        self, directory: Directory, ring: KeyRing, board: StatusBoard, clock: Clock, interval: timedelta
    ) -> None:
        self._directory = directory
        self._ring = ring
        self._board = board
        self._clock = clock
        self._interval = interval
        self._places = asyncio.Semaphore(CONCURRENT_PROBES)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._looked_at: dict[str, datetime] = {}

    async def run(self) -> None:
        """Keep the evidence of every key in use fresh, until cancelled."""
        while True:
            keys = self._directory.keys_in_use(IN_USE_SECONDS)
            for key in keys:
                if not self._fresh(key) or self._due(key):
                    self._begin(key)
            names = {key.name for key in keys}
            self._looked_at = {name: at for name, at in self._looked_at.items() if name in names}
            self._board.prune(self._clock())
            await asyncio.sleep(self._interval.total_seconds() / 4)

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

    def _unknown(self, key: CustomerKey) -> bool:
        evidence = self._board.of(key, self._clock())
        return evidence is None or evidence.state is KeyState.UNKNOWN

    def _fresh(self, key: CustomerKey) -> bool:
        now = self._clock()
        seen = [self._board.of_replica(key.name, place.name, now) for place in key.replicas]
        return all(one is not None and now - one.observed_at < self._interval for one in seen)

    def _due(self, key: CustomerKey) -> bool:
        looked_at = self._looked_at.get(key.name)
        pause = max(timedelta(seconds=LOOK_SECONDS), self._interval)
        return looked_at is None or self._clock() - looked_at >= pause

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
