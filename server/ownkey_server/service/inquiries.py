"""What a key is like, asked by bytes of our own after a use of it was denied.

A denial says little about the key: its holder may have taken away one asset class, one group or one hour, by a
condition on the encryption context, and bytes to be opened may be anybody's. What tells is what the key does with ours.
That costs a call of the key store's, so it is asked once at a time for each place, and not more often than each second
however many denials there are; none goes without a look after it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ownkey_server.domain.tenants import CustomerKey, Replica

_log = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0
MANY = 10_000

Probe = Callable[[CustomerKey, Replica], Awaitable[None]]


@dataclass(slots=True)
class _Inquiry:
    """One that is under way, or waits for its time; ``again``: a denial came after it had begun."""

    task: asyncio.Task[None]
    begun: bool = False
    again: bool = False


class Inquiries:
    """Belongs to one event loop.

    Args:
        probe: Learns the state of a key in one place.
        pause: Seconds from the end of one inquiry to the next of the same place.
        monotonic: The present time of a clock that is never set.
    """

    def __init__(
        self, probe: Probe, pause: float = PAUSE_SECONDS, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._probe = probe
        self._pause = pause
        self._monotonic = monotonic
        self._running: dict[tuple[str, str], _Inquiry] = {}
        self._ended: dict[tuple[str, str], float] = {}

    def begin(self, key: CustomerKey, place: Replica) -> None:
        """Find out about a key in a place, now or as soon as it is time again."""
        of = key.name, place.name
        running = self._running.get(of)
        if running is not None:
            running.again = running.begun  # one that has not begun yet will see what this would
            return
        wait = self._ended.get(of, -self._pause) + self._pause - self._monotonic()
        task = asyncio.get_running_loop().create_task(self._inquire(key, place, max(0.0, wait)), name=f"ask of {of}")
        self._running[of] = _Inquiry(task, begun=wait <= 0)

    async def settled(self, key: CustomerKey, patience: float) -> None:
        """Wait for those inquiries about a key that are under way, for so many seconds at most."""
        running = [self._running.get((key.name, place.name)) for place in key.replicas]
        tasks = [one.task for one in running if one is not None and one.begun]
        if tasks and patience > 0:
            await asyncio.wait(tasks, timeout=patience)

    async def close(self) -> None:
        """End those that are under way."""
        tasks = [one.task for one in self._running.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _inquire(self, key: CustomerKey, place: Replica, wait: float) -> None:
        of = key.name, place.name
        try:
            if wait > 0:
                await asyncio.sleep(wait)
                self._running[of].begun = True
            await self._probe(key, place)
        except Exception:  # noqa: BLE001 - logged whole
            # A defect must not end with nobody knowing of it; the denial was told to its caller all the same.
            _log.exception("it could not be learnt what became of %s in %s", *of)
        finally:
            ended = self._running.pop(of)
            self._note_end(of)
        if ended.again:
            self.begin(key, place)

    def _note_end(self, of: tuple[str, str]) -> None:
        now = self._monotonic()
        if len(self._ended) > MANY:
            self._ended = {other: at for other, at in self._ended.items() if now - at < self._pause}
        self._ended[of] = now
