"""The state of keys: told from memory, and kept fresh by probes where traffic shows nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from ownkey_server.domain.errors import KeyNotFound
from ownkey_server.domain.key_state import KeyEvidence
from ownkey_server.domain.tenants import CustomerKey
from ownkey_server.service.clock import Clock
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.status_board import StatusBoard
from ownkey_server.storage.directory import Directory

_log = logging.getLogger(__name__)

# Enough that one slow token does not hold up the others, few enough not to be a load of its own.
CONCURRENT_PROBES = 8


@dataclass(frozen=True, slots=True)
class KeyReport:
    """A key and what is known of it; no evidence means that it was not asked yet.

    Attributes:
        evidence_age: None exactly when there is no evidence.
    """

    key: CustomerKey
    evidence: KeyEvidence | None
    evidence_age: timedelta | None


class KeyStatus:
    """Tells the state of a tenant's keys."""

    def __init__(self, directory: Directory, board: StatusBoard, clock: Clock) -> None:
        self._directory = directory
        self._board = board
        self._clock = clock

    def report(self, tenant_id: str, key_id: str) -> list[KeyReport]:
        """The state of one key, or of all keys of the tenant when ``key_id`` is empty, by id.

        Raises:
            TenantNotFound: There is no such tenant.
            KeyNotFound: The tenant has no such key.
        """
        tenant = self._directory.tenant(tenant_id)
        if key_id and key_id not in tenant.keys:
            raise KeyNotFound(tenant_id, f"has no key {key_id!r}")
        now = self._clock()
        reports = []
        for one in [key_id] if key_id else sorted(tenant.keys):
            evidence = self._board.of(tenant.keys[one].name, now)
            age = now - evidence.observed_at if evidence else None
            reports.append(KeyReport(tenant.keys[one], evidence, age))
        return reports


class Prober:
    """Asks after every key of which traffic has shown nothing lately.

    Args:
        interval: Evidence older than this is renewed.
    """

    def __init__(
        self, keys: Iterable[CustomerKey], ring: KeyRing, board: StatusBoard, clock: Clock, interval: timedelta
    ) -> None:
        self._keys = tuple(keys)
        self._ring = ring
        self._board = board
        self._clock = clock
        self._interval = interval
        self._places = asyncio.Semaphore(CONCURRENT_PROBES)

    async def probe_stale(self) -> None:
        """Probe each key whose evidence is older than the interval, and return when all have answered."""
        now = self._clock()
        stale = [key for key in self._keys if not self._fresh(self._board.of(key.name, now))]
        await asyncio.gather(*(self._probe(key) for key in stale))

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await self.probe_stale()
            await asyncio.sleep(self._interval.total_seconds() / 4)

    def _fresh(self, evidence: KeyEvidence | None) -> bool:
        return evidence is not None and self._clock() - evidence.observed_at < self._interval

    async def _probe(self, key: CustomerKey) -> None:
        async with self._places:
            before = self._board.of(key.name, self._clock())
            try:
                await self._ring.probe(key)
            except Exception:  # noqa: BLE001 - logged whole
                # A defect must not end the watch over all the other keys.
                _log.exception("probe of %s failed", key.name)
                return
            after = self._board.of(key.name, self._clock())
            if after is not None and (before is None or before.state is not after.state):
                _log.info("key %s is %s%s", key.name, after.state, f": {after.cause}" if after.cause else "")
